"""Files as responses: sent in parts, closed however the response ends.

return attachment(file, size, "application/octet-stream", "network.zip")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from flask import Response

from registry.storage import CHUNK_BYTES


def attachment(file: BinaryIO, size: int, media_type: str, name: str) -> Response:
    """The response that sends ``file`` of ``size`` bytes, to be saved as ``name``."""
    response = Response(_parts(file), mimetype=media_type)
    response.call_on_close(file.close)  # also of a client that went away before the first part
    response.content_length = size
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _parts(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(CHUNK_BYTES):
            yield part
