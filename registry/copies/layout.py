"""A file that is laid out but never stored: any range of it can be read, in constant memory.

    layout = Layout.of("templates/<digest>/vae.safetensors", spliced)     # or Layout([pieces])
    layout.size
    for chunk in layout.chunks(storage, start, stop): ...                  # bytes start <= i < stop

A piece is either new bytes or a range of a stored file, so a copy's file, and a whole archive of files, are
each one list of pieces (:mod:`registry.copies.splice`, :mod:`registry.copies.archive`).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from registry.copies.splice import Spliced, read_range
from registry.storage import Storage


@dataclass(frozen=True)
class Stored:
    """A range of a stored file."""

    name: str
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Piece = bytes | Stored


class Layout:
    """Pieces in order."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = tuple(piece for piece in pieces if len(piece))

    @classmethod
    def of(cls, name: str, spliced: Spliced) -> Layout:
        """The file ``spliced`` whose unchanged ranges are those of the stored file ``name``."""
        return cls(piece if isinstance(piece, bytes) else Stored(name, *piece) for piece in spliced.pieces)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(piece) for piece in self.pieces))

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._ends[-1] if self._ends else 0

    @property
    def new_bytes(self) -> int:
        """Bytes that are held in memory."""
        return sum(len(piece) for piece in self.pieces if isinstance(piece, bytes))

    @property
    def stored_name(self) -> str | None:
        """The stored file of which this is the whole, unchanged; ``None`` where there are new bytes."""
        only = self.pieces[0] if len(self.pieces) == 1 else None
        return only.name if isinstance(only, Stored) else None

    def chunks(self, storage: Storage, start: int = 0, stop: int | None = None) -> Generator[bytes]:
        """Bytes ``start <= i < stop`` (default: to the end), in chunks of a bounded size."""
        stop = self.size if stop is None else min(stop, self.size)
        at = bisect_right(self._ends, start)
        while start < stop:
            piece, end = self.pieces[at], self._ends[at]
            first = start - (end - len(piece))
            length = min(end, stop) - start
            if isinstance(piece, bytes):
                yield piece[first : first + length]
            else:
                yield from _range(storage, piece.name, piece.offset + first, length)
            start, at = start + length, at + 1

    def sha256(self, storage: Storage, seen: Callable[[int], None] = lambda _: None) -> str:
        """SHA-256 (hex) of all bytes; ``seen`` is told the length of each chunk that was hashed."""
        digest = hashlib.sha256()
        for chunk in self.chunks(storage):
            digest.update(chunk)
            seen(len(chunk))
        return digest.hexdigest()


def _range(storage: Storage, name: str, offset: int, length: int) -> Iterator[bytes]:
    with storage.open(name) as file:
        yield from read_range(file, offset, length)
