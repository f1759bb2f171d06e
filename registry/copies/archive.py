"""A folder as a tar archive that is laid out, not written: its size and every byte are known in advance.

    layout = archive("copy-0123", {"model_index.json": layout, ...}, issued_at)

The archive is POSIX.1-2001 (pax), the same at every rebuild: files sorted by path below one folder, all of
one time, owned by nobody in particular.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping

from registry.copies.layout import Layout, Piece

MEDIA_TYPE = "application/x-tar"
_MODE = 0o644


def archive(folder: str, files: Mapping[str, Layout], time: int) -> Layout:
    """The archive of ``files`` (path -> content) below ``folder``; ``time`` in unix seconds."""
    pieces: list[Piece] = []
    for path, content in sorted(files.items()):
        pieces.append(_header(f"{folder}/{path}", content.size, time))
        pieces.extend(content.pieces)
        pieces.append(bytes(-content.size % tarfile.BLOCKSIZE))
    pieces.append(bytes(2 * tarfile.BLOCKSIZE))
    return Layout(pieces)


def _header(name: str, size: int, time: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, time, _MODE
    return info.tobuf(tarfile.PAX_FORMAT)
