from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from verifier.jpeg import LONGEST_HEADER, one_scan

PICTURE = Image.linear_gradient("L").convert("RGB")


def encoded(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PICTURE.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_cameras_write_has_one_scan(mode: str) -> None:
    profile = bytes(200_000)  # takes several segments
    for options in ({}, {"icc_profile": profile}, {"comment": "hello"}, {"restart_marker_rows": 1}):
        assert one_scan(encoded(mode, **options))


def test_progressive_files_have_several() -> None:
    assert not one_scan(encoded(progressive=True))


def test_a_first_scan_without_all_components_is_one_of_several() -> None:
    data = bytearray(encoded())
    data[data.index(b"\xff\xda") + 4] = 1
    assert not one_scan(bytes(data))


def test_only_a_plain_header_is_believed() -> None:
    data = encoded()
    comment = b"\xff\xfe" + (65_535).to_bytes(2) + b"\xff\xda" + bytes(65_531)
    assert one_scan(data[:2] + comment + data[2:]), "a marker within a segment is none"
    for between in (b"\0", b"\xff", b"\xff\xd0", b"\xff\xc2\0\2", data[data.index(b"\xff\xc0") :][:19]):
        assert not one_scan(data[:2] + between + data[2:])
    assert not one_scan(data[:2] + comment * (LONGEST_HEADER // len(comment) + 1) + data[2:])


def test_a_header_that_ends_anywhere_is_none() -> None:
    data = encoded()
    assert not any(one_scan(data[:end]) for end in range(data.index(b"\xff\xda") + 5))
