"""Cases in the console: images dropped in, findings as they are made, notes, the trail, the report."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint, Response, make_response, redirect, request, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import people
from registry.accounts.models import Person
from registry.accounts.permissions import Permission
from registry.api.access import accepts, home, principal, requires
from registry.api.problems import Problem
from registry.api.shutdown import stopping
from registry.cases import checking, reporting, service, showing
from registry.cases import images as case_images
from registry.cases.models import Case, CaseEvent, CaseFinding, CaseFindingImage
from registry.cases.service import Status
from registry.cases.showing import Shown
from registry.console.page import Answer, Form, done, listing, render, saved
from registry.home import Home
from registry.resolve import unmasking
from registry.resolve.models import Resolution, Unmasking
from verifier import words
from verifier.report.figures import bit_figure

pages = Blueprint("case_pages", __name__, url_prefix="/console/cases", template_folder="templates")

STATES = (("", "Any state"), ("open", "Open"), ("disputed", "Disputed"), ("closed", "Closed"))
MOST_STREAMS = 4
"""Event streams of one server process, beside those of jobs: each holds a thread as long as it lasts."""
STREAM_SECONDS = 60.0
POLL_SECONDS = 0.5
TRAIL, SHOWN = 100, 200

_streams = threading.BoundedSemaphore(MOST_STREAMS)


@pages.get("")
@requires(Permission.RESOLVE)
def index() -> str:
    """The organisation's cases, newest first."""
    form = Form(request.args)
    wanted = form.get("status")
    status = Status(wanted) if wanted in set(Status) else None
    with home().database.read() as session:
        found = listing(session, service.select_cases(principal().organisation, status), Case.id)
        described = found.each(service.describe_all(session, found.rows))
    return render("cases/index.html", cases=described, form=form, states=STATES, filtered=bool(wanted))


@pages.get("/new")
@requires(Permission.RESOLVE)
def new() -> str:
    """The form for a new case."""
    return render("cases/new.html", form=Form())


@pages.post("/new")
@requires(Permission.RESOLVE)
def create() -> Answer:
    """Open a case."""
    form = Form.sent()
    title = form.text("title", longest=service.LONGEST_TITLE)
    description = form.text("description", needed=False, longest=service.LONGEST_TEXT, lines=True)
    with form.refusals():
        if form.ok:
            made = service.open_case(home(), principal(), title, description)
            return done(url_for("case_pages.show", case_id=made.case_id), "The case is open. Add images.")
    return render("cases/new.html", form=form), 422


@pages.get("/<case_id>")
@requires(Permission.RESOLVE)
def show(case_id: str) -> str:
    """One case."""
    return _page(case_id, Form(), Form())


def _page(case_id: str, form: Form, note: Form) -> str:
    with home().database.read() as session:
        case = _case(session, case_id)
        described = service.describe(session, case)
        if not form.values:
            form.values = {name: described[name] or "" for name in ("title", "description", "status")}
            form.values["assigned_to"] = described["assigned_to"] or ""
        form.values["version"] = str(case.version)
        images = service.images(session, case)
        query = (
            select(CaseFindingImage.image_id)
            .join(CaseFinding, CaseFinding.id == CaseFindingImage.finding_id)
            .where(CaseFinding.investigation_id == case.id)
        )
        tested = set(session.execute(query).scalars())
        trail = session.execute(service.select_trail(case).order_by(CaseEvent.id.desc()).limit(TRAIL))
        return render(
            "cases/show.html",
            case=described,
            form=form,
            note_form=note,
            states=STATES[1:],
            people=[("", "Nobody"), *((one.name, one.name) for one in _people(session))],
            images=[service.describe_image(session, image) for image in images[:SHOWN]],
            more_images=max(0, len(images) - SHOWN),
            untested=sum(image.id not in tested for image in images),
            notes=[service.describe_note(row) for row in service.notes(session, case)],
            trail=[{**service.describe_event(row), "said": service.sentence(row)} for row in trail.scalars()],
            mark=service.mark(session, case),
            largest=case_images.LARGEST_UPLOAD,
            words=words,
            **_shown(session, case),
        )


def _people(session: Session) -> Sequence[Person]:
    found = people.people(session, principal().organisation)
    return [person for person in found if person.disabled_at is None]


def _shown(session: Session, case: Case) -> dict[str, Any]:
    """What the list of findings needs, newest first."""
    query = service.select_findings(case).order_by(CaseFinding.id.desc()).limit(SHOWN)
    rows = session.execute(query).scalars().all()
    found = showing.findings(home(), session, principal(), case, rows)
    return {
        "findings": found,
        "figure": bit_figure,
        "asked": _unmaskings(session, found),
        "may_disclose": Permission.EXPORT_BUNDLES in principal().permissions,
    }


def _unmaskings(session: Session, found: Sequence[Shown]) -> dict[tuple[str, str], dict[str, Any]]:
    """Requests for recipients, by resolution and key id."""
    resolutions = [each.resolution for each in found if each.resolution is not None]
    query = (
        unmasking.visible(principal().organisation)
        .join(Resolution, Resolution.id == Unmasking.resolution_id)
        .where(Resolution.resolution_id.in_(resolutions))
        .order_by(Unmasking.id)
    )
    described = [unmasking.describe(session, row) for row in session.execute(query).scalars()]
    return {(entry["resolution"], entry["key_id"]): entry for entry in described}


@pages.get("/<case_id>/findings")
@requires(Permission.RESOLVE)
def findings(case_id: str) -> str:
    """The list of findings alone, for the page that follows them."""
    with home().database.read() as session:
        case = _case(session, case_id)
        return render(
            "cases/findings.html", case=service.describe(session, case), words=words, **_shown(session, case)
        )


@pages.get("/<case_id>/events")
@requires(Permission.RESOLVE)
def events(case_id: str) -> Response:
    """Server-sent events: `change` whenever something happens to the case."""
    with home().database.read() as session:
        case = _case(session, case_id)
    if not _streams.acquire(blocking=False):
        raise Problem(503, "too many streams are open.", "Try again in a moment.", {"Retry-After": "5"})
    seen = request.headers.get("Last-Event-ID") or request.args.get("seen", "0")
    response = Response(
        _follow(home(), case, int(seen) if seen.isdecimal() and len(seen) < 16 else 0),
        mimetype="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )
    response.call_on_close(_streams.release)
    return response


def _follow(registry: Home, case: Case, seen: int) -> Iterator[str]:
    started = time.monotonic()
    yield "retry: 1000\n\n"
    while time.monotonic() - started < STREAM_SECONDS:
        with registry.database.read() as session:
            mark = service.mark(session, case)
        if mark > seen:
            seen = mark
            yield f"event: change\nid: {mark}\ndata: {mark}\n\n"
        if stopping.wait(POLL_SECONDS):
            return


@pages.post("/<case_id>/images")
@requires(Permission.RESOLVE)
@accepts(case_images.LARGEST_UPLOAD)
def add_images(case_id: str) -> Answer:
    """Take files. A script sends them one by one and is told in JSON; a plain form sends them together."""
    with home().database.read() as session:
        _case(session, case_id)
    files = [(file.filename, file.stream.read()) for file in request.files.getlist("files") if file.filename]
    received = case_images.add(home(), principal(), case_id, files)
    if request.accept_mimetypes.best == "application/json":
        told = [{"name": each.name, "image": each.image_id, "error": each.error} for each in received]
        return saved(json.dumps({"files": told}), "files.json", "application/json")
    back, wrong = url_for("case_pages.show", case_id=case_id), [each for each in received if each.error]
    added = len(received) - len(wrong)
    if added:
        checking.start(home(), principal(), case_id)
    said = f"{added} of {len(received)} files were added." if received else "Choose files first."
    said = " ".join([said, *(f"{each.name}: {each.error}" for each in wrong)])
    return done(back, said, "warn" if wrong or not received else "good")


@pages.post("/<case_id>/check")
@requires(Permission.RESOLVE)
def check(case_id: str) -> Answer:
    """Test images: those that were not tested yet, or the chosen ones as a set."""
    form = Form.sent()
    as_set = form.flag("set")
    chosen = request.form.getlist("image") if as_set else None
    with form.refusals():
        checking.start(home(), principal(), case_id, images=chosen, as_set=as_set)
        return done(url_for("case_pages.show", case_id=case_id), "The check has begun.")
    return done(url_for("case_pages.show", case_id=case_id), form.problem or "", "bad")


@pages.post("/<case_id>/retry")
@requires(Permission.RESOLVE)
def retry(case_id: str) -> Answer:
    """Try failed findings again."""
    again = checking.retry(home(), principal(), case_id)
    return done(url_for("case_pages.show", case_id=case_id), f"{again} findings are tried again.")


@pages.post("/<case_id>/edit")
@requires(Permission.RESOLVE)
def edit(case_id: str) -> Answer:
    """Change a case, unless somebody else did since the form was shown."""
    with home().database.read() as session:
        _case(session, case_id)
    form = Form.sent()
    title = form.text("title", longest=service.LONGEST_TITLE)
    description = form.text("description", needed=False, longest=service.LONGEST_TEXT, lines=True)
    status, seen = form.choice("status", list(Status)), form.number("version", 1, 10**12)
    with form.refusals():
        if form.ok:
            service.edit(
                home(), principal(), case_id, seen=seen, title=title, description=description,
                status=Status(status), assigned_to=form.get("assigned_to"),
            )  # fmt: skip
            return done(url_for("case_pages.show", case_id=case_id), "The case is changed.")
    return _page(case_id, form, Form()), 422


@pages.post("/<case_id>/notes")
@requires(Permission.RESOLVE)
def add_note(case_id: str) -> Answer:
    """Write a note."""
    form = Form.sent()
    text = form.text("text", longest=service.LONGEST_TEXT, lines=True)
    if form.ok:
        service.note(home(), principal(), case_id, text)
        return done(url_for("case_pages.show", case_id=case_id) + "#notes", "The note is added.")
    return _page(case_id, Form(), form), 422


@pages.post("/<case_id>/disclosure")
@requires(Permission.EXPORT_BUNDLES)
def disclose(case_id: str) -> Answer:
    """Show bits and bounds to all readers of the case, or no longer."""
    disclosed = Form.sent().flag("disclosed")
    service.disclose(home(), principal(), case_id, disclosed)
    said = (
        "All readers of the case see its evidence." if disclosed else "Its evidence is for you alone again."
    )
    return done(url_for("case_pages.show", case_id=case_id), said)


@pages.post("/<case_id>/erase")
@requires(Permission.RESOLVE)
def erase(case_id: str) -> Answer:
    """Remove the images of a closed case."""
    form = Form.sent()
    with form.refusals():
        service.erase(home(), principal(), case_id)
        return done(url_for("case_pages.show", case_id=case_id), "The images and their names are removed.")
    return done(url_for("case_pages.show", case_id=case_id), form.problem or "", "bad")


@pages.post("/<case_id>/unmaskings")
@requires(Permission.REQUEST_UNMASKING)
def ask(case_id: str) -> Answer:
    """Ask the distributor who received a copy that a finding names, or look at his approved answer."""
    with home().database.read() as session:
        case = _case(session, case_id)
        known = showing.findings(home(), session, principal(), case)
    form = Form.sent()
    resolution, key_id = form.get("resolution"), form.get("key_id")
    back = url_for("case_pages.show", case_id=case_id)
    with home().database.read() as session:
        asked = _unmaskings(session, known).get((resolution, key_id))
    if asked is not None and asked["state"] == unmasking.APPROVED:
        told = unmasking.show(home(), principal(), asked["id"])["recipient"]
        return done(back, f"The copy was issued to {told['email']}. That you looked is logged.")
    reason = form.text("reason")
    with form.refusals():
        if form.ok:
            unmasking.request(home(), principal(), resolution, key_id, reason)
            return done(back, "The distributor is asked who received the copy.")
    return done(back, form.problem or "Give a reason.", "bad")


@pages.post("/<case_id>/report")
@requires(Permission.RESOLVE)
def report(case_id: str) -> Answer:
    """The signed report, to be saved."""
    form = Form.sent()
    with form.refusals():
        name, content = reporting.make(
            home(),
            principal(),
            case_id,
            "pdf" if form.get("format") == "pdf" else "html",
            notes=request.form.getlist("note"),
        )
        return saved(content, name, reporting.MEDIA_TYPES[name.rpartition(".")[2]])
    return done(url_for("case_pages.show", case_id=case_id), form.problem or "", "bad")


@pages.get("/<case_id>/images/<image_id>/thumbnail")
@requires(Permission.RESOLVE)
def thumbnail(case_id: str, image_id: str) -> Answer:
    """A small picture that we made ourselves; the file itself is never shown, only saved."""
    with home().database.read() as session:
        case = _case(session, case_id)
        image = service.get_image(session, case, image_id)
        if case.erased_at is not None:
            return redirect(url_for("case_pages.show", case_id=case_id))
    name = case_images.content_name(case_id, image.sha256) + case_images.THUMBNAIL
    response = make_response(home().storage.read(name))
    response.mimetype = "image/jpeg"
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


@pages.get("/<case_id>/images/<image_id>/timestamp.json")
@requires(Permission.RESOLVE)
def timestamp(case_id: str, image_id: str) -> Response:
    """That the image was at hand when it was: the signed record with its proof."""
    with home().database.read() as session:
        image = service.get_image(session, _case(session, case_id), image_id)
        proved = service.prove_timestamp(home(), session, image)
    return saved(json.dumps(proved, indent=1), f"{image_id}-timestamp.json", "application/json")


def _case(session: Session, case_id: str) -> Case:
    return service.get_case(session, case_id, principal().organisation)
