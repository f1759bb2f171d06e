"""What a recipient reaches with his one-time link, without an account: his copy, its receipt, his signature.

The secret in the address is all that is asked for, so nothing here may be cached, indexed or passed on as
a referrer, and the page itself does not use the link up: mail programs open links on their own.
"""

from __future__ import annotations

from typing import Annotated, Any

from flask import Response, make_response, render_template_string, request
from flask_openapi3 import APIBlueprint, MediaType, Schema, Tag
from flask_openapi3.models.data_type import DataType
from pydantic import ConfigDict, StringConstraints
from sqlalchemy import select

from registry.accounts import security
from registry.api.access import home, public
from registry.api.document import problem
from registry.api.problems import Problem
from registry.api.schemas import Path, Reply, Text
from registry.copies import deliveries, links
from registry.copies.build import prepare
from registry.copies.deliveries import Requester
from registry.copies.links import FoundLink, GoneError
from registry.copies.models import Download
from registry.copies.routes import (
    CountersignatureBody,
    CountersignatureReply,
    FileReply,
    ReceiptReply,
    Responses,
    add_countersignature,
    link_url,
    receipt_of,
    requester,
    send_archive,
    send_file,
    streamed,
)
from registry.copies.streaming import ARCHIVE_TYPE, FILE_TYPE
from verifier.bundle import utc

LINK_REFUSED = "link.refused"

recipient = APIBlueprint(
    "recipient",
    __name__,
    url_prefix="/d",
    abp_tags=[Tag(name="one-time links", description="What a recipient reaches with his link.")],
)
GONE: Responses = {410: problem("The link was used, has expired or was withdrawn")}

_AS_PAGE = {"text/html": MediaType(schema=Schema(type=DataType.STRING))}


class SecretPath(Path):
    """The secret of a link."""

    secret: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]


class SecretFilePath(SecretPath):
    """The secret of a link and a file of its copy."""

    path: Text


class OfferReply(Reply):
    """What a link offers."""

    model_config = ConfigDict(openapi_extra={"content": _AS_PAGE})  # type: ignore[typeddict-unknown-key]

    copy_id: str
    model: str
    size: int
    sha256: str
    expires_at: str
    archive: str
    files: list[FileReply]


@recipient.get(
    "/<secret>",
    responses={200: OfferReply, 409: problem("The copy is no longer delivered"), **GONE},
)
@public
def offer(path: SecretPath) -> Response:
    """Show what a link offers. This does not use it up."""
    found = _usable(path.secret)
    copy = prepare(home(), found.key)
    offered: dict[str, Any] = {
        "copy_id": copy.copy_id,
        "model": found.key.model.label,
        "size": copy.plan.size,
        "sha256": copy.sha256,
        "expires_at": utc(found.link.expires_at),
        "archive": f"/d/{path.secret}/archive",
        "files": [
            {"path": name, "size": file.layout.size, "sha256": file.sha256}
            for name, file in copy.files.items()
        ],
    }
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = make_response(render_template_string(_PAGE, address=link_url(path.secret), **offered))
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    else:
        response = make_response(OfferReply(**offered).model_dump_json())
        response.mimetype = "application/json"
    return _private(response)


@recipient.get("/<secret>/archive", responses={**streamed(ARCHIVE_TYPE), **GONE})
@public
def link_archive(path: SecretPath) -> Response:
    """Download the copy as a tar archive; broken off, it is resumed with the same link."""
    found = _usable(path.secret)
    return _private(send_archive(found.key, prepare(home(), found.key), _requester(found)))


@recipient.get("/<secret>/files/<path:path>", responses={**streamed(FILE_TYPE), **GONE})
@public
def link_file(path: SecretFilePath) -> Response:
    """Download one file of the copy; the link is used once all of them were sent."""
    found = _usable(path.secret)
    return _private(send_file(found.key, prepare(home(), found.key), path.path, _requester(found)))


@recipient.get("/<secret>/receipt", responses={200: ReceiptReply, **GONE})
@public
def link_receipt(path: SecretPath) -> Response:
    """The signed receipt, once the download is complete."""
    found = _found(path.secret)
    document = receipt_of(_delivered(found), found.key.row)
    return _private(make_response({"receipt": document}))


@recipient.put(
    "/<secret>/countersignature",
    responses={200: CountersignatureReply, 409: problem("The registry has no key of the recipient"), **GONE},
)
@public
def link_countersign(path: SecretPath, body: CountersignatureBody) -> Response:
    """Confirm the receipt with a signature of your own: what `verifier countersign` prints."""
    found = _found(path.secret)
    return _private(make_response(add_countersignature(_delivered(found), found.key.row, body)))


def _found(secret: str) -> FoundLink:
    """The link, which may have been used; :class:`Problem` 410 where it was withdrawn."""
    with home().database.read() as session:
        found = links.find(session, home().identity.registry, secret)
    if found.link.withdrawn_at is not None:
        _require_usable(found)
    return found


def _usable(secret: str) -> FoundLink:
    """The link; :class:`Problem` 410 where it is over, which the security log is told."""
    with home().database.read() as session:
        found = links.find(session, home().identity.registry, secret)
        unfinished = select(Download).where(Download.link_id == found.link.id).order_by(Download.id.desc())
        last = session.execute(unfinished.limit(1)).scalar_one_or_none()
    if last is not None and found.link.used_at is None:
        deliveries.settle(home(), found.key, last)
        with home().database.read() as session:
            found = links.find(session, home().identity.registry, secret)
    _require_usable(found)
    deliveries.refuse(found.key)
    return found


def _require_usable(found: FoundLink) -> None:
    try:
        links.require_usable(found.link)
    except GoneError as error:
        security.log(
            home(),
            LINK_REFUSED,
            organisation=found.organisation,
            actor=found.link.link_id,
            reason=error.reason,
        )
        raise Problem(410, str(error), error.hint) from None


def _delivered(found: FoundLink) -> Download:
    with home().database.read() as session:
        return links.delivered(session, found.link)


def _requester(found: FoundLink) -> Requester:
    return requester(found.link.link_id, link=found.link.id)


def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    return response


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Your copy of {{ model }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; }
  a.button { display: inline-block; padding: .6rem 1.2rem; background: #14532d; color: #fff;
             border-radius: .3rem; text-decoration: none; }
  code { overflow-wrap: anywhere; }
  td { padding-right: 1rem; vertical-align: top; }
</style>
<h1>Your copy of {{ model }}</h1>
<p>This copy is yours alone: images that it makes can be traced to it. The link works for one complete
download, until {{ expires_at }}; a download that breaks off can be resumed.</p>
<p><a class="button" href="{{ archive }}">Download {{ '{:,}'.format(size) }} bytes (tar)</a></p>
<p>Or on a command line: <code>curl -f -C - -o {{ copy_id }}.tar {{ address }}/archive</code></p>
<details>
<summary>Files</summary>
<table>
{% for file in files %}
<tr><td><code>{{ file.path }}</code></td><td>{{ '{:,}'.format(file.size) }}</td></tr>
{% endfor %}
</table>
</details>
<p>Copy <code>{{ copy_id }}</code>, SHA-256 <code>{{ sha256 }}</code></p>
</html>
"""
