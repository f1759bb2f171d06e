"""Files of the registry over fsspec: a local folder by default, any object store in production.

    storage = Storage("/home/hallmark/storage")
    storage = Storage("s3://bucket/prefix", {"endpoint": "https://store.example.org"})
    storage.put_folder("models/<digest>", folder)        # whole or not at all
    with storage.open("networks/<digest>/network.json") as file: ...
    with storage.local("networks/<digest>") as folder: ...

Names are content digests, so nothing stored is ever changed. A folder's *manifest* names each of its
files with SHA-256 and size; its digest stands for the whole folder. What an object store refuses or fails
at is a :class:`UnavailableError` after a few tries, what it does not have an :class:`IntegrityError`.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from registry.errors import InputError, IntegrityError, UnavailableError
from verifier import signing

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20
"""Unit of copying and hashing: memory stays constant whatever the size of a model."""

READ_BYTES = 4 << 20
"""What one request to an object store reads ahead."""

PART_BYTES, PARTS_AT_ONCE = 32 << 20, 2
"""Large files are sent in parts of this size; S3 takes 10 000 parts, which is 312 GiB."""

CONNECT_SECONDS, REPLY_SECONDS, TRIES = 3, 60, 3

CACHE_BYTES = 2 << 30
"""How much a process keeps on disk of what it fetched: some dozens of bases and networks."""

_PARTIAL = ".partial-"

Manifest = dict[str, dict[str, Any]]
"""path within the folder (POSIX) -> {"sha256": hex, "size": bytes}"""


class Storage:
    """Named files and folders below one fsspec URL.

    ``options`` are those of [storage] in config.toml: ``endpoint`` and ``region`` of an S3 store.
    Credentials come from the environment (``AWS_ACCESS_KEY_ID``, a profile, the machine's role).
    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        self._url, self._options = url, dict(options or {})
        self._connect()
        self._is_local = isinstance(self._files, LocalFileSystem)

    def put_bytes(self, name: str, content: bytes) -> None:
        """Store ``content`` as ``name``, whole or not at all."""
        if self._is_local:
            self._place(name, io.BytesIO(content))
            return
        with self._asking(name):
            self._files.pipe_file(self._path(name), content)

    def put_file(self, name: str, path: Path) -> None:
        """Store the file at ``path`` as ``name``, whole or not at all."""
        if self._is_local:
            with path.open("rb") as source:
                self._place(name, source)
            return
        with self._asking(name):
            parts = {"chunksize": PART_BYTES, "max_concurrency": PARTS_AT_ONCE} if self._is_s3 else {}
            self._files.put_file(str(path), self._path(name), **parts)

    def put_folder(self, name: str, folder: Path) -> None:
        """Store a folder under a ``name`` made of its digest; one that is there already is kept.

        On a local disk the folder appears in one rename. On an object store its files appear one by
        one, and the folder counts only once a committed table row names it. An attempt that died half
        way is completed: what is there is kept where it has the same digest, and replaced otherwise.
        """
        if self._is_local:
            self._place_folder(name, folder)
            return
        stored = self._stored(name)
        for path in folder_files(folder):
            source, target = folder / path, f"{name}/{path}"
            if stored.get(path) != source.stat().st_size or self.sha256(target) != file_sha256(source):
                self.put_file(target, source)

    def open(self, name: str, ahead: int = READ_BYTES) -> BinaryIO:
        """Open ``name`` for reading; seekable. :class:`IntegrityError` where it is missing.

        An object store is asked for ``ahead`` bytes more than are read.
        """
        path = self._path(name)
        try:
            if self._is_local:
                return Path(path).open("rb")
            with self._asking(name):
                opened = self._files.open(path, "rb", block_size=ahead)
        except FileNotFoundError:
            raise _missing(name) from None
        return cast(BinaryIO, _RemoteFile(opened, lambda: self._asking(name)))

    def read(self, name: str) -> bytes:
        """The whole content of ``name``."""
        with self.open(name) as file:
            return file.read()

    def sha256(self, name: str) -> str:
        """SHA-256 of a stored file, in hex, of what is really there."""
        with self.open(name) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()

    def exists(self, name: str) -> bool:
        """Whether ``name`` is a stored file or folder."""
        with self._asking(name):
            return bool(self._files.exists(self._path(name)))

    def remove(self, name: str) -> None:
        """Remove a file or folder; only for what no row names, such as uploads. Missing is as good."""
        with self._asking(name):
            if self._files.exists(self._path(name)):
                self._files.rm(self._path(name), recursive=True)

    def check(self) -> None:
        """:class:`UnavailableError` unless the store answers."""
        self.exists("any")

    def files(self, name: str) -> dict[str, int]:
        """Paths within the folder ``name`` and their sizes in bytes, sorted by path."""
        found = self._stored(name)
        if not found:
            raise _missing(name)
        return found

    def marks(self, name: str) -> dict[str, str]:
        """What changes whenever a file of the folder ``name`` is written again, by path."""
        root = self._path(name).rstrip("/")
        with self._asking(name):
            found = self._files.find(root, detail=True)
        return {path[len(root) + 1 :]: _mark(info) for path, info in sorted(found.items())}

    def all_files(self) -> dict[str, int]:
        """Names of all stored files and their sizes in bytes; nothing that is still being written."""
        found = self._stored("")
        return {name: size for name, size in found.items() if _PARTIAL not in name}

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """``name`` (a file or folder) as a path on this machine, fetched first where it is elsewhere.

        What was fetched is kept for the next time, as long as the process lives and there is room.
        """
        if self._is_local:
            if not self.exists(name):
                raise _missing(name)
            yield Path(self._path(name))
            return
        with self._cache.lend(name, lambda target: self._fetch(name, target)) as path:
            yield path

    @property
    def _files(self) -> Any:
        """The file system of this process: connections do not survive a fork."""
        if self._process != os.getpid():
            self._cache.forget()
            self._connect()
        return self._connected

    @property
    def _is_s3(self) -> bool:
        return self._url.startswith(("s3://", "s3a://"))

    def _connect(self) -> None:
        try:
            options = _s3_options(self._options) if self._is_s3 else self._options
            self._connected, self._root = fsspec.core.url_to_fs(self._url, **options)
        except (ValueError, TypeError, ImportError) as error:
            raise InputError(
                f"the storage URL {self._url} cannot be used ({error}).",
                "Correct [storage] in config.toml; s3:// needs `pip install 'hallmark[s3]'`.",
            ) from None
        self._process, self._cache = os.getpid(), _Cache(CACHE_BYTES)

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Errors of an object store in the registry's words; those of a local disk are clear as they are."""
        if self._is_local:
            yield
            return
        try:
            yield
        except FileNotFoundError as error:
            if "bucket" in str(error).lower():
                raise UnavailableError(
                    f"the object store has no bucket for {self._url}.", "Create it, or correct [storage] url."
                ) from None
            raise _missing(name) from None
        except PermissionError as error:
            raise UnavailableError(
                f"the object store refuses access to {name} ({_reason(error)}).",
                "Check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and the bucket's policy.",
            ) from None
        except _store_errors() as error:
            raise UnavailableError(
                f"the object store does not answer for {name} ({_reason(error)}).",
                "Check [storage] in config.toml and that the store runs, then try again.",
            ) from None

    def _stored(self, name: str) -> dict[str, int]:
        root = self._path(name).rstrip("/")
        with self._asking(name):
            found = self._files.find(root, detail=True)
        return dict(sorted((path[len(root) + 1 :], int(info["size"])) for path, info in found.items()))

    def _fetch(self, name: str, target: Path) -> None:
        for path, size in self.files(name).items():
            file = target / path if path else target
            file.parent.mkdir(parents=True, exist_ok=True)
            with self.open(f"{name}/{path}".rstrip("/")) as source, file.open("xb") as copy:
                shutil.copyfileobj(source, copy, CHUNK_BYTES)
                if copy.tell() != size:
                    raise UnavailableError(f"{name}/{path} was cut off while it was fetched.", "Try again.")

    def _place(self, name: str, source: BinaryIO) -> None:
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)

    def _place_folder(self, name: str, folder: Path) -> None:
        if Path(self._path(name)).is_dir():
            return
        partial = f"{name}{_PARTIAL}{secrets.token_hex(4)}"
        try:
            for path in folder_files(folder):
                self.put_file(f"{partial}/{path}", folder / path)
            _move_folder(Path(self._path(partial)), Path(self._path(name)))
            _sync_folder(Path(self._path(name)).parent)
        except BaseException:
            shutil.rmtree(self._path(partial), ignore_errors=True)
            raise

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class _RemoteFile(io.RawIOBase):
    """A file of an object store, whose errors while reading are told as the storage tells them."""

    def __init__(self, file: BinaryIO, asking: Callable[[], Any]) -> None:
        self._file, self._asking = file, asking

    def read(self, size: int | None = -1, /) -> bytes:
        with self._asking():
            return self._file.read(-1 if size is None else size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass
class _Fetched:
    path: Path
    size: int
    users: int = 0


class _Cache:
    """Fetched files and folders of one process; those unused for longest make room for others."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._lock = capacity, threading.Lock()
        self._kept: OrderedDict[str, _Fetched] = OrderedDict()
        self._folder: Path | None = None

    @contextmanager
    def lend(self, name: str, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """The path of ``name``, which stays until the end of the block at least."""
        with self._lock:
            entry = self._kept.get(name)
            if entry is not None:
                entry.users += 1
        entry = entry or self._add(name, fetch)
        try:
            yield entry.path
        finally:
            with self._lock:
                entry.users -= 1
                self._kept.move_to_end(name)
                self._shrink()

    def forget(self) -> None:
        """Leave the folder to the process that this one was forked from."""
        if self._folder is not None:
            self._removal.detach()

    def _add(self, name: str, fetch: Callable[[Path], None]) -> _Fetched:
        place = Path(tempfile.mkdtemp(dir=self._root()))
        try:
            fetch(place / Path(name).name)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        with self._lock:  # two may have fetched the same at once: the first one counts
            entry = self._kept.setdefault(name, _Fetched(place / Path(name).name, size))
            entry.users += 1
        if entry.path.parent != place:
            shutil.rmtree(place)
        return entry

    def _shrink(self) -> None:
        held = sum(entry.size for entry in self._kept.values())
        for name, entry in list(self._kept.items()):
            if held <= self._capacity:
                return
            if not entry.users:
                del self._kept[name]
                shutil.rmtree(entry.path.parent)
                held -= entry.size

    def _root(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="hallmark-fetched-"))
                self._removal = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return self._folder


def _s3_options(options: Mapping[str, str]) -> dict[str, Any]:
    return {
        "endpoint_url": options.get("endpoint"),
        "client_kwargs": {"region_name": options["region"]} if "region" in options else {},
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": REPLY_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": TRIES},
        },
        "use_listings_cache": False,  # other processes store things too
        "skip_instance_cache": True,  # the environment may name another store by now
    }


def _store_errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:  # another object store than S3
        return (OSError,)
    return OSError, BotoCoreError


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _mark(info: Mapping[str, Any]) -> str:
    version = info.get("ETag") or f"{info.get('ino')} {info.get('mtime')} {info.get('created')}"
    return f"{info['size']} {version}"


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
    partial = path.with_name(f".{path.name}{_PARTIAL}{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path`` that becomes ``path`` at the end of the block, or vanishes.

    ``path`` may be an empty folder; :class:`InputError` if it holds anything.
    """
    require_new_folder(path)
    partial = path.with_name(f".{path.name}{_PARTIAL}{secrets.token_hex(4)}")
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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_manifest(folder: Path) -> Manifest:
    """SHA-256 and size of each file of ``folder``; :class:`InputError` for an empty folder."""
    manifest: Manifest = {}
    for relative in folder_files(folder):
        path = folder / relative
        manifest[relative] = {"sha256": file_sha256(path), "size": path.stat().st_size}
    if not manifest:
        raise InputError(f"{folder} holds no files.")
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """The digest of a folder, in hex: SHA-256 of its canonical manifest."""
    return signing.digest(manifest).hex()
