"""The HTTP responses that send a copy: whole or any one range of it, resumable, with its digest.

    return respond(home, key, copy, requester, Part.archive(copy), sha256=None, name="copy-0123.tar")

RFC 9110 ranges and conditions on strong entity tags; RFC 9530 ``Repr-Digest`` where the digest is known. A
request for several ranges at once is answered with the whole.
"""

from __future__ import annotations

import base64

from flask import Response, request
from werkzeug.http import parse_range_header

from registry.api.problems import Problem
from registry.copies.build import PreparedCopy
from registry.copies.deliveries import ARCHIVE, Part, Requester, send
from registry.home import Home
from registry.keys.service import IssuedKey
from registry.serving.metrics import DOWNLOADS

ARCHIVE_TYPE = "application/x-tar"
FILE_TYPE = "application/octet-stream"


def respond(
    home: Home,
    key: IssuedKey,
    copy: PreparedCopy,
    requester: Requester,
    part: Part,
    *,
    name: str,
    tag: str,
    sha256: str | None = None,
) -> Response:
    """What the request asks for of ``part``; a delivery is recorded for GET, but not for HEAD.

    ``name`` is for the client to save it under, ``tag`` the strong entity tag, ``sha256`` (hex) the digest
    of the whole part. Raises :class:`Problem` 412 and 416.
    """
    size = part.layout.size
    response = Response(status=200, content_type=ARCHIVE_TYPE if part.form == ARCHIVE else FILE_TYPE)
    response.set_etag(tag)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    if sha256 is not None:
        response.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    if request.if_match and not request.if_match.contains(tag):
        raise Problem(412, "this is not what it was when you asked before.", "Start from the first byte.")
    if request.if_none_match and request.if_none_match.contains_weak(tag):
        response.status_code = 304
        return response
    start, stop = 0, size
    wanted = _range(size, tag)
    if wanted is not None:
        start, stop = wanted
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if request.method == "GET":
        DOWNLOADS.inc()
        response.response = send(home, key, copy, requester, part, start, stop)
    response.content_length = stop - start
    return response


def _range(size: int, tag: str) -> tuple[int, int] | None:
    """The one range (start, stop) asked for; ``None`` where the whole is to be sent."""
    if request.method != "GET":
        return None
    asked = parse_range_header(request.headers.get("Range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != f'"{tag}"':
        return None
    first, stop = asked.ranges[0]
    start = max(0, size + first) if first < 0 else first  # the last bytes of a file may be all of it
    stop = size if stop is None else min(stop, size)
    if start >= stop:
        raise Problem(
            416, f"there are {size} bytes.", "Ask for bytes below that.", {"Content-Range": f"bytes */{size}"}
        )
    return start, stop
