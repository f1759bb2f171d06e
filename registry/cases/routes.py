"""Cases over HTTP."""

from __future__ import annotations

import json
from os import SEEK_END
from typing import Annotated, Any, Literal

from flask import Response, make_response, request
from flask_openapi3 import APIBlueprint, RawModel, Tag
from pydantic import Field, StringConstraints

from registry.accounts.permissions import Permission
from registry.api import repeats
from registry.api.access import accepts, home, principal, requires
from registry.api.document import problem
from registry.api.files import attachment
from registry.api.pages import PageQuery, page
from registry.api.problems import Problem
from registry.api.schemas import LARGEST, WHOLE, Body, Path, Query, Reply, Text
from registry.cases import checking, reporting, service, showing
from registry.cases import images as case_images
from registry.cases.models import Case, CaseEvent, CaseFinding, CaseImage, CaseNote
from registry.cases.service import Status
from verifier.evidence import ALPHA

cases = APIBlueprint(
    "cases",
    __name__,
    url_prefix="/api/v1/cases",
    abp_tags=[Tag(name="cases", description="Investigations: images, findings, notes, the signed report.")],
)

Prose = Annotated[
    str, StringConstraints(max_length=service.LONGEST_TEXT, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$")
]
Title = Annotated[
    str, StringConstraints(min_length=1, max_length=service.LONGEST_TITLE, pattern=r"^[^\x00-\x1f\x7f]+$")
]
PersonName = Annotated[str, StringConstraints(max_length=63, pattern=r"^([a-z0-9][a-z0-9._-]*)?$")]
ImageId = Annotated[str, StringConstraints(pattern=r"^image-[0-9a-f]{16}$")]
FindingId = Annotated[str, StringConstraints(pattern=r"^finding-[0-9a-f]{16}$")]
NoteId = Annotated[str, StringConstraints(pattern=r"^note-[0-9a-f]{16}$")]


class CaseCounts(Reply):
    """How much there is, findings by state."""

    images: int
    notes: int
    waiting: int
    done: int
    failed: int


class CaseReply(Reply):
    """An investigation. `version` goes with every edit, `alpha` is shared by all of its findings."""

    id: str
    title: str
    description: str
    status: Status
    assigned_to: str | None
    alpha: float
    disclosed: bool
    version: int
    created_by: str
    created_at: str
    changed_at: str
    closed_at: str | None
    erased_at: str | None
    counts: CaseCounts


class CasePage(Reply):
    """Cases, newest first."""

    items: list[CaseReply]
    next: str | None


class CaseImageReply(Reply):
    """An image; its hash is in the ledger at `ledger_index`."""

    id: str
    name: str
    sha256: str
    size: int
    width: int
    height: int
    notes: list[str]
    added_by: str
    added_at: str
    ledger_index: int


class CaseImagePage(Reply):
    """Images of a case."""

    items: list[CaseImageReply]
    next: str | None


class ReceivedReply(Reply):
    """What became of one file of an upload: an image of the case, or why not."""

    name: str
    image: str | None
    error: str | None


class UploadedReply(Reply):
    """Every file of the upload, in its order."""

    files: list[ReceivedReply]


class TimestampReply(Reply):
    """The signed record of the images' hashes, and the proof that it is in the ledger."""

    document: dict[str, Any]
    inclusion: dict[str, Any]


class CaseFindingReply(Reply):
    """A finding of a case, with as much of it as you may see; `finding` is `hallmark/finding/1` once done."""

    id: str
    state: Literal["waiting", "done", "failed"]
    round: int
    images: list[str]
    requested_by: str
    requested_at: str
    found_at: str | None
    keys_before: int = Field(description="Keys from this entry of the ledger on were left out.")
    error: str | None
    finding: dict[str, Any] | None
    statement: str | None
    chance: str | None
    resolution: str | None = Field(description="For asking who a recipient is.")
    runner_up: dict[str, Any] | None


class CaseFindingPage(Reply):
    """Findings of a case, newest first."""

    items: list[CaseFindingReply]
    next: str | None


class StartedReply(Reply):
    """The findings that a check will make."""

    findings: list[str]


class NoteReply(Reply):
    """A note."""

    id: str
    text: str
    author: str
    written_at: str


class NotePage(Reply):
    """Notes, newest first."""

    items: list[NoteReply]
    next: str | None


class CaseEventReply(Reply):
    """A line of the audit trail."""

    at: str
    actor: str
    kind: str
    detail: dict[str, Any]


class CaseEventPage(Reply):
    """The audit trail, newest first."""

    items: list[CaseEventReply]
    next: str | None


class CaseQuery(PageQuery):
    """Which cases."""

    status: Status | None = None


class NewCase(Body):
    """A case to open. `alpha` bounds the probability that any of its findings names somebody falsely."""

    title: Title
    description: Prose = ""
    alpha: Annotated[float, Field(ge=1e-30, le=ALPHA)] = ALPHA


class CaseEdit(Body):
    """What to change. `version` is the one you saw: if it is another by now, nothing is changed (409)."""

    version: Annotated[int, Field(ge=1, le=LARGEST), WHOLE]
    title: Title | None = None
    description: Prose | None = None
    status: Literal["open", "disputed", "closed"] | None = None
    assigned_to: Annotated[PersonName | None, Field(description="A person's name; empty: nobody.")] = None


class Disclosure(Body):
    """Whether all readers of the case see bits and bounds of its findings."""

    disclosed: bool


class NewNote(Body):
    """What you want to write down."""

    text: Annotated[Prose, Field(min_length=1)]


class NewCheck(Body):
    """What to test: each image by itself, or all of them `as_set`."""

    images: Annotated[
        list[ImageId] | None,
        Field(min_length=1, max_length=case_images.MOST_IMAGES, description="All untested ones if empty."),
    ] = None
    as_set: bool = False


class NewReport(Body):
    """What goes into a report besides the case."""

    format: Literal["html", "pdf"] = "pdf"
    notes: Annotated[list[NoteId], Field(max_length=200, default_factory=list)]
    findings: Annotated[
        list[FindingId] | None, Field(min_length=1, max_length=500, description="All if empty.")
    ] = None


class CasePath(Path):
    """Which case."""

    case_id: Annotated[str, StringConstraints(pattern=r"^case-[0-9a-f]{16}$")]


class CaseImagePath(CasePath):
    """Which image."""

    image_id: ImageId


class ImageQuery(Query):
    """How the file is called."""

    name: Text = "image"


class ImageBody(RawModel):
    """The bytes of an image or of a zip archive of images."""

    mimetypes = ["application/octet-stream"]  # noqa: RUF012  (flask-openapi3's own form)


@cases.get("", responses={200: CasePage})
@requires(Permission.RESOLVE)
def list_cases(query: CaseQuery) -> dict[str, Any]:
    """Cases of your organisation."""
    chosen = service.select_cases(principal().organisation, query.status)
    with home().database.read() as session:
        rows, more = page(session, chosen, Case.id, query)
        return {"items": service.describe_all(session, rows), "next": more}


@cases.post("", responses={201: CaseReply})
@requires(Permission.RESOLVE)
def open_case(header: repeats.RepeatHeader, body: NewCase) -> Response:  # noqa: ARG001
    """Open a case."""

    def work(keep: repeats.Keep) -> str:
        def kept(session: Any, case: Case) -> str:
            text = json.dumps(service.describe(session, case))
            keep(session, text)
            return text

        return service.open_case_with(home(), principal(), body.title, body.description, body.alpha, kept)

    return repeats.once(home(), principal().organisation, 201, work)


@cases.get("/<case_id>", responses={200: CaseReply})
@requires(Permission.RESOLVE)
def show_case(path: CasePath) -> dict[str, Any]:
    """One case."""
    with home().database.read() as session:
        return service.describe(session, _case(session, path))


@cases.patch("/<case_id>", responses={200: CaseReply, 409: problem("It was changed meanwhile")})
@requires(Permission.RESOLVE)
def edit_case(path: CasePath, body: CaseEdit) -> dict[str, Any]:
    """Change title, description, status or assignment."""
    service.edit(
        home(),
        principal(),
        path.case_id,
        seen=body.version,
        title=body.title,
        description=body.description,
        status=None if body.status is None else Status(body.status),
        assigned_to=body.assigned_to,
    )
    return _described(path)


@cases.put("/<case_id>/disclosure", responses={200: CaseReply})
@requires(Permission.EXPORT_BUNDLES)
def disclose(path: CasePath, body: Disclosure) -> dict[str, Any]:
    """Show bits and bounds to all readers of the case, or no longer. They tell about keys."""
    service.disclose(home(), principal(), path.case_id, body.disclosed)
    return _described(path)


@cases.delete("/<case_id>/images", responses={200: CaseReply, 409: problem("It is not closed")})
@requires(Permission.RESOLVE)
def erase_images(path: CasePath) -> dict[str, Any]:
    """Remove the images of a closed case and their names; findings and hashes stay."""
    service.erase(home(), principal(), path.case_id)
    return _described(path)


@cases.get("/<case_id>/images", responses={200: CaseImagePage})
@requires(Permission.RESOLVE)
def list_images(path: CasePath, query: PageQuery) -> dict[str, Any]:
    """The images of a case."""
    with home().database.read() as session:
        chosen = service.select_images(_case(session, path))
        rows, more = page(session, chosen, CaseImage.id, query, newest_first=False)
        return {"items": [service.describe_image(session, row) for row in rows], "next": more}


@cases.post(
    "/<case_id>/images",
    responses={200: UploadedReply, 409: problem("The case is closed"), 413: problem("Too large")},
)
@requires(Permission.RESOLVE)
@accepts(case_images.LARGEST_UPLOAD)
def add_images(path: CasePath, query: ImageQuery, raw: ImageBody) -> dict[str, Any]:  # noqa: ARG001
    """Add an image, or all images of a zip archive. Their hashes go into the ledger at once."""
    with home().database.read() as session:
        _case(session, path)
    data = request.get_data(cache=False)
    expected = request.content_length
    if expected is not None and len(data) < expected:
        raise Problem(400, "the upload broke off.", "Send it again: nothing of it was kept.")
    received = case_images.add(home(), principal(), path.case_id, [(query.name, data)])
    return {"files": [{"name": each.name, "image": each.image_id, "error": each.error} for each in received]}


@cases.get(
    "/<case_id>/images/<image_id>",
    responses={
        200: {"description": "The file", "content": {"application/octet-stream": {"schema": {}}}},
        404: problem("There is no such image, or it was erased"),
    },
)
@requires(Permission.RESOLVE)
def image_file(path: CaseImagePath) -> Response:
    """The file of an image, as it was uploaded."""
    with home().database.read() as session:
        case = _case(session, path)
        image = service.get_image(session, case, path.image_id)
        if case.erased_at is not None:
            raise Problem(404, "the images of this case were erased.", "Its findings remain.")
    content = home().storage.open(case_images.content_name(path.case_id, image.sha256))
    size = content.seek(0, SEEK_END)
    content.seek(0)
    return attachment(content, size, "application/octet-stream", image.image_id)


@cases.get("/<case_id>/images/<image_id>/timestamp", responses={200: TimestampReply})
@requires(Permission.RESOLVE)
def image_timestamp(path: CaseImagePath) -> dict[str, Any]:
    """That the image was at hand when it was: the signed record and its place in the ledger."""
    with home().database.read() as session:
        image = service.get_image(session, _case(session, path), path.image_id)
        return service.prove_timestamp(home(), session, image)


@cases.post(
    "/<case_id>/checks",
    responses={202: StartedReply, 409: problem("It is closed, or there is nothing to check")},
)
@requires(Permission.RESOLVE)
def check(path: CasePath, body: NewCheck) -> tuple[dict[str, Any], int]:
    """Test images, in a job. Each check takes a share of the case's alpha: check many images together."""
    made = checking.start(home(), principal(), path.case_id, images=body.images, as_set=body.as_set)
    return {"findings": made}, 202


@cases.get("/<case_id>/findings", responses={200: CaseFindingPage})
@requires(Permission.RESOLVE)
def list_findings(path: CasePath, query: PageQuery) -> dict[str, Any]:
    """The findings of a case."""
    with home().database.read() as session:
        case = _case(session, path)
        rows, more = page(session, service.select_findings(case), CaseFinding.id, query)
        found = showing.findings(home(), session, principal(), case, rows)
        return {"items": [each.document() for each in found], "next": more}


@cases.get("/<case_id>/notes", responses={200: NotePage})
@requires(Permission.RESOLVE)
def list_notes(path: CasePath, query: PageQuery) -> dict[str, Any]:
    """The notes of a case."""
    with home().database.read() as session:
        rows, more = page(session, service.select_notes(_case(session, path)), CaseNote.id, query)
        return {"items": [service.describe_note(row) for row in rows], "next": more}


@cases.post("/<case_id>/notes", responses={201: NoteReply})
@requires(Permission.RESOLVE)
def add_note(path: CasePath, body: NewNote) -> tuple[dict[str, Any], int]:
    """Write a note. Notes are added, never changed."""
    return service.describe_note(service.note(home(), principal(), path.case_id, body.text)), 201


@cases.get("/<case_id>/events", responses={200: CaseEventPage})
@requires(Permission.RESOLVE)
def list_events(path: CasePath, query: PageQuery) -> dict[str, Any]:
    """The audit trail of a case."""
    with home().database.read() as session:
        rows, more = page(session, service.select_trail(_case(session, path)), CaseEvent.id, query)
        return {"items": [service.describe_event(row) for row in rows], "next": more}


@cases.post(
    "/<case_id>/report",
    responses={
        200: {
            "description": "The report",
            "content": {kind: {"schema": {}} for kind in reporting.MEDIA_TYPES.values()},
        },
        409: problem("It has no finding yet"),
    },
)
@requires(Permission.RESOLVE)
def make_report(path: CasePath, body: NewReport) -> Response:
    """The report of a case, signed by the registry, with what you may see."""
    name, content = reporting.make(
        home(), principal(), path.case_id, body.format, notes=body.notes, findings=body.findings
    )
    response = make_response(content)
    response.mimetype = reporting.MEDIA_TYPES[body.format]
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _case(session: Any, path: CasePath) -> Case:
    return service.get_case(session, path.case_id, principal().organisation)


def _described(path: CasePath) -> dict[str, Any]:
    with home().database.read() as session:
        return service.describe(session, _case(session, path))
