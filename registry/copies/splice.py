"""A safetensors file with a few tensors replaced, as a sequence of byte ranges.

    spliced = splice(open_file, size, {"fingerprint": delta}, {"hallmark.certificate": "..."})
    spliced.size                                   # known before any tensor is read
    for chunk in spliced.chunks(file): ...         # constant memory, the same bytes every time

The file format: 8 bytes little-endian header length, a JSON header with the dtype, shape and byte range
of each tensor, then the tensors. Only the header and the ranges of changed tensors are new; everything
between is copied.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from registry.errors import IntegrityError

PART_BYTES = 256 << 10
"""What is read of a base file at a time: it is still in the processor's cache when it is hashed or sent."""

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_LARGEST_HEADER = 100_000_000  # what the safetensors library accepts
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}

Delta = NDArray[np.float64]


@dataclass(frozen=True)
class Spliced:
    """Pieces in order: new bytes, or a range (offset, length) of the base file."""

    pieces: tuple[bytes | tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return sum(len(piece) if isinstance(piece, bytes) else piece[1] for piece in self.pieces)

    def chunks(self, base: BinaryIO) -> Iterator[bytes]:
        """The file's bytes in order, at most ``PART_BYTES`` at a time."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from read_range(base, *piece)


def whole(size: int) -> Spliced:
    """A file of ``size`` bytes copied as it is."""
    return Spliced(((0, size),) if size else ())


def splice(base: BinaryIO, size: int, deltas: Mapping[str, Delta], metadata: Mapping[str, str]) -> Spliced:
    """Plan the file ``base`` of ``size`` bytes with ``deltas`` on its tensors and ``metadata`` in its header.

    A value is ``base + delta`` in double precision, rounded once to the tensor's own type.
    :class:`IntegrityError` where the base has no such tensor or is no safetensors file.
    """
    header, start = _read_header(base, size)
    pieces: list[bytes | tuple[int, int]] = [_header_bytes(header, metadata)]
    position = start
    ranges = sorted((header[name]["data_offsets"], name) for name in deltas if name in header)
    if len(ranges) != len(deltas):
        missing = sorted(set(deltas) - set(header))[0]
        raise IntegrityError(f"the template has no tensor {missing}, which the basis changes.", _HINT)
    for (first, last), name in ranges:
        if start + first > position:
            pieces.append((position, start + first - position))
        base.seek(start + first)
        pieces.append(_changed(name, header[name], base.read(last - first), deltas[name]))
        position = start + last
    if size > position:
        pieces.append((position, size - position))
    return Spliced(tuple(pieces))


_HINT = "The storage was altered or damaged; restore it from its backup."


def _read_header(base: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    prefix = base.read(_LENGTH.size)
    length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else size
    if length > min(size - _LENGTH.size, _LARGEST_HEADER):
        raise IntegrityError("a stored weight file is no safetensors file.", _HINT)
    try:
        header = json.loads(base.read(length))
    except ValueError:
        raise IntegrityError("a stored weight file has an unreadable header.", _HINT) from None
    return header, _LENGTH.size + length


def _header_bytes(header: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    known = {**header.get("__metadata__", {}), **metadata}
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    # Tensors keep their order; entries of the metadata are sorted, as their order in a file is arbitrary.
    header = {"__metadata__": dict(sorted(known.items())), **tensors}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return _LENGTH.pack(len(text)) + text


def _changed(name: str, entry: Mapping[str, Any], raw: bytes, delta: Delta) -> bytes:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if shape != delta.shape:
        raise IntegrityError(f"tensor {name} has shape {shape}, the basis changes {delta.shape}.", _HINT)
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return _to_bfloat16(bits.view(np.float32).astype(np.float64).reshape(shape) + delta)
    if dtype not in _FLOATS:
        raise IntegrityError(f"tensor {name} is of type {dtype}; a fingerprint needs floating point.", _HINT)
    value: Delta = np.frombuffer(raw, _FLOATS[dtype]).astype(np.float64).reshape(shape) + delta
    return value.astype(_FLOATS[dtype]).tobytes()


def _to_bfloat16(value: Delta) -> bytes:
    """Round to nearest, ties to even, by way of float32."""
    bits = value.astype("<f4").view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    halves: NDArray[np.uint16] = (rounded >> 16).astype("<u2")
    return halves.tobytes()


def read_range(base: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    """``length`` bytes of ``base`` from ``offset`` on, at most ``PART_BYTES`` at a time."""
    base.seek(offset)
    while length:
        chunk = base.read(min(length, PART_BYTES))
        if not chunk:
            raise IntegrityError("a stored file became shorter while it was read.", _HINT)
        length -= len(chunk)
        yield chunk
