"""The file of a backup: tables, stored files and configuration under one signed list of digests.

    with new_archive(path, passphrase) as archive:
        with archive.member("config.toml") as file: file.write(...)
        archive.close_with(lambda members: identity.sign({..., "members": members}))
    with opened_archive(path, passphrase) as archive:
        archive.manifest, archive.check(); archive.open("config.toml")

It is a ZIP file, plain or sealed (:mod:`registry.backup.sealed`), whose last member ``manifest.json`` names
every other one with its SHA-256 and size. It appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from registry.backup.sealed import SealedReader, SealedWriter, is_sealed
from registry.errors import InputError, IntegrityError
from registry.storage import CHUNK_BYTES, Manifest, atomic_file
from verifier import signing

SCHEMA = "hallmark/backup/1"
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 256 << 20
_HINT = "Use another backup; nothing was changed."

Seen = Callable[[int], None]


class ArchiveWriter:
    """Writes members one after the other and remembers their digests."""

    def __init__(self, target: zipfile.ZipFile) -> None:
        self._zip = target
        self._members: Manifest = {}

    @contextmanager
    def member(self, name: str, compressed: bool = False) -> Iterator[_Hashed]:
        """A file to write the content of ``name`` into."""
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        info.external_attr = 0o600 << 16
        with self._zip.open(info, "w", force_zip64=True) as file:
            hashed = _Hashed(cast(BinaryIO, file))
            yield hashed
        self._members[name] = {"sha256": hashed.digest.hexdigest(), "size": hashed.size}

    def close_with(self, manifest: Callable[[Manifest], signing.Document]) -> signing.Document:
        """Add the signed manifest, made from the members' digests; nothing may come after it."""
        document = manifest(self._members)
        with self.member(MANIFEST, compressed=True) as file:
            file.write(json.dumps(document).encode())
        return document


class _Hashed:
    """A file that is written and hashed at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.size += len(content)


@contextmanager
def new_archive(path: Path, passphrase: str | None) -> Iterator[ArchiveWriter]:
    """Write an archive that only its owner may read; whatever stops the block leaves none."""
    if path.exists():
        raise InputError(f"{path} already exists.", "Name a new file.")
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        if passphrase is None:
            with zipfile.ZipFile(file, "w", compresslevel=1) as plain:
                yield ArchiveWriter(plain)
            return
        sealed = SealedWriter(file, passphrase)
        with zipfile.ZipFile(cast(BinaryIO, sealed), "w", compresslevel=1) as inner:
            yield ArchiveWriter(inner)
        sealed.finish()


class Archive:
    """An archive that was written whole; :meth:`check` it before anything in it is used."""

    def __init__(self, source: zipfile.ZipFile, manifest: signing.Document) -> None:
        self._zip, self.manifest = source, manifest

    @property
    def members(self) -> Mapping[str, Mapping[str, Any]]:
        """All members but the manifest: name -> {"sha256", "size"}."""
        found: Mapping[str, Mapping[str, Any]] = self.manifest["members"]
        return found

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(entry["size"] for entry in self.members.values())

    def open(self, name: str) -> BinaryIO:
        """Read one member."""
        return cast(BinaryIO, self._zip.open(name))

    def check(self, seen: Seen = lambda _: None) -> None:
        """:class:`IntegrityError` unless it holds the listed members, byte for byte, and no others."""
        names = self._zip.namelist()
        if sorted(names) != sorted([*self.members, MANIFEST]):
            odd = sorted({*names} ^ {*self.members, MANIFEST})
            raise IntegrityError(f"the backup's members are not those that it lists: {odd[:1]}.", _HINT)
        if stray := [name for name in names if name.startswith("/") or ".." in name.split("/")]:
            raise IntegrityError(f"the backup's member {stray[0]} leads out of it.", _HINT)
        done = 0
        for name, entry in self.members.items():
            digest, size = hashlib.sha256(), 0
            try:
                with self.open(name) as file:
                    while chunk := file.read(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                        seen(done + size)
            except (zipfile.BadZipFile, EOFError, zlib.error):
                raise IntegrityError(f"{name} in the backup is damaged.", _HINT) from None
            if (digest.hexdigest(), size) != (entry["sha256"], entry["size"]):
                raise IntegrityError(f"{name} in the backup is not what was signed.", _HINT)
            done += size


@contextmanager
def opened_archive(path: Path, passphrase: str | None) -> Iterator[Archive]:
    """Open the archive at ``path``; :class:`InputError` where it is none or the passphrase does not fit."""
    with path.open("rb") as file:
        sealed = is_sealed(file)
        if sealed and passphrase is None:
            raise InputError(f"{path} is encrypted.", "Give its passphrase with --passphrase-file.")
        content = io.BufferedReader(SealedReader(file, passphrase or ""), CHUNK_BYTES) if sealed else file
        try:
            source = zipfile.ZipFile(cast(BinaryIO, content))
            manifest = _manifest(source)
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is no whole backup ({error}).", _HINT) from None
        with source:
            yield Archive(source, manifest)


def _manifest(source: zipfile.ZipFile) -> signing.Document:
    with source.open(MANIFEST) as file:
        content = file.read(LARGEST_MANIFEST)
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"its manifest has another schema than {SCHEMA}")
    return document
