"""Copies and their deliveries over HTTP, for those who issue them. Recipients come by a link
(:mod:`registry.copies.recipient_routes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal

from flask import Response, make_response, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import security
from registry.accounts.permissions import Permission
from registry.api.access import account_settings, home, principal, public, requires
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import WHOLE, Body, KeyId, Path, Reply, Sha256, Text
from registry.copies import countersignatures, deliveries, links, openssf
from registry.copies.build import PreparedCopy, known_digests, plan, prepare
from registry.copies.deliveries import Part, Requester
from registry.copies.models import DeliveredCopy, Download, DownloadLink
from registry.copies.streaming import ARCHIVE_TYPE, FILE_TYPE, respond
from registry.errors import NotFoundError, StateError
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.keys.service import IssuedKey
from registry.storage import manifest_digest
from verifier.bundle import utc
from verifier.certificate import COPY_PREFIX

LINK_CREATED, LINK_WITHDRAWN = "link.created", "link.withdrawn"
_LONGEST_AGENT = 300

copies = APIBlueprint(
    "copies",
    __name__,
    url_prefix="/api/v1/copies",
    abp_tags=[Tag(name="copies", description="Copies: composed while they are sent, never stored.")],
)
downloads = APIBlueprint(
    "downloads",
    __name__,
    url_prefix="/api/v1/downloads",
    abp_tags=[Tag(name="downloads", description="Deliveries, receipts and countersignatures.")],
)
signing_key = APIBlueprint(
    "model-signing-key",
    __name__,
    url_prefix="/api/v1/model-signing-key",
    abp_tags=[Tag(name="copies")],
)

PEM_TYPE = "application/x-pem-file"
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


Responses = dict[str | int | HTTPStatus, type[BaseModel] | dict[Any, Any] | None]


def streamed(media_type: str) -> Responses:
    """The documented responses of a route that sends bytes."""
    content = {media_type: BINARY}
    return {
        200: {"description": "All of it", "content": content},
        206: {"description": "The range that was asked for", "content": content},
        304: {"description": "You have it"},
        409: problem("It is no longer delivered"),
        412: problem("It is not what it was"),
        416: problem("There are no such bytes"),
    }


class FileReply(Reply):
    """A file of a copy."""

    path: str
    size: int
    sha256: str | None = Field(description="Hex; null until it was computed once.")


class CopyReply(Reply):
    """A copy: what it consists of, as its manifest lists it."""

    copy_id: str
    key_id: str
    model: str
    size: int = Field(description="Bytes of all files together.")
    sha256: str | None = Field(description="The copy's digest, hex; null until it was computed once.")
    first_delivered_at: str | None
    files: list[FileReply]


class CopyPath(Path):
    """Which copy: its copy id or key id."""

    copy_id: KeyId


class FilePath(CopyPath):
    """Which file of it."""

    path: Text


LinkId = Annotated[str, StringConstraints(pattern=r"^link-[0-9a-f]{24}$")]
DownloadId = Annotated[str, StringConstraints(pattern=r"^download-[0-9a-f]{24}$")]


class LinkPath(CopyPath):
    """Which of its links."""

    link_id: LinkId


class NewLink(Body):
    """A download link to make."""

    hours: Annotated[int, Field(ge=1, le=links.LONGEST_HOURS, description="How long it holds."), WHOLE] = (
        links.DEFAULT_HOURS
    )


class LinkReply(Reply):
    """A download link as lists show it."""

    link_id: str
    copy_id: str
    created_by: str
    created_at: str
    expires_at: str
    used_at: str | None
    withdrawn_at: str | None


class NewLinkReply(LinkReply):
    """A new link: its address is shown this once."""

    url: str


class LinkPage(Reply):
    """Links, newest first."""

    items: list[LinkReply]
    next: str | None


class DownloadPath(Path):
    """Which delivery."""

    download_id: DownloadId


class DownloadQuery(PageQuery):
    """Which deliveries."""

    copy_id: KeyId | None = None
    state: Literal["started", "delivered", "aborted"] | None = None


class DownloadReply(Reply):
    """A delivery: who asked, from where, when, how much was sent."""

    download_id: str
    copy_id: str
    form: str = Field(description="`archive`, single `files`, or a `folder` on the registry's machine.")
    state: str
    actor: str
    origin: str
    user_agent: str
    link_id: str | None
    started_at: str
    ended_at: str | None
    bytes_sent: int | None = Field(description="Null where it was written to a folder.")
    size: int | None
    sha256: str | None
    ledger_index: int | None
    countersigned: bool


class DownloadPage(Reply):
    """Deliveries, newest first."""

    items: list[DownloadReply]
    next: str | None


class ReceiptReply(Reply):
    """A signed receipt, as it is logged."""

    receipt: dict[str, Any]


class CountersignatureBody(Body):
    """The recipient's confirmation, as `verifier countersign` prints it."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=False)

    schema_name: Literal["hallmark/countersignature/1"] = Field(alias="schema")
    registry: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    download_id: DownloadId
    receipt: Sha256
    signature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class CountersignatureReply(Reply):
    """The recipient's confirmation, as it is logged."""

    countersignature: dict[str, Any]


@copies.get("/<copy_id>", responses={200: CopyReply})
@requires(Permission.DOWNLOAD)
def show_copy(path: CopyPath) -> dict[str, Any]:
    """What a copy consists of."""
    key = find_key(path.copy_id)
    laid_out = plan(home(), key)
    known = known_digests(home(), key, laid_out)
    with home().database.read() as session:
        recorded = session.get(DeliveredCopy, key.row.id)
    return {
        "copy_id": COPY_PREFIX + key.row.key_id.hex(),
        "key_id": key.row.key_id.hex(),
        "model": key.model.label,
        "size": laid_out.size,
        "sha256": recorded.sha256.hex() if recorded else _digest(laid_out.files, known),
        "first_delivered_at": utc(recorded.first_delivered_at) if recorded else None,
        "files": [
            {"path": name, "size": layout.size, "sha256": known.get(name)}
            for name, layout in laid_out.files.items()
        ],
    }


@copies.get("/<copy_id>/archive", responses=streamed(ARCHIVE_TYPE))
@requires(Permission.DOWNLOAD)
def download_archive(path: CopyPath) -> Response:
    """Download a copy as a tar archive.

    Every byte is the same at every request: a download that broke off is resumed with `Range: bytes=N-`
    and `If-Range` with the `ETag`. Requests that belong together count as one delivery.
    """
    key = _deliverable(path.copy_id)
    copy = prepare(home(), key)
    return send_archive(key, copy, _requester())


@copies.get("/<copy_id>/files/<path:path>", responses=streamed(FILE_TYPE))
@requires(Permission.DOWNLOAD)
def download_file(path: FilePath) -> Response:
    """Download one file of a copy; the copy is delivered once all that it lists were sent.

    `hallmark.json`, the registry's signed list of the files, and `model.sig`, the OpenSSF model-signing
    signature, are files too. `Repr-Digest` has the SHA-256 of the whole file.
    """
    key = _deliverable(path.copy_id)
    return send_file(key, prepare(home(), key), path.path, _requester())


@copies.get("/<copy_id>/links", responses={200: LinkPage})
@requires(Permission.DOWNLOAD)
def list_links(path: CopyPath, query: PageQuery) -> dict[str, Any]:
    """Download links of a copy."""
    key = find_key(path.copy_id)
    chosen = select(DownloadLink).where(DownloadLink.user_key_id == key.row.id)
    with home().database.read() as session:
        rows, more = page(session, chosen, DownloadLink.id, query)
        return {"items": [_describe_link(row, key) for row in rows], "next": more}


@copies.post(
    "/<copy_id>/links", responses={201: NewLinkReply, 409: problem("The copy is no longer delivered")}
)
@requires(Permission.DOWNLOAD)
def create_link(path: CopyPath, body: NewLink) -> tuple[dict[str, Any], int]:
    """Make a link with which the recipient downloads his copy once, without an account.

    It ends with the first complete download, when it expires or when it is withdrawn; until then a
    download that broke off can be resumed with it.
    """
    key = find_key(path.copy_id)
    row, url = new_link(key, body.hours)
    return {**_describe_link(row, key), "url": url}, 201


@copies.delete("/<copy_id>/links/<link_id>", responses={204: {"description": "It is withdrawn"}})
@requires(Permission.DOWNLOAD)
def withdraw_link(path: LinkPath) -> Response:
    """Withdraw a link; a download that goes on with it is stopped."""
    end_link(find_key(path.copy_id), path.link_id)
    return make_response("", 204)


@downloads.get("", responses={200: DownloadPage})
@requires(Permission.DOWNLOAD)
def list_downloads(query: DownloadQuery) -> dict[str, Any]:
    """Deliveries of your organisation's copies, also those that broke off."""
    chosen = deliveries.select_downloads(principal().organisation)
    if query.copy_id is not None:
        chosen = chosen.where(Download.user_key_id == find_key(query.copy_id).row.id)
    if query.state is not None:
        chosen = chosen.where(Download.state == query.state)
    with home().database.read() as session:
        rows, more = page(session, chosen, Download.id, query)
        return {"items": [deliveries.describe(row) for row in rows], "next": more}


@downloads.get("/<download_id>", responses={200: DownloadReply})
@requires(Permission.DOWNLOAD)
def show_download(path: DownloadPath) -> dict[str, Any]:
    """One delivery."""
    settled(path.download_id)
    with home().database.read() as session:
        return deliveries.describe(_find(session, path.download_id))


@downloads.get("/<download_id>/receipt", responses={200: ReceiptReply, 409: problem("It is not complete")})
@requires(Permission.DOWNLOAD)
def show_receipt(path: DownloadPath) -> dict[str, Any]:
    """The signed receipt of a complete delivery."""
    download, key = settled(path.download_id)
    return {"receipt": receipt_of(download, key.row)}


@downloads.get("/<download_id>/countersignature", responses={200: CountersignatureReply})
@requires(Permission.DOWNLOAD)
def show_countersignature(path: DownloadPath) -> dict[str, Any]:
    """The recipient's own signature under the receipt."""
    with home().database.read() as session:
        row = _find(session, path.download_id)
        found = countersignatures.find(session, home().identity.registry, row.Download)
    if found is None:
        raise NotFoundError("the recipient has not confirmed this receipt.")
    return {"countersignature": found}


@downloads.put(
    "/<download_id>/countersignature",
    responses={200: CountersignatureReply, 409: problem("There is no receipt, or no key of the recipient")},
)
@requires(Permission.DOWNLOAD)
def countersign(path: DownloadPath, body: CountersignatureBody) -> dict[str, Any]:
    """Log the confirmation that the recipient signed with his own key."""
    download, key = settled(path.download_id)
    return add_countersignature(download, key.row, body)


@signing_key.get(
    "",
    responses={
        200: {"description": "PEM", "content": {"application/x-pem-file": {"schema": {"type": "string"}}}}
    },
)
@public
def model_signing_key() -> Response:
    """The public key of `model.sig` in copies: EC P-256, PEM, for `model_signing verify key`."""
    return Response(openssf.public_key(home()), content_type=PEM_TYPE)


def send_archive(key: IssuedKey, copy: PreparedCopy, requester: Requester) -> Response:
    """The response with the archive of a copy."""
    part = Part.archive(copy)
    return respond(home(), key, copy, requester, part, name=f"{copy.copy_id}.tar", tag=part.tag)


def send_file(key: IssuedKey, copy: PreparedCopy, path: str, requester: Requester) -> Response:
    """The response with one file of a copy; :class:`NotFoundError` if it has none of this path."""
    file = copy.files.get(path)
    if file is None:
        raise NotFoundError("the copy has no such file.", "See the list of its files.")
    return respond(
        home(),
        key,
        copy,
        requester,
        Part.file(copy, path),
        name=path.rpartition("/")[2],
        tag=file.sha256,
        sha256=file.sha256,
    )


def requester(
    actor: str, *, token: int | None = None, person: int | None = None, link: int | None = None
) -> Requester:
    """Who makes the present request, and from where."""
    agent = request.headers.get("User-Agent", "")[:_LONGEST_AGENT]
    return Requester(
        actor,
        origin=request.remote_addr or "unknown",
        user_agent="".join(c if c.isprintable() else "?" for c in agent),
        token=token,
        person=person,
        link=link,
    )


def new_link(key: IssuedKey, hours: int) -> tuple[DownloadLink, str]:
    """A link for a copy, and its address."""
    deliveries.refuse(key)
    prepare(home(), key)  # so that the recipient need not wait
    row, secret = links.create(home(), key, principal().label, hours)
    with home().database.write() as session:  # not `security.log`, which drops what comes too often
        security.record(session, LINK_CREATED, link=row.link_id, copy_id=copy_id(key))
    return row, link_url(secret)


def end_link(key: IssuedKey, link_id: str) -> None:
    """Withdraw a link of a copy."""
    with home().database.write() as session:
        links.withdraw(session, principal().organisation, key.row, link_id)
        security.record(session, LINK_WITHDRAWN, link=link_id, copy_id=copy_id(key))


def link_url(secret: str) -> str:
    """The address of a link, as its recipient opens it."""
    return f"{(account_settings().url or request.host_url).rstrip('/')}/d/{secret}"


def receipt_of(download: Download, key: UserKey) -> dict[str, Any]:
    """The receipt of a delivery; :class:`StateError` before it is complete."""
    if download.state != deliveries.DELIVERED:
        raise StateError(f"this delivery is {download.state}, so there is no receipt.", "Resume it first.")
    registry = home().identity.registry
    return deliveries.receipt(registry, download, key.key_id, key.recipient_commitment)


def add_countersignature(download: Download, key: UserKey, body: CountersignatureBody) -> dict[str, Any]:
    """Log a recipient's confirmation."""
    document = body.model_dump(by_alias=True)
    return {"countersignature": countersignatures.add(home(), key, download, document)}


def find_key(reference: str) -> IssuedKey:
    """A key of the principal's organisation; :class:`NotFoundError`."""
    with home().database.read() as session:
        return keys.get_key(session, home().identity.registry, reference, principal().organisation)


def _deliverable(reference: str) -> IssuedKey:
    key = find_key(reference)
    deliveries.refuse(key)
    return key


def copy_id(key: IssuedKey) -> str:
    """The id of a key's copy."""
    return COPY_PREFIX + key.row.key_id.hex()


def _requester() -> Requester:
    who = principal()
    return requester(who.label, token=who.token, person=who.person)


def _digest(files: Mapping[str, Any], known: Mapping[str, str]) -> str | None:
    if known.keys() != files.keys():
        return None
    return manifest_digest({path: {"sha256": known[path], "size": files[path].size} for path in files})


def _describe_link(row: DownloadLink, key: IssuedKey) -> dict[str, Any]:
    return {
        "link_id": row.link_id,
        "copy_id": copy_id(key),
        "created_by": row.created_by,
        "created_at": utc(row.created_at),
        "expires_at": utc(row.expires_at),
        "used_at": None if row.used_at is None else utc(row.used_at),
        "withdrawn_at": None if row.withdrawn_at is None else utc(row.withdrawn_at),
    }


def _find(session: Session, download_id: str) -> Any:
    chosen = deliveries.select_downloads(principal().organisation).where(Download.download_id == download_id)
    found = session.execute(chosen).one_or_none()
    if found is None:
        raise NotFoundError(f"there is no delivery {download_id}.", "See the list of downloads.")
    return found


def settled(download_id: str) -> tuple[Download, IssuedKey]:
    """A delivery as it stands now, and its key."""
    with home().database.read() as session:
        row = _find(session, download_id)
    key = find_key(row.key_id.hex())
    return deliveries.settle(home(), key, row.Download), key
