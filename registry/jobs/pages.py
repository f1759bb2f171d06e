"""Background jobs in the console: a list, one that is followed live, stopping and trying again."""

from __future__ import annotations

from flask import Blueprint, request, url_for

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.console.page import Answer, Form, done, listing, render
from registry.errors import NotFoundError
from registry.jobs import kinds, service
from registry.jobs.models import Job
from registry.jobs.service import State

pages = Blueprint("job_pages", __name__, url_prefix="/console/jobs", template_folder="templates")

_LINES = 500
_STATES = (("", "Any state"), *((state.value, state.value.capitalize()) for state in State))


@pages.get("")
@requires(Permission.READ_JOBS)
def index() -> Answer:
    """The organisation's jobs, newest first."""
    form = Form(request.args)
    wanted = State(form.get("state")) if form.get("state") in list(State) else None
    with home().database.read() as session:
        found = listing(session, service.select_jobs(principal().organisation, wanted), Job.id)
        rows = found.each([service.describe(row) for row in found])
    return render("jobs/index.html", jobs=rows, form=form, states=_STATES, filtered=wanted is not None)


@pages.get("/<job_id>")
@requires(Permission.READ_JOBS)
def show(job_id: str) -> Answer:
    """One job: how far it is, its log, and what it left."""
    with home().database.read() as session:
        job = service.get_job(session, job_id, principal().organisation)
        described = service.describe(job)
        lines = service.lines(session, job, most=_LINES)
    taken = kinds.kind(job.kind).permission in principal().permissions
    return render("jobs/show.html", job=described, lines=lines, taken=taken)


@pages.post("/<job_id>/<action>")
@requires(Permission.RUN_JOBS)
def change(job_id: str, action: str) -> Answer:
    """Stop a job, or try it again."""
    if action not in ("cancel", "retry"):
        raise NotFoundError(f"nothing is called {action} here.", "Go back to the job.")
    with home().database.write() as session:
        job = service.get_job(session, job_id, principal().organisation)
        if action == "retry":
            principal().require(kinds.kind(job.kind).permission)
        (service.cancel if action == "cancel" else service.retry)(session, job)
    said = "The job stops at its next step." if action == "cancel" else "The job is queued again."
    return done(url_for("job_pages.show", job_id=job_id), said)
