"""The console's scripts and styles: built files with their digest in the name, kept by browsers for good.

assets = Assets.load()
assets.url("console.js"), assets.serve("console-4F2K.js")
"""

from __future__ import annotations

import gzip
import json
import mimetypes
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from flask import Response, abort, make_response, request

FOLDER = Path(__file__).parent / "assets"
PREFIX = "/console/assets/"
_PACKED = (".js", ".css", ".svg", ".txt", ".json", ".wasm", ".mjs")
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_LARGEST_PACKED = 4 << 20


@dataclass(frozen=True)
class Assets:
    """Built files by the names of their sources."""

    files: dict[str, str]
    known: frozenset[str]
    packed: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    @cache
    def load(cls) -> Assets:
        """What ``make assets`` wrote."""
        files = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
        known = frozenset(
            path.relative_to(FOLDER).as_posix()
            for path in FOLDER.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        )
        return cls(files, known)

    def url(self, name: str) -> str:
        """The address of an asset; ``KeyError`` for one that was not built."""
        return PREFIX + self.files[name]

    def folder(self, name: str) -> str | None:
        """The address of a folder that is built, not committed, with a slash; ``None`` where it was not."""
        built = self.files[name]
        return f"{PREFIX}{built}/" if any(file.startswith(f"{built}/") for file in self.known) else None

    def serve(self, name: str) -> Response:
        """The response with a built file; 404 for anything else."""
        if name not in self.known:
            abort(404)
        path = FOLDER / name
        suffix = path.suffix
        kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        packs = suffix in _PACKED and path.stat().st_size <= _LARGEST_PACKED
        if packs and "gzip" in request.headers.get("Accept-Encoding", ""):
            response = make_response(self._pack(name))
            response.headers["Content-Encoding"] = "gzip"
        else:
            response = make_response(path.read_bytes())
        response.mimetype = kind
        response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    def _pack(self, name: str) -> bytes:
        if name not in self.packed:
            self.packed[name] = gzip.compress((FOLDER / name).read_bytes(), 9, mtime=0)
        return self.packed[name]
