"""The trust root over HTTP, for anybody: metadata and targets where TUF clients look for them."""

from __future__ import annotations

import re
from typing import Annotated, BinaryIO

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import StringConstraints
from werkzeug.wsgi import wrap_file

from registry.api.access import home, public
from registry.api.schemas import Path
from registry.errors import NotFoundError
from registry.trust import service
from registry.trust.repository import ROLES, TIMESTAMP

tuf = APIBlueprint(
    "tuf",
    __name__,
    url_prefix="/tuf",
    abp_tags=[Tag(name="tuf", description="The trust root: a TUF repository for verifiers.")],
)

FOREVER = "public, max-age=31536000, immutable"
LARGEST_VERSION = 2**53
_METADATA = re.compile(rf"([1-9][0-9]{{0,15}})\.({'|'.join(ROLES)})\.json")
_TARGET = re.compile(r"((?:[^/]+/)*)([0-9a-f]{64})\.([^/]+)")
_FILE = {"type": "string", "format": "binary"}


class MetadataPath(Path):
    """Which metadata: ``timestamp.json``, or ``<version>.<role>.json``."""

    name: Annotated[str, StringConstraints(max_length=40)]


class TargetPath(Path):
    """Which target: its path with its SHA-256 and a point before the file's name."""

    path: Annotated[str, StringConstraints(max_length=500)]


@tuf.get(
    "/metadata/<name>", responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}}
)
@public
def metadata(path: MetadataPath) -> Response:
    """Signed metadata of one role. Only the timestamp's changes under its name."""
    found = _METADATA.fullmatch(path.name)
    if found is None and path.name != f"{TIMESTAMP}.json":
        raise NotFoundError("the trust root has no such metadata.")
    role, version = (TIMESTAMP, None) if found is None else (found[2], int(found[1]))
    with home().database.read() as session, service.open_metadata(home(), session, role, version) as file:
        response = Response(file.read(), mimetype="application/json")
    response.headers["Cache-Control"] = "no-cache" if version is None else FOREVER
    return response


@tuf.get(
    "/targets/<path:path>", responses={200: {"content": {"application/octet-stream": {"schema": _FILE}}}}
)
@public
def target(path: TargetPath) -> Response:
    """A published file."""
    found = _TARGET.fullmatch(path.path)
    if found is None or not path.path.isprintable():
        raise NotFoundError("the trust root has no such target.")
    with home().database.read() as session:
        file, size = service.open_target(home(), session, found[1] + found[3], bytes.fromhex(found[2]))
    return _streamed(file, size, found[2])


def _streamed(file: BinaryIO, size: int, digest: str) -> Response:
    response = Response(
        wrap_file(request.environ, file), mimetype="application/octet-stream", direct_passthrough=True
    )
    response.content_length = size
    response.headers["Cache-Control"] = FOREVER
    response.set_etag(digest)
    response.make_conditional(request, accept_ranges=True, complete_length=size)
    return response
