from __future__ import annotations

import io
import random

import pytest

from registry.backup import sealed
from registry.backup.sealed import SealedReader, SealedWriter, is_sealed
from registry.errors import InputError, IntegrityError

PASSPHRASE = "correct horse battery staple"
CHUNK = 1000


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(sealed, "_SCRYPT", {"length": 32, "n": 2, "r": 8, "p": 1})


def seal(content: bytes, step: int = 333) -> bytes:
    target = io.BytesIO()
    writer = SealedWriter(target, PASSPHRASE)
    for start in range(0, len(content), step):
        writer.write(content[start : start + step])
    writer.finish()
    return target.getvalue()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7])
def test_what_was_written_is_read_from_any_place(size: int) -> None:
    content = random.Random(size).randbytes(size)
    stored = seal(content)
    assert is_sealed(io.BytesIO(stored))
    reader = io.BufferedReader(SealedReader(io.BytesIO(stored), PASSPHRASE), 100)
    assert reader.read() == content
    assert reader.seek(0, io.SEEK_END) == size
    for start in {0, size // 2, max(0, size - 3)}:
        reader.seek(start)
        assert reader.read(CHUNK) == content[start : start + CHUNK]


def test_the_content_does_not_show() -> None:
    content = b"ada@example.org" * 1000
    assert b"ada@" not in seal(content)
    assert seal(content) != seal(content)


def test_another_passphrase_does_not_open_it() -> None:
    with pytest.raises(InputError, match="passphrase"):
        SealedReader(io.BytesIO(seal(b"secret")), "another passphrase")


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_file_cut_off_between_chunks_is_noticed(kept: int) -> None:
    stored = seal(bytes(4 * CHUNK + 1))
    cut = stored[: len(stored) - 17 - (4 - kept) * (CHUNK + 16)]
    with pytest.raises((InputError, IntegrityError)):
        SealedReader(io.BytesIO(cut), PASSPHRASE).read()


def test_swapped_and_altered_chunks_are_noticed() -> None:
    stored = seal(bytes(3 * CHUNK))
    start = len(stored) - 3 * (CHUNK + 16)
    chunks = [stored[start + i * (CHUNK + 16) :][: CHUNK + 16] for i in range(3)]
    swapped = stored[:start] + chunks[0] + chunks[2] + chunks[1]
    altered = bytearray(stored)
    altered[-1] ^= 1
    for damaged in (swapped, bytes(altered)):
        with pytest.raises(IntegrityError, match="damaged or was cut off"):
            SealedReader(io.BytesIO(damaged), PASSPHRASE).read()


def test_the_header_belongs_to_the_content() -> None:
    stored = bytearray(seal(b"content"))
    stored[len(sealed.MAGIC) + 20] ^= 1
    with pytest.raises(InputError):
        SealedReader(io.BytesIO(bytes(stored)), PASSPHRASE)
