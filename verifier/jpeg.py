"""What a JPEG's header says of the work that its decoding takes.

    one_scan(data)      # its pixels are gone over once

A file whose first scan holds all components is decoded in one pass, row by row: the time is bounded by its
bytes and pixels, and no coefficients are kept. libjpeg refuses such a file if a second scan follows. Others,
progressive ones above all, have as many passes as their writer liked (ISO/IEC 10918-1, annexes B and G).
"""

from __future__ import annotations

LONGEST_HEADER = 1 << 20
"""Bytes before the scan; cameras write some tens of thousands. Reading them takes Pillow time as well."""

_START_OF_FRAME = {0xC0, 0xC1}  # baseline and extended sequential, Huffman codes
_START_OF_SCAN = 0xDA
_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # Huffman and quantisation tables, restart, comments


def one_scan(data: bytes) -> bool:
    """Whether the picture lies in one scan, sequential and Huffman-coded, after a plain header.

    Plain: nothing but the usual segments, one directly after the other, so that no reader takes it otherwise.
    """
    at, components = 2, 0
    while at < LONGEST_HEADER and data[at : at + 1] == b"\xff" and len(data) > at + 4:
        marker, content = data[at + 1], at + 4
        if marker == _START_OF_SCAN:
            return 0 < components == data[content]
        if marker in _START_OF_FRAME and not components:
            components = int.from_bytes(data[content + 5 : content + 6])
        elif marker not in _SEGMENTS:
            return False
        at += 2 + int.from_bytes(data[at + 2 : content])
    return False
