"""Any range of a laid-out file or archive is that range of the whole; ranges sent add up."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.copies.archive import archive
from registry.copies.layout import Layout, Stored
from registry.copies.sent import MOST_RANGES, Sent, merged
from registry.errors import IntegrityError
from registry.storage import Storage

BASE = bytes(range(256)) * 4

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.tuples(st.integers(0, 900), st.integers(0, 100)).map(lambda part: Stored("base", *part)),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(str(tmp_path_factory.mktemp("storage")))
    storage.put_bytes("base", BASE)
    return storage


def content_of(pieces: list[bytes | Stored]) -> bytes:
    return b"".join(
        piece if isinstance(piece, bytes) else BASE[piece.offset : piece.offset + piece.length]
        for piece in pieces
    )


@settings(max_examples=200)
@given(pieces=PIECES, start=st.integers(0, 400), length=st.integers(0, 400))
def test_any_range_is_that_range_of_the_whole(
    storage: Storage, pieces: list[bytes | Stored], start: int, length: int
) -> None:
    layout, whole = Layout(pieces), content_of(pieces)
    assert layout.size == len(whole)
    assert b"".join(layout.chunks(storage)) == whole
    assert b"".join(layout.chunks(storage, start, start + length)) == whole[start : start + length]


def test_chunks_are_bounded_and_a_cut_off_base_is_noticed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.copies.splice.PART_BYTES", 100)
    assert {len(chunk) for chunk in Layout([Stored("base", 0, 1000)]).chunks(storage)} == {100}
    with pytest.raises(IntegrityError, match="shorter"):
        list(Layout([Stored("base", 1000, 100)]).chunks(storage))


FILES = {
    "model_index.json": b"{}\n",
    "empty": b"",
    "deep/" * 70 + "a-name-that-is-longer-than-ustar-takes.safetensors": b"x" * 512,
    "unet/größe.txt": b"y" * 513,
    "unet/weights.safetensors": BASE * 3,
}


def test_an_archive_is_what_tar_reads(storage: Storage, tmp_path: Path) -> None:
    layouts = {path: Layout([content]) for path, content in FILES.items()}
    made = archive("copy", layouts, 1_700_000_000)
    content = b"".join(made.chunks(storage))
    assert len(content) == made.size
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == sorted(f"copy/{path}" for path in FILES)
        assert {(m.mtime, m.mode, m.uid, m.uname) for m in members} == {(1_700_000_000, 0o644, 0, "")}
    (tmp_path / "copy.tar").write_bytes(content)
    subprocess.run(["tar", "xf", "copy.tar"], cwd=tmp_path, check=True)
    for path, expected in FILES.items():
        assert (tmp_path / "copy" / path).read_bytes() == expected
    reordered = archive("copy", dict(reversed(layouts.items())), 1_700_000_000)
    assert b"".join(reordered.chunks(storage)) == content


def test_an_archive_holds_files_beyond_the_limit_of_old_tar() -> None:
    large = Layout([Stored("base", 0, 9 << 30)])
    made = archive("copy", {"weights": large}, 0)
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(p for p in made.pieces[:1] if isinstance(p, bytes)))
    ) as tar:
        header = tar.next()
    assert header is not None
    assert header.size == 9 << 30
    assert made.size > 9 << 30


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_ranges_that_were_sent_add_up(parts: list[tuple[int, int]]) -> None:
    sent = Sent.of({"": 60, "empty": 0}, tag="t", sha256="s", size=1)
    bytes_sent = set()
    for start, length in parts:
        sent.add("", start, min(start + length, 60))
        bytes_sent |= set(range(start, min(start + length, 60)))
        sent = Sent.load(sent.dump())
    assert sent.bytes_sent == len(bytes_sent)
    assert sent.complete == (len(bytes_sent) == 60)


def test_scattered_requests_do_not_grow_without_bound() -> None:
    kept = merged([[4 * i, 4 * i + 1 + (i == 7)] for i in range(10 * MOST_RANGES)])
    assert len(kept) == MOST_RANGES
    assert [28, 30] in kept
    assert kept == sorted(kept)
