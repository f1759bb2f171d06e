"""The container of a bundle: a zip file of stored members of which every single byte is checked.

    with ArchiveWriter(file) as archive:
        sha256 = archive.add("manifest.json", b"{}")
    archive = Archive(path)
    archive.read("manifest.json")                         # memoryview

Any zip tool opens it. Written is one canonical layout: members one after the other, not compressed,
fixed time stamps and attributes, no comments, ZIP64 fields only where a number needs them. A reader
rebuilds that layout from the members' names, sizes and CRCs and compares it byte for byte, so a change
outside the members' contents (whose digests the manifest signs) does not pass either. Field order
follows PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from verifier.errors import TrustError


@dataclass(frozen=True)
class Chunks:
    """A member that is made while it is written: its size in bytes, and its parts in order."""

    nbytes: int
    parts: Iterator[bytes]


Source = Path | bytes | bytearray | memoryview | Chunks
"""What a member is written from: a file, the bytes themselves, or what makes them."""

_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_CHUNK = 1 << 20
_VERSION, _VERSION64 = 20, 45
_UNIX_FILE = 3 << 8
_UTF8 = 1 << 11
_TIME, _DATE = 0, 0x21  # 1980-01-01 00:00, the earliest time a zip can state
_ATTRIBUTES = 0o100600 << 16
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")


@dataclass(frozen=True)
class _Member:
    """A member's name and contents' size and CRC-32, and where its local header begins."""

    name: str
    size: int
    crc: int
    offset: int

    def local_header(self) -> bytes:
        wide = self.size >= _MAX32
        extra = struct.pack("<2H2Q", 1, 16, self.size, self.size) if wide else b""
        size = _MAX32 if wide else self.size
        name = self.name.encode()
        fixed = struct.pack(
            "<4s5H3L2H",
            *(b"PK\x03\x04", _VERSION64 if wide else _VERSION, _UTF8, 0, _TIME, _DATE),
            *(self.crc, size, size, len(name), len(extra)),
        )
        return fixed + name + extra

    def central_header(self) -> bytes:
        wide = [value for value in (self.size, self.size, self.offset) if value >= _MAX32]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        version = _VERSION64 if wide else _VERSION
        size = min(self.size, _MAX32)
        name = self.name.encode()
        fixed = _CENTRAL.pack(
            *(b"PK\x01\x02", _UNIX_FILE | version, version, _UTF8, 0, _TIME, _DATE),
            *(self.crc, size, size, len(name), len(extra), 0, 0, 0),
            *(_ATTRIBUTES, min(self.offset, _MAX32)),
        )
        return fixed + name + extra

    @property
    def start(self) -> int:
        """Where the contents begin."""
        return self.offset + len(self.local_header())


def _directory(members: list[_Member], start: int) -> bytes:
    """Everything after the last member's contents, which end at ``start``."""
    central = b"".join(member.central_header() for member in members)
    count, size = len(members), len(central)
    end64 = b""
    if count >= _MAX16 or size >= _MAX32 or start >= _MAX32:
        sizes = (count, count, size, start)
        end64 = _END64.pack(b"PK\x06\x06", 44, _UNIX_FILE | _VERSION64, _VERSION64, 0, 0, *sizes)
        end64 += _LOCATOR64.pack(b"PK\x06\x07", 0, start + size, 1)
    short = min(count, _MAX16)
    end = _END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, _MAX32), min(start, _MAX32), 0)
    return central + end64 + end


class ArchiveWriter:
    """Writes the canonical layout to a seekable file; the directory is written on leaving the block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: list[_Member] = []
        self._end = 0

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.write(_directory(self._members, self._end))

    def add(self, name: str, source: Source) -> tuple[str, int]:
        """Append a member; its SHA-256 (hex) and size in bytes."""
        size = _size(source)
        header_size = len(_Member(name, size, 0, self._end).local_header())
        self._file.seek(self._end + header_size)
        digest, crc, written = hashlib.sha256(), 0, 0
        for chunk in _chunks(source):
            digest.update(chunk)
            crc = zlib.crc32(chunk, crc)
            written += self._file.write(chunk)
        if written != size:
            raise OSError(f"{name} changed while it was read: {size} bytes expected, {written} found")
        member = _Member(name, size, crc, self._end)
        self._file.seek(self._end)
        self._file.write(member.local_header())
        self._file.seek(0, 2)
        self._members.append(member)
        self._end += header_size + size
        return digest.hexdigest(), size


def _size(source: Source) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    return source.nbytes if isinstance(source, Chunks) else memoryview(source).nbytes


def _chunks(source: Source) -> Iterator[bytes | memoryview]:
    if isinstance(source, Chunks):
        yield from source.parts
        return
    if isinstance(source, Path):
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        return
    view = memoryview(source).cast("B") if memoryview(source).nbytes else memoryview(b"")
    for start in range(0, len(view), _CHUNK):
        yield view[start : start + _CHUNK]


class Archive:
    """A canonical archive opened for reading, memory-mapped."""

    def __init__(self, path: Path) -> None:
        """``OSError`` where the file cannot be read, :class:`TrustError` where it is not canonical."""
        with path.open("rb") as file:
            try:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError:
                raise _damaged("the file is empty") from None
        try:
            found = _parse(self._data)
        except (struct.error, UnicodeDecodeError):
            raise _damaged("its directory cannot be read") from None
        self._members: dict[str, _Member] = {}
        end = 0
        for name, size, crc in found:
            member = _Member(name, size, crc, end)
            if name in self._members:
                raise _damaged(f"member {name} occurs twice")
            if self._data[end : member.start] != member.local_header():
                raise _damaged(f"the header of member {name} was altered")
            self._members[name] = member
            end = member.start + size
        if self._data[end:] != _directory(list(self._members.values()), end):
            raise _damaged("its directory was altered")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        return list(self._members)

    def read(self, name: str) -> memoryview:
        """A member's contents, not copied; :class:`TrustError` if there is none of that name."""
        if name not in self._members:
            raise TrustError(f"the bundle lacks {name}")
        member = self._members[name]
        return self._data[member.start : member.start + member.size]


def _damaged(why: str) -> TrustError:
    return TrustError(
        f"this is no bundle, or a damaged one: {why}.", "Get it again from the registry that wrote it."
    )


def _parse(data: memoryview) -> list[tuple[str, int, int]]:
    """(name, size, CRC) of each member from the central directory; the caller checks all other bytes."""
    if len(data) < _END.size or bytes(data[-_END.size :][:4]) != b"PK\x05\x06":
        raise _damaged("the end of a bundle is missing")
    *_, count, size, start, _ = _END.unpack(data[-_END.size :])
    if count == _MAX16 or _MAX32 in (size, start):
        *_, at, _ = _LOCATOR64.unpack_from(data, len(data) - _END.size - _LOCATOR64.size)
        *_, count, size, start = _END64.unpack_from(data, at)
    members = []
    for _ in range(count):
        fields = _CENTRAL.unpack_from(data, start)
        crc, member_size, name_size, extra_size = fields[7], fields[9], fields[10], fields[11]
        start += _CENTRAL.size
        name = bytes(data[start : start + name_size]).decode()
        if member_size == _MAX32:
            (member_size,) = struct.unpack_from("<Q", data, start + name_size + 4)
        members.append((name, member_size, crc))
        start += name_size + extra_size
    return members
