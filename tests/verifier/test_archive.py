from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier import archive
from verifier.archive import Archive, ArchiveWriter
from verifier.errors import TrustError

MEMBERS = {"a.txt": b"hello", "folder/empty": b"", "folder/long.bin": bytes(range(256)) * 20}


def written(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with ArchiveWriter(file) as writer:
        for name, content in members.items():
            assert writer.add(name, content) == (hashlib.sha256(content).hexdigest(), len(content))
    return file.getvalue()


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "archive"
    path.write_bytes(data)
    return path


@given(st.dictionaries(st.text("abcé/._-", min_size=1, max_size=9), st.binary(max_size=300), max_size=5))
@settings(max_examples=50)
def test_what_was_written_is_read_here_and_by_any_zip_tool(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    path = saved(tmp_path_factory.mktemp("archive"), written(members))
    opened = Archive(path)
    assert {name: bytes(opened.read(name)) for name in opened.names()} == members
    with zipfile.ZipFile(path) as other:
        assert other.testzip() is None
        assert {name: other.read(name) for name in other.namelist()} == members


def test_no_byte_of_the_container_can_be_changed_added_or_left_out(tmp_path: Path) -> None:
    data = written(MEMBERS)
    contents = [(data.index(content), len(content)) for content in MEMBERS.values() if content]
    for i in range(len(data)):
        if any(start <= i < start + length for start, length in contents):
            continue  # what the digests in the manifest are for
        with pytest.raises(TrustError):
            Archive(saved(tmp_path, data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :]))
    for length in range(0, len(data), 7):
        with pytest.raises(TrustError):
            Archive(saved(tmp_path, data[:length]))
    for more in (data + b"\0", b"\0" + data, data + data):
        with pytest.raises(TrustError):
            Archive(saved(tmp_path, more))


def test_a_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with ArchiveWriter(file) as writer:
        writer.add("a", b"1")
        writer.add("a", b"2")
    with pytest.raises(TrustError, match="twice"):
        Archive(saved(tmp_path, file.getvalue()))


def test_members_come_from_files_as_well(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    with (tmp_path / "archive").open("wb") as file, ArchiveWriter(file) as writer:
        writer.add("x", source)
    assert bytes(Archive(tmp_path / "archive").read("x")) == source.read_bytes()


def test_large_members_and_many_of_them_take_zip64_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limits lowered, so that 4 GiB and 65 535 members need not be written.
    monkeypatch.setattr(archive, "_MAX32", 1000)
    monkeypatch.setattr(archive, "_MAX16", 2)
    path = saved(tmp_path, written(MEMBERS))
    assert {name: bytes(Archive(path).read(name)) for name in MEMBERS} == MEMBERS


def test_a_zip_file_with_four_gibibytes_in_it(tmp_path: Path) -> None:
    # Sparse: the archive's layout beyond 32 bits as zipfile reads it, without writing the zeros.
    size = (1 << 32) + 5
    large = archive._Member("large", size, 0, 0)
    small = archive._Member("small", 3, 0x352441C2, large.start + size)
    with (tmp_path / "archive").open("wb") as file:
        file.write(large.local_header())
        file.seek(small.offset)
        file.write(small.local_header() + b"abc")
        file.write(archive._directory([large, small], small.start + 3))
    with zipfile.ZipFile(tmp_path / "archive") as other:
        assert [(info.filename, info.file_size) for info in other.infolist()] == [
            ("large", size),
            ("small", 3),
        ]
        assert other.read("small") == b"abc"
    assert bytes(Archive(tmp_path / "archive").read("small")) == b"abc"


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="lacks nothing-here"):
        Archive(saved(tmp_path, written(MEMBERS))).read("nothing-here")
