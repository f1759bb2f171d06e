"""What a scan reads: folders, patterns, lists, archives and object storage, as a stream of items.

    for item in listed(["photos", "more.tar.gz", "s3://bucket/crawl/", "list.txt", "shots/**/*.jpg"]):
        item.name, read_item(item)

- A *folder* is walked with its subfolders; links are followed, each real folder once, so loops end.
- A *list* is a text file with a source a line (no further lists), relative to the current folder.
- An *archive* (zip, tar, tar.gz, .bz2, .xz) is read where it is, nothing is unpacked; inside of folders it is
  known by its name. Archives in archives are not opened.
- ``s3://bucket/prefix`` through pyarrow, which takes credentials, region and endpoint from AWS's usual
  variables and files.

Whatever cannot be listed is an item with an ``error``, so that it ends up beside the findings. What was found
in a folder, archive or bucket and is no image is passed over; what was ``named`` is then an error.
"""

from __future__ import annotations

import bz2
import functools
import glob
import gzip
import lzma
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import IO, Any

from verifier.errors import InputError
from verifier.images import MAX_BYTES, known_format, read_bounded

S3 = "s3://"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
INSIDE = "!/"
"""Between the name of an archive and that of its member."""

_PATTERN = re.compile(r"[*?\[]")
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, RuntimeError, zlib.error),
    *(lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)
_UNREADABLE: tuple[type[Exception], ...] = (*_DAMAGE, KeyError, NotImplementedError)
_HEAD = 32
_LONGEST_LINE = 1 << 16

_opened = threading.local()  # the archive that each thread read last


@dataclass(frozen=True)
class Item:
    """A file, or an archive's ``member``, that may be an image. ``place`` is a path or an s3 address.

    In a tar ``offset`` is where the member's bytes begin; ``stamp`` is when the archive was changed last
    (nanoseconds), 0 where nobody tells.
    """

    place: str
    member: str = ""
    offset: int = 0
    size: int = 0
    stamp: int = 0
    named: bool = False
    error: str = ""

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"{self.place}{INSIDE}{self.member}" if self.member else self.place

    @property
    def folder(self) -> str:
        """The folder that holds it, within its archive or bucket."""
        return self.name.rpartition("/")[0]


def listed(sources: Iterable[str]) -> Iterator[Item]:
    """Everything that the sources hold, an item at a time."""
    for source in sources:
        yield from _source(source, lists=True)


def read_item(item: Item) -> bytes:
    """The item's bytes; :class:`InputError` where it cannot be read, is too large or changed meanwhile."""
    if item.error:
        raise InputError(item.error)
    if not item.member and not item.place.startswith(S3):
        return read_bounded(item.place)
    data = _bytes(item, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{item.name} is larger than {MAX_BYTES >> 20} MiB.")
    if not data:
        raise InputError(f"{item.name} is empty.")
    return data


def is_image(item: Item) -> bool:
    """Whether its first bytes announce an image; :class:`InputError` where they cannot be read."""
    return not item.error and known_format(_bytes(item, _HEAD)) is not None


def _bytes(item: Item, most: int) -> bytes:
    """The item's first ``most`` bytes."""
    if item.member:
        return _read_member(item, most)
    try:
        with _open(item.place) as file:
            return bytes(file.read(most))
    except OSError as error:
        raise InputError(f"cannot read {item.name}: {_told(error)}.") from None


def _source(source: str, lists: bool = False) -> Iterator[Item]:
    if source.startswith(S3):
        yield from _bucket(source)
    elif os.path.isdir(source):  # noqa: PTH112 - a path may be no valid Path (NUL)
        yield from _walk(source)
    elif _PATTERN.search(source) and not os.path.lexists(source):
        found = False
        for path in glob.iglob(source, recursive=True, include_hidden=False):  # noqa: PTH207 - a stream
            found = True
            if not os.path.isdir(path):  # noqa: PTH112 - "**" names the folders themselves, too
                yield from _file(path)
        if not found:
            yield Item(source, named=True, error=f"{source}: no file matches this pattern.")
    elif not os.path.isfile(source):  # noqa: PTH113
        yield Item(source, named=True)  # reading it says what it is
    elif _is_archive(source):
        yield from _archive(source)
    elif lists and _is_text(source):
        yield from _list(source)
    else:
        yield Item(source, named=True)


def _file(path: str, size: int = 0) -> Iterator[Item]:
    if path.lower().endswith(ARCHIVES):
        yield from _archive(path)
    else:
        yield Item(path, size=size)


def _walk(top: str) -> Iterator[Item]:
    """The files below a folder; each folder is visited once, however many links lead there."""
    seen: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            about = os.stat(folder)  # noqa: PTH116
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            entries = os.scandir(folder)
        except OSError as error:
            yield Item(folder, error=f"cannot list {folder}: {error.strerror}.")
            continue
        with entries:
            for entry in entries:
                try:
                    mode = entry.stat().st_mode
                except OSError:  # a link to nothing or to itself: reading it says so
                    yield Item(entry.path)
                    continue
                if stat.S_ISDIR(mode):
                    waiting.append(entry.path)
                elif stat.S_ISREG(mode):
                    yield from _file(entry.path, entry.stat().st_size)


def _list(path: str) -> Iterator[Item]:
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
        while line := lines.readline(_LONGEST_LINE):
            if source := line.rstrip("\r\n"):
                yield from _source(source)


def _is_text(path: str) -> bool:
    """Whether a file can be a list: text whose first bytes announce no image."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(4096)
    except OSError:
        return False
    return bool(head) and b"\0" not in head and known_format(head) is None


def _is_archive(path: str) -> bool:
    try:
        return tarfile.is_tarfile(path) or zipfile.is_zipfile(path)
    except OSError:
        return False


def _archive(place: str) -> Iterator[Item]:
    """An archive's members, as far as it is sound."""
    try:
        stamp = 0 if place.startswith(S3) else os.stat(place).st_mtime_ns  # noqa: PTH116
        with _open(place) as file:
            if file.read(4) == b"PK\3\4":
                yield from _zip_items(place, stamp, file)
            else:
                yield from _tar_items(place, stamp, file)
    except _DAMAGE as error:
        yield Item(place, error=f"{place} is a damaged or truncated archive: {_told(error)}.")


def _zip_items(place: str, stamp: int, file: IO[bytes]) -> Iterator[Item]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            error = f"{place}{INSIDE}{info.filename} is encrypted." if info.flag_bits & 1 else ""
            yield Item(place, info.filename, 0, info.file_size, stamp, error=error)


def _tar_items(place: str, stamp: int, file: IO[bytes]) -> Iterator[Item]:
    with _decompressed(file) as plain, tarfile.open(fileobj=plain, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if member.isreg():
                yield Item(place, member.name, member.offset_data, member.size, stamp)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    for magic, opening in _COMPRESSED.items():
        if head.startswith(magic):
            return opening(file, "rb")  # type: ignore[operator, no-any-return]
    return file


def _read_member(item: Item, most: int) -> bytes:
    """From this thread's open archive. Members are read in the order of their places, so that a compressed
    tar is gone through once."""
    try:
        if getattr(_opened, "place", None) != item.place:
            _close()
            _opened.file = _open(item.place)
            zipped = _opened.file.read(4) == b"PK\3\4"
            _opened.archive = zipfile.ZipFile(_opened.file) if zipped else _decompressed(_opened.file)
            _opened.place = item.place
        if item.stamp and os.stat(item.place).st_mtime_ns != item.stamp:  # noqa: PTH116
            raise InputError(
                f"{item.place} changed since it was listed.", "Scan it again once it is written."
            )
        archive: Any = _opened.archive
        if isinstance(archive, zipfile.ZipFile):
            with archive.open(item.member) as member:
                return member.read(most)
        archive.seek(item.offset)
        data: bytes = archive.read(min(item.size, most))
    except _UNREADABLE as error:
        _close()
        raise InputError(f"{item.name} cannot be read: {_told(error)}.") from None
    if len(data) < min(item.size, most):
        raise InputError(f"{item.name} is cut off.")
    return data


def _close() -> None:
    for handle in (getattr(_opened, "archive", None), getattr(_opened, "file", None)):
        if handle is not None:
            with suppress(*_DAMAGE):
                handle.close()
    _opened.__dict__.clear()


def _bucket(source: str) -> Iterator[Item]:
    """The objects below an address, one level at a time; a pattern's fixed part says where to look."""
    from pyarrow import fs

    storage = _s3()
    pattern = source[len(S3) :] if _PATTERN.search(source) else None
    fixed = _PATTERN.split(source)[0].rpartition("/")[0] if pattern else source.rstrip("/")
    waiting, found = [fixed[len(S3) :]], False
    try:
        top = storage.get_file_info(waiting[0])
        if top.type == fs.FileType.File:
            yield from (_archive(source) if source.lower().endswith(ARCHIVES) else [Item(source, named=True)])
            return
        while waiting:
            for info in storage.get_file_info(fs.FileSelector(waiting.pop())):
                if info.type == fs.FileType.Directory:
                    waiting.append(info.path)
                elif pattern is None or fnmatchcase(info.path, pattern):
                    found = True
                    yield from _file(S3 + info.path, info.size or 0)
    except OSError as error:
        yield Item(source, named=True, error=f"cannot list {source}: {_told(error)}.")
    else:
        if not found:
            yield Item(source, named=True, error=f"{source}: there is no object of this name.")


def _s3() -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return _storage(endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"))


@functools.cache
def _storage(endpoint: str | None, region: str | None) -> Any:
    """A connection, for all threads; pyarrow finds credentials by itself."""
    from pyarrow import fs

    scheme, _, host = (endpoint or "").rpartition("://")
    place = {"scheme": scheme or "https", "endpoint_override": host.rstrip("/")} if endpoint else {}
    return fs.S3FileSystem(**place, **({"region": region} if region else {}))


def _open(place: str) -> Any:
    """A file or object, open for reading at any place."""
    if not place.startswith(S3):
        return open(place, "rb")  # noqa: PTH123 - closed by the caller
    try:
        return _s3().open_input_file(place[len(S3) :])
    except OSError as error:
        raise InputError(f"cannot read {place}: {_told(error)}.") from None


def _told(error: BaseException) -> str:
    """An error's first line."""
    lines = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")
