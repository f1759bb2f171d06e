"""Files of the registry over fsspec: a local folder by default, any object store in production.

    storage = Storage("/home/hallmark/storage")
    storage.put_folder("models/<digest>", folder)        # whole or not at all
    with storage.open("networks/<digest>/network.json") as file: ...
    with storage.local("networks/<digest>") as folder: ...

Names are content digests, so nothing stored is ever changed. A folder's *manifest* names each of its
files with SHA-256 and size; its digest stands for the whole folder.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from registry.errors import InputError, IntegrityError
from verifier import signing

CHUNK_BYTES = 1 << 20
"""Unit of copying and hashing: memory stays constant whatever the size of a model."""

Manifest = dict[str, dict[str, Any]]
"""path within the folder (POSIX) -> {"sha256": hex, "size": bytes}"""


class Storage:
    """Named files and folders below one fsspec URL."""

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"the storage URL {url} cannot be used ({error}).", "Correct [storage] url in config.toml."
            ) from None
        self._is_local = isinstance(self._files, LocalFileSystem)

    def put_bytes(self, name: str, content: bytes) -> None:
        """Store ``content`` as ``name``, whole or not at all."""
        self._put(name, io.BytesIO(content))

    def put_file(self, name: str, path: Path) -> None:
        """Store the file at ``path`` as ``name``, whole or not at all."""
        with path.open("rb") as source:
            self._put(name, source)

    def put_folder(self, name: str, folder: Path) -> None:
        """Store a folder under a ``name`` made of its digest; one that is there already is kept.

        On a local disk the folder appears in one rename. On an object store its files appear one by
        one, and the folder counts only once a committed table row names it.
        """
        if self._is_local and Path(self._path(name)).is_dir():
            return
        target = f"{name}.partial-{secrets.token_hex(4)}" if self._is_local else name
        try:
            for relative in folder_files(folder):
                self.put_file(f"{target}/{relative}", folder / relative)
            if self._is_local:
                _move_folder(Path(self._path(target)), Path(self._path(name)))
        except BaseException:
            if self._is_local:
                shutil.rmtree(self._path(target), ignore_errors=True)
            raise

    def open(self, name: str) -> BinaryIO:
        """Open ``name`` for reading; seekable. :class:`IntegrityError` where it is missing."""
        try:
            return cast(BinaryIO, self._files.open(self._path(name), "rb"))
        except FileNotFoundError:
            raise _missing(name) from None

    def read(self, name: str) -> bytes:
        """The whole content of ``name``."""
        with self.open(name) as file:
            return file.read()

    def exists(self, name: str) -> bool:
        """Whether ``name`` is a stored file or folder."""
        return bool(self._files.exists(self._path(name)))

    def files(self, name: str) -> dict[str, int]:
        """Paths within the folder ``name`` and their sizes in bytes, sorted by path."""
        root = self._path(name)
        found = self._files.find(root, detail=True)
        if not found:
            raise _missing(name)
        return dict(sorted((path[len(root) + 1 :], int(info["size"])) for path, info in found.items()))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """``name`` (a file or folder) as a path on this machine, fetched first where it is elsewhere."""
        if not self.exists(name):
            raise _missing(name)
        if self._is_local:
            yield Path(self._path(name))
            return
        with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
            target = Path(work) / Path(name).name
            self._files.get(self._path(name), str(target), recursive=True)
            yield target

    def _put(self, name: str, source: BinaryIO) -> None:
        path = self._path(name)
        if not self._is_local:
            with self._files.open(path, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(path)) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _missing(name: str) -> IntegrityError:
    return IntegrityError(f"{name} is missing from the storage.", "Restore the storage from its backup.")


def _move_folder(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(source)  # another process stored the same content first


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write ``path`` under a temporary name beside it; it appears whole at the end of the block."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path`` that becomes ``path`` at the end of the block, or vanishes.

    ``path`` may be an empty folder; :class:`InputError` if it holds anything.
    """
    require_new_folder(path)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def require_new_folder(path: Path) -> None:
    """:class:`InputError` unless ``path`` does not exist yet or is an empty folder."""
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise InputError(f"{path} already exists.", "Name a new folder.")


def folder_files(folder: Path) -> list[str]:
    """POSIX paths of the files below ``folder``, sorted; hidden files and folders are no part of a model."""
    relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in relative if not any(p.startswith(".") for p in path.parts))


def folder_manifest(folder: Path) -> Manifest:
    """SHA-256 and size of each file of ``folder``; :class:`InputError` for an empty folder."""
    manifest: Manifest = {}
    for relative in folder_files(folder):
        with (folder / relative).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            manifest[relative] = {"sha256": sha256, "size": file.tell()}
    if not manifest:
        raise InputError(f"{folder} holds no files.")
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """The digest of a folder, in hex: SHA-256 of its canonical manifest."""
    return signing.digest(manifest).hex()
