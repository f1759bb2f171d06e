"""Hostile files: whatever the bytes, decoding ends with an RGB image or an InputError of one line, silently.

``bench/images.py`` does the same with as many mutations as one likes, limits on memory and time, and counts.
"""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.images import mutated, seeds
from verifier.errors import InputError
from verifier.images import FORMATS, decode

SEEDS = seeds()
MUTATIONS = 500


def outcome(data: bytes) -> str:
    """The error, or "" for an image; anything but those two fails the test."""
    try:
        decoded = decode(data, "hostile")
    except InputError as error:
        reason = error.diagnostics()
    else:
        reason = ""
    if reason:
        assert "hostile" in reason
        assert "\n" not in reason
        return reason
    assert decoded.image.mode == "RGB"
    assert min(decoded.image.size) >= 16
    return ""


def test_there_are_seeds_of_every_format() -> None:
    assert {kind for kind, _ in SEEDS} == set(FORMATS)
    assert [outcome(data) for _, data in SEEDS] == [""] * len(SEEDS)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_files_give_an_image_or_an_error_and_no_noise(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(kind)
    of_kind = [data for name, data in SEEDS if name == kind]
    outcomes = [outcome(mutated(generator.choice(of_kind), generator)) for _ in range(MUTATIONS)]
    assert 0 < outcomes.count("") < MUTATIONS
    assert capfd.readouterr() == ("", "")


SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"MM\0*", b"GIF89a"),
    *(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
)


@settings(max_examples=400)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=400))
def test_noise_behind_a_signature_is_an_error(signature: bytes, noise: bytes) -> None:
    assert outcome(signature + noise)


@settings(max_examples=300)
@given(
    width=st.integers(0, 2**32 - 1) | st.integers(0, 64),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 64),
    depth=st.sampled_from([0, 1, 2, 4, 8, 16, 255]),
    colour=st.integers(0, 7),
    interlaced=st.integers(0, 2),
    body=st.binary(max_size=4000),
    extra=st.lists(st.tuples(st.sampled_from([b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"zTXt"]),
                             st.binary(max_size=60)), max_size=4),
)  # fmt: skip
def test_pngs_of_sound_chunks_and_unsound_contents(
    width: int, height: int, depth: int, colour: int, interlaced: int, body: bytes,
    extra: list[tuple[bytes, bytes]],
) -> None:  # fmt: skip
    """Checksums hold, so that the contents are reached and not only the checksums' test."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    outcome(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks))


ENTRY = st.tuples(
    st.sampled_from(
        [256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 324, 330, 338, 339]
    )
    | st.integers(0, 65535),
    st.integers(0, 18),
    st.integers(0, 64) | st.integers(0, 2**32 - 1),
    st.integers(0, 300) | st.integers(0, 2**32 - 1),
)


@settings(max_examples=300)
@given(entries=st.lists(ENTRY, max_size=14), body=st.binary(max_size=600), following=st.integers(0, 64))
def test_tiffs_of_any_directory(
    entries: list[tuple[int, int, int, int]], body: bytes, following: int
) -> None:
    directory = b"".join(struct.pack("<2H2I", *entry) for entry in sorted(entries))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    outcome(head + directory + struct.pack("<I", following) + body)
