"""Saved search indexes: encrypted on disk, opened once for all processes of a machine.

    saved = SavedIndex(folder, secret, label, octets=8)
    saved.extend(packed, ids, mark)                       # writes the last segment and new ones, no other
    index, ids = saved.load()                             # KeyIndex, and the id of each row

A saved index *is* the key table. So each file is encrypted, under a key that is derived from ``secret``:
whoever has the secret can search, and a copy of the folder without it tells nothing but numbers of keys. The
plaintext lies in shared memory only: in files of the machine's tmpfs (:data:`SHARED`), readable by their
owner, which the first process decrypts and every other one maps. Whoever ends last removes them; what a crash
leaves there is removed by the next process that opens an index, and gone with the next boot. Where there is
no tmpfs, or no room in it, each process decrypts into memory of its own.

A file ``<first row>-<keys>.segment`` holds up to SEGMENT keys::

    length of the header (4 bytes, big endian), header (JSON), then the content, encrypted in chunks of 1 MiB:
    blocks (:mod:`verifier.blocks`), then 8 bytes a key: its id (little endian)

The header names ``label`` (what the keys are of), ``bits``, ``first``, ``count``, a ``mark`` of the writer's
(how far it had read) and a random ``salt``. The file's key is ``HKDF-SHA-256(secret, salt, info = schema ||
header)``, so that no two files share one, and an altered header opens nothing. Chunks are sealed as in
:mod:`verifier.sealed`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import stat
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from verifier import blocks, resolve
from verifier.errors import InputError, TrustError
from verifier.phi import Packed
from verifier.resolve import KeyIndex, Segment
from verifier.sealed import open_chunks, private_memory, seal_chunks, sealed_size

SCHEMA = "hallmark/segment/1"
SUFFIX = ".segment"
SHARED = Path("/dev/shm")  # noqa: S108  (a folder of our own in it, with its owner and mode checked)
_LARGEST_HEADER = 1 << 16
_ID_BYTES = 8

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SegmentFile:
    """A segment on disk, as its header describes it; ``offset`` is where its content begins."""

    path: Path
    label: str
    bits: int
    first: int
    count: int
    mark: int
    salt: str
    header: bytes
    offset: int

    @property
    def blocks_size(self) -> int:
        """Bytes of the blocks; ids follow."""
        return -(-self.count // blocks.KEYS) * blocks.KEYS * self.bits // 8

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.blocks_size + _ID_BYTES * self.count


class SavedIndex:
    """The segments in a folder that ``secret`` (32 bytes) opens, of the keys that ``label`` names.

    Processes may open and extend it at the same time; those that extend it stand in line.
    """

    def __init__(
        self, folder: Path, secret: bytes, label: str, octets: int, shared: Path | None = SHARED
    ) -> None:
        self.folder, self._secret, self._label, self._octets = folder, secret, label, octets
        self._room = None if shared is None else _Room.of(shared, sha256(b"room" + secret).hexdigest()[:24])
        self._opened: dict[str, tuple[Segment, Ids]] = {}

    def files(self) -> list[SegmentFile]:
        """The segments from the first row on, as far as they follow each other; of two, the longer one.

        A file of another label or length of keys ends them: it was made for something else.
        """
        longest: dict[int, SegmentFile] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):  # replaced by a longer one meanwhile
                found = read_header(path)
                if (found.label, found.bits) == (self._label, 8 * self._octets):
                    longest[found.first] = max(longest.get(found.first, found), found, key=lambda f: f.count)
        chosen: list[SegmentFile] = []
        while (row := sum(file.count for file in chosen)) in longest and row % resolve.SEGMENT == 0:
            chosen.append(longest[row])
        return chosen

    def load(self, threads: int | None = None, only: range | None = None) -> tuple[KeyIndex, Ids, int]:
        """The index, the id of each row, and the last mark (-1 where nothing is saved).

        Of all segments, or ``only`` of some in a row.

        :class:`TrustError` where a file was altered or is sealed under another secret.
        """
        while True:
            files = self.files() if only is None else self.files()[only.start : only.stop]
            try:
                opened = [self._opened.get(file.salt) or self._open(file) for file in files]
            except FileNotFoundError:  # replaced by a longer one meanwhile
                continue
            break
        self._opened = dict(zip((file.salt for file in files), opened, strict=True))
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in opened)])
        index = KeyIndex([segment for segment, _ in opened], self._octets, threads)
        return index, ids, files[-1].mark if files else -1

    @contextmanager
    def extending(self, *, wait: bool = True) -> Iterator[bool]:
        """The folder for this process alone; False where another has it and ``wait`` is not wanted."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def extend(self, packed: Packed, ids: Sequence[int] | Ids, mark: int) -> None:
        """Append keys (n, octets) with their ids; call it inside :meth:`extending`.

        The last segment is written again if it was not full; its old file stays until the new one is whole.
        """
        ids = np.asarray(ids, np.int64)
        files, (index, known, _) = self.files(), self.load()
        if files and files[-1].count < resolve.SEGMENT:
            first = files[-1].first
            tail = index.rows(np.arange(first, len(index)))
            packed, ids = np.concatenate([tail, packed]), np.concatenate([known[first:], ids])
        else:
            first = len(index)
        for start in range(0, len(packed), resolve.SEGMENT):
            end = start + resolve.SEGMENT
            self.write(first + start, packed[start:end], ids[start:end], mark)
        self.sweep()

    def write(self, first: int, packed: Packed, ids: Ids, mark: int) -> None:
        """Write one segment: up to SEGMENT keys from row ``first`` on, a multiple of that."""
        salt = os.urandom(32)
        header = json.dumps(
            {
                "schema": SCHEMA, "label": self._label, "bits": 8 * self._octets, "first": first,
                "count": len(packed), "mark": mark, "salt": salt.hex(),
            }
        ).encode()  # fmt: skip
        content = blocks.blocked(packed).tobytes() + ids.astype("<i8").tobytes()
        path = self.folder / f"{first:012d}-{len(packed)}{SUFFIX}"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(len(header).to_bytes(4, "big") + header)
                for chunk in seal_chunks(self._cipher(salt, header), memoryview(content)):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise InputError(
                f"cannot write the index {path}: {error.strerror}.", "Make room there."
            ) from None
        finally:
            temporary.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove files that a longer segment replaced, and parts of files that a crash left."""
        kept = {file.path for file in self.files()}
        for path in self.folder.iterdir():
            replaced = path.suffix == SUFFIX and path not in kept
            if replaced or path.suffix == ".partial":
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all segments; call it inside :meth:`extending`."""
        for path in [*self.folder.glob(f"*{SUFFIX}"), *self.folder.glob(".*.partial")]:
            path.unlink(missing_ok=True)
        self._opened = {}

    def _open(self, file: SegmentFile) -> tuple[Segment, Ids]:
        memory = self._decrypted(file)
        packed = np.frombuffer(memory, np.uint8, file.blocks_size)
        ids = np.frombuffer(memory, "<i8", file.count, file.blocks_size)
        shape = -(-file.count // blocks.KEYS), self._octets, blocks.KEYS
        return Segment(packed.reshape(shape), file.count), ids

    def _decrypted(self, file: SegmentFile) -> memoryview:
        with file.path.open("rb") as source:
            if os.fstat(source.fileno()).st_size != file.offset + sealed_size(file.size):
                raise TrustError(f"{file.path} is not whole.", _REBUILD)
            if self._room is not None and (shared := self._room.find(file.salt, file.size)) is not None:
                return shared
            sealed = memoryview(source.read())[file.offset :]
        if self._room is None:
            memory = private_memory(file.size)
            self._decrypt(file, sealed, memory)
            return memory.toreadonly()
        return self._room.make(file.salt, file.size, lambda memory: self._decrypt(file, sealed, memory))

    def _decrypt(self, file: SegmentFile, sealed: memoryview, memory: memoryview) -> None:
        cipher = self._cipher(bytes.fromhex(file.salt), file.header)
        try:
            open_chunks(cipher, sealed, memory)
        except (InvalidTag, ValueError):
            raise TrustError(
                f"{file.path} does not open: it was altered, or another registry wrote it.", _REBUILD
            ) from None

    def _cipher(self, salt: bytes, header: bytes) -> AESGCM:
        info = SCHEMA.encode() + header
        return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(self._secret))


_REBUILD = "Remove it and build the index again: `registry index build`."


def read_header(path: Path) -> SegmentFile:
    """What a segment says of itself, which only opening it proves; :class:`TrustError` for another file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(4), "big")
        header = file.read(min(length, _LARGEST_HEADER))
    try:
        document: dict[str, Any] = json.loads(header)
        if document.pop("schema") != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA}")
        found = SegmentFile(path=path, header=header, offset=4 + len(header), **document)
        sound = 0 < found.count <= resolve.SEGMENT and found.bits > 0 and found.bits % 8 == 0
        if not sound or found.first < 0 or len(bytes.fromhex(found.salt)) != 32:
            raise ValueError("numbers that cannot be")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrustError(f"{path} is no segment of an index: {error}.", _REBUILD) from None
    return found


class _Room:
    """Decrypted segments in a folder of shared memory, which is this user's alone.

    A process holds a shared lock on each file that it has mapped, so that an exclusive one tells whether a
    file is still in use. Files are made and removed under the folder's own lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        weakref.finalize(self, _leave, folder)

    @classmethod
    def of(cls, shared: Path, name: str) -> _Room | None:
        """The room of one secret, swept; None where there is no shared memory, or no room that is safe."""
        if not shared.is_dir():
            return None
        folder = shared / f"hallmark-{os.getuid()}-{name}"
        try:
            with _locked(folder):
                _remove_unused(folder)
        except OSError:
            return None
        return cls(folder)

    def find(self, name: str, size: int) -> memoryview | None:
        """A segment that a process of this machine has decrypted."""
        try:
            with _locked(self._folder):
                return _map(self._folder / name, size)
        except OSError:
            return None

    def make(self, name: str, size: int, decrypt: Callable[[memoryview], None]) -> memoryview:
        """Decrypt a segment for all; into memory of this process alone where there is no room for it."""
        path = self._folder / name
        temporary = path.with_name(f"{name}.{os.getpid()}.partial")
        try:
            with _locked(self._folder):
                with contextlib.suppress(OSError):
                    return _map(path, size)  # another process was quicker
                try:
                    temporary.touch(0o600, exist_ok=False)
                    with temporary.open("r+b") as file:
                        # Now, not as a fault in a write to memory.
                        os.posix_fallocate(file.fileno(), 0, size)
                        decrypt(memoryview(mmap.mmap(file.fileno(), size)))
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
                return _map(path, size)
        except OSError:
            memory = private_memory(size)
            decrypt(memory)
            return memory.toreadonly()


def _map(path: Path, size: int) -> memoryview:
    """Map a file of the room; the lock that says so is held as long as the mapping is used."""
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_size != size:
            raise OSError(f"{path} has another size")
        fcntl.flock(lock, fcntl.LOCK_SH)
        # Through a descriptor of its own: a mapping keeps a duplicate of it, which would keep the lock.
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except BaseException:
        os.close(lock)
        raise
    weakref.finalize(mapped, os.close, lock)  # at the end of the process too, before the room is swept
    return memoryview(mapped)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The room for this process alone; ``OSError`` where it is not one of this user alone."""
    lock = None
    while lock is None:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode != stat.S_IFDIR | 0o700:
            raise OSError(f"{folder} is not this user's alone")
        with contextlib.suppress(FileNotFoundError):
            lock = _lock(folder / ".lock")
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path) -> int | None:
    """The descriptor that holds the lock; None where it was removed, as the last one to leave does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _remove_unused(folder: Path) -> None:
    """Remove what no process uses; call it inside :func:`_locked`."""
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        with path.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _leave(folder: Path) -> None:
    """The same, and then the room itself if nothing is left in it."""
    with contextlib.suppress(OSError), _locked(folder):
        _remove_unused(folder)
        if [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
