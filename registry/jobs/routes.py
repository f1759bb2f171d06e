"""Jobs over HTTP: start, list, follow, cancel, try again, take the files."""

from __future__ import annotations

import json
import threading
from typing import Annotated, Any, Literal

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field, RootModel, StringConstraints

from registry.accounts.permissions import Permission
from registry.api import repeats
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.files import attachment
from registry.api.pages import PageQuery, page
from registry.api.problems import Problem
from registry.api.schemas import LARGEST, Body, Described, Path, Query, Reply
from registry.attribution.jobs import StudyModel, TrainModel
from registry.bundles.jobs import ExportBundle
from registry.errors import NotFoundError
from registry.generators import service as generators
from registry.generators.jobs import ExportModel, PictureModel
from registry.jobs import events, kinds, service
from registry.jobs.models import Job
from registry.jobs.running import file_name
from registry.jobs.service import State
from verifier.bundle import utc

jobs = APIBlueprint(
    "jobs",
    __name__,
    url_prefix="/api/v1/jobs",
    abp_tags=[Tag(name="jobs", description="Work in the background: training, studies, exports.")],
)

MOST_STREAMS = 8
"""Event streams of one server process: each holds a thread as long as it lasts."""
LONGEST_STREAM = 300
MOST_LINES = 1_000

_streams = threading.BoundedSemaphore(MOST_STREAMS)


class StartTraining(Body):
    """Train a model's attribution network."""

    kind: Literal["train-model"]
    arguments: TrainModel


class StartStudy(Body):
    """Study a model's design space."""

    kind: Literal["study-model"]
    arguments: StudyModel


class StartModelExport(Body):
    """Export a model's attribution network."""

    kind: Literal["export-model"]
    arguments: ExportModel


class StartPictures(Body):
    """Draw what a model's fingerprint does to its images."""

    kind: Literal["picture-model"]
    arguments: PictureModel


class StartBundleExport(Body):
    """Export a bundle without keys."""

    kind: Literal["export-bundle"]
    arguments: ExportBundle


Startable = StartTraining | StartStudy | StartModelExport | StartPictures | StartBundleExport


class NewJob(RootModel[Annotated[Startable, Field(discriminator="kind")]]):
    """A job to start."""


class ProgressReply(Reply):
    """How far a job is: the loop that it is in, and what is done of its total (0: not known)."""

    stage: str
    done: int
    total: int


class JobReply(Reply):
    """A job."""

    job_id: str
    kind: str
    state: State
    arguments: dict[str, Any]
    requested_by: str
    progress: ProgressReply
    attempts: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    cancelling: bool = Field(description="It was asked to stop and does so after its present step.")
    result: dict[str, Any] | None = Field(description="Of a job that is done; `files` can be taken.")
    error: str | None


class JobPage(Reply):
    """Jobs, newest first."""

    items: list[JobReply]
    next: str | None


class LineReply(Reply):
    """One line of a log."""

    number: int
    at: str
    text: str


class LogReply(Reply):
    """Lines of a log, oldest first; `after` the last number asks for the rest."""

    lines: list[LineReply]


class JobQuery(PageQuery):
    """Which jobs."""

    state: State | None = None


class JobPath(Path):
    """Which job."""

    job_id: Annotated[str, StringConstraints(pattern=r"^job-[0-9a-f]{24}$")]


class FilePath(JobPath):
    """Which file of a job's result."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class LogQuery(Query):
    """Which lines."""

    after: Annotated[int, Field(ge=0, le=LARGEST, description="The number of the last line seen.")] = 0
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = 500


class EventQuery(Query):
    """How long to listen."""

    seconds: Annotated[int, Field(ge=1, le=LONGEST_STREAM, description="The stream ends then at last.")] = 60


class EventHeader(Described):
    """Where a stream that broke off goes on."""

    last_event_id: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9]{0,15}$"),
        Field(alias="Last-Event-ID", description="The `id` of the last event seen."),
    ] = ""


@jobs.get("", responses={200: JobPage})
@requires(Permission.READ_JOBS)
def list_jobs(query: JobQuery) -> dict[str, Any]:
    """Jobs of your organisation."""
    chosen = service.select_jobs(principal().organisation, query.state)
    with home().database.read() as session:
        rows, more = page(session, chosen, Job.id, query)
        return {"items": [service.describe(row) for row in rows], "next": more}


@jobs.post("", responses={202: JobReply, 404: problem("No such model")})
@requires(Permission.RUN_JOBS)
def start_job(header: repeats.RepeatHeader, body: NewJob) -> Response:  # noqa: ARG001
    """Start a job. What it does needs its own permission too, as if you did it at once."""
    wanted = body.root
    principal().require(kinds.kind(wanted.kind).permission)
    return started(wanted.kind, wanted.arguments, wanted.arguments.model)


def started(kind: str, arguments: Body, model: str | None = None) -> Response:
    """The answer to a request for a job: 202 and the job, once for each idempotency key.

    :class:`NotFoundError` where the organisation has no ``model``.
    """
    owner = principal().organisation

    def work(keep: repeats.Keep) -> str:
        with home().database.write() as session:
            if model is not None:
                generators.get_model(session, model, owner)
            job = service.enqueue(session, owner, kind, arguments, principal())
            answer = json.dumps(service.describe(job))
            keep(session, answer)
        return answer

    return repeats.once(home(), owner, 202, work)


@jobs.get("/<job_id>", responses={200: JobReply})
@requires(Permission.READ_JOBS)
def show_job(path: JobPath) -> dict[str, Any]:
    """One job."""
    with home().database.read() as session:
        return service.describe(service.get_job(session, path.job_id, principal().organisation))


@jobs.post("/<job_id>/cancel", responses={202: JobReply, 409: problem("It has ended")})
@requires(Permission.RUN_JOBS)
def cancel_job(path: JobPath) -> tuple[dict[str, Any], int]:
    """Stop a job: at once if it waits, else between two of its steps. What is done is kept."""
    with home().database.write() as session:
        job = service.get_job(session, path.job_id, principal().organisation)
        service.cancel(session, job)
        return service.describe(job), 202


@jobs.post("/<job_id>/retry", responses={202: JobReply, 409: problem("It neither failed nor was cancelled")})
@requires(Permission.RUN_JOBS)
def retry_job(path: JobPath) -> tuple[dict[str, Any], int]:
    """Queue a job again that failed or was cancelled; it goes on from what it kept."""
    with home().database.write() as session:
        job = service.get_job(session, path.job_id, principal().organisation)
        principal().require(kinds.kind(job.kind).permission)
        service.retry(session, job)
        return service.describe(job), 202


@jobs.get("/<job_id>/logs", responses={200: LogReply})
@requires(Permission.READ_JOBS)
def job_log(path: JobPath, query: LogQuery) -> dict[str, Any]:
    """The log of a job."""
    with home().database.read() as session:
        job = service.get_job(session, path.job_id, principal().organisation)
        found = service.lines(session, job, query.after, query.limit)
        return {"lines": [{"number": line.id, "at": utc(line.at), "text": line.text} for line in found]}


@jobs.get(
    "/<job_id>/events",
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {}}}},
        204: None,
    },
)
@requires(Permission.READ_JOBS)
def job_events(path: JobPath, query: EventQuery, header: EventHeader) -> Response:
    """Follow a job: events `log`, `progress` and, last, `end`.

    The stream ends after `seconds` at the latest; come back with `Last-Event-ID`, as browsers do by
    themselves. 204 says that there is nothing more to come.
    """
    after = int(header.last_event_id or 0)
    with home().database.read() as session:
        job = service.get_job(session, path.job_id, principal().organisation)
        over = job.state in service.ENDED and not service.lines(session, job, after, 1)
    if over and header.last_event_id:
        return Response(status=204)
    if not _streams.acquire(blocking=False):
        raise Problem(503, "too many streams are open.", "Try again in a moment.", {"Retry-After": "5"})
    response = Response(
        events.follow(home(), job.id, after, query.seconds),
        mimetype="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )
    response.call_on_close(_streams.release)
    return response


@jobs.get(
    "/<job_id>/files/<name>",
    responses={
        200: {"description": "The file", "content": {"application/octet-stream": {"schema": {}}}},
        404: problem("There is no such job or file"),
    },
)
@requires(Permission.READ_JOBS)
def job_file(path: FilePath) -> Response:
    """Take a file of a job's result; needs the permission that the job needed."""
    with home().database.read() as session:
        job = service.get_job(session, path.job_id, principal().organisation)
        principal().require(kinds.kind(job.kind).permission)
        files = (service.describe(job)["result"] or {}).get("files", [])
    entry = next((entry for entry in files if entry["name"] == path.name), None)
    if entry is None:
        raise NotFoundError(f"{path.job_id} left no file {path.name}.", "See `files` in its result.")
    content = home().storage.open(file_name(path.job_id, path.name))
    response = attachment(content, entry["size"], "application/octet-stream", path.name)
    response.set_etag(entry["sha256"])
    return response
