"""The search for the key behind a reading, among many.

    table = KeyTable(packed)                              # (n, k / 8) uint8, see verifier.phi
    index, score = table.top(logits, m=8)                 # the m largest <L, phi>, exactly

The maximum-likelihood key has the largest inner product with the logits. Readings are integers, so every
score here is an exact integer, whatever the order of summation: one reading is scored with look-up
tables (two bytes of a key, 16 bits, name one of 65 536 partial sums), many at once as a matrix product
in floating point, where integers below the mantissa's range stay exact.

    index = KeyIndex.of(packed)                           # the same answers, a hundred times faster
    index.top_batch(logits, m=16, floors=thresholds)      # of these, keys with at least that score

With FAISS (the extra ``search``) a product quantiser whose codebooks are the 16 sign patterns of four bits
searches 10^8 keys in a tenth of a second. **Its answers are exact, and this is why.** FAISS rounds each
table's 16 entries to steps of ``d = max span / 255``, so that a table errs by at most d / 2 and a sum of
k / 4 tables by at most ``e = k d / 8`` (and what single precision adds, :func:`_rounding`). The index gives a
shortlist of the largest rounded sums; let r be the least of them. A key outside of it has a rounded sum of
at most r, hence a score of at most r + e. The shortlist is scored exactly. If its m-th best score is above
r + e, no key outside can be among the m best; if r + e is below the floor, none outside reaches the floor.
Otherwise a longer shortlist is taken, and at last every key is scored.

    KeysInTurn([index, recent])                           # several tables as one
"""

from __future__ import annotations

import importlib.util
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verifier import blocks, phi
from verifier.blocks import Blocks, Map, Scanner
from verifier.phi import Packed

Indices = NDArray[np.int64]
Scores = NDArray[np.int64]
Logits = NDArray[np.integer]

CHUNK = 1 << 14
"""Keys scored at a time: their running sums (64 KiB) stay in the second-level cache."""

UNPACKED = 1 << 15
"""Keys unpacked at a time for a matrix product: 32 MiB at 256 bits; picking the best costs a call for each
reading and part, so parts are large."""

BATCH = 8
"""From so many readings on, unpacking the keys for a matrix product is cheaper than look-ups."""

FEW = 1 << 12
"""Up to so many keys, unpacking them for one reading is cheaper than making its look-up tables."""

INDEXED_BITS = 1024
"""Longest key that is indexed: 256 tables of entries up to 255 still sum to a 16-bit number."""

SEGMENT = 1 << 20
"""Keys searched by one thread in one go, and kept in one file."""

SHORTLISTS = (128, 4096)
"""Keys taken from the index, tried in turn until one holds the answer for certain; ties may need many."""

WORTH = 24
"""Readings in whose time an index is made."""

FEW_TO_INDEX = 1 << 14
"""Fewer keys are searched in a few milliseconds anyway."""

_LOGITS_LIMIT = 1 << 30  # bound on sum |L_j|: partial sums fit 32 bits


Found = tuple[Indices, Scores]
"""Row numbers and scores, best first, equals by row."""


class Keys(ABC):
    """Keys that can be searched."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def bits(self) -> int:
        """Length of a key."""

    @abstractmethod
    def rows(self, rows: Indices) -> Packed:
        """The keys of these rows, packed (len(rows), k / 8)."""

    @abstractmethod
    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None = None) -> list[Found]:
        """The ``m`` best keys for each of the readings (q, k); with ``floors`` (q,) only those that reach
        that score."""

    def top(self, logits: Logits, m: int) -> Found:
        """The ``m`` best keys of one reading (k,): row numbers and scores, best first, equals by row."""
        return self.top_batch(np.asarray(logits)[None], m)[0]

    def signs(self, index: int) -> NDArray[np.int8]:
        """The key of a row as (k,) of -1 and +1."""
        return phi.unpack(self.rows(np.array([index]))[0])

    def _checked(self, logits: Logits) -> NDArray[np.int32]:
        array = np.asarray(logits)
        if array.shape != (self.bits,):
            raise ValueError(f"expected {self.bits} logits, got shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"logits must be integers, not {array.dtype}")
        if int(np.abs(array.astype(np.int64)).sum()) >= _LOGITS_LIMIT:
            raise ValueError("the logits' sum is too large to score in 32 bits")
        return array.astype(np.int32)


class KeyTable(Keys):
    """Packed keys, shape (n, k / 8) uint8; the array is kept as it is (it may be mapped from a file)."""

    def __init__(self, packed: NDArray[np.uint8]) -> None:
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] == 0:
            raise ValueError(f"packed keys are (n, k / 8) uint8, not {packed.shape} {packed.dtype}")
        self._packed = np.ascontiguousarray(packed)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def bits(self) -> int:
        return int(self._packed.shape[1]) * 8

    def rows(self, rows: Indices) -> Packed:
        return self._packed[rows]

    def scores(self, logits: Logits) -> NDArray[np.int32]:
        """``<L, phi>`` of every key, shape (n,), for one reading of integer ``logits`` (k,)."""
        logits = self._checked(logits)
        if len(self) <= FEW:
            return np.asarray(phi.unpack(self._packed).astype(np.int32) @ logits, np.int32)
        scores = np.zeros(len(self), np.int32)
        wide = self._packed.shape[1] // 2
        words = self._packed[:, : 2 * wide].view("<u2")
        tables = [_word_table(logits[16 * i : 16 * i + 16]) for i in range(wide)]
        last = _byte_table(logits[16 * wide :]) if self._packed.shape[1] % 2 else None
        for start in range(0, len(self), CHUNK):
            part = scores[start : start + CHUNK]
            for i, table in enumerate(tables):
                part += table[words[start : start + CHUNK, i]]
            if last is not None:
                part += last[self._packed[start : start + CHUNK, -1]]
        return scores

    def top(self, logits: Logits, m: int) -> Found:
        return _top(self.scores(logits), m)

    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None = None) -> list[Found]:
        readings = np.atleast_2d(np.asarray(logits))
        if len(readings) < BATCH:
            return _reaching([self.top(reading, m) for reading in readings], floors)
        readings = np.stack([self._checked(reading) for reading in readings])
        # float32 holds every integer up to 2^24, float64 up to 2^53.
        exact: type[np.floating[Any]] = (
            np.float32 if np.abs(readings).sum(axis=1).max() < 1 << 24 else np.float64
        )
        transposed: NDArray[Any] = readings.astype(exact).T
        best = [(np.zeros(0, np.int64), np.zeros(0, np.int64))] * len(readings)
        rows = UNPACKED
        for start in range(0, len(self), rows):
            signs: NDArray[Any] = phi.unpack(self._packed[start : start + rows]).astype(exact)
            products = (signs @ transposed).T
            best = [_better(found, start, row, m) for found, row in zip(best, products, strict=True)]
        return _reaching(best, floors)


@dataclass(frozen=True)
class Segment:
    """``n`` keys in blocks, one after the other in a table."""

    blocks: Blocks
    n: int

    @cached_property
    def scanner(self) -> Scanner | None:
        """FAISS over the blocks, where that is installed and keys are not too long for it."""
        if 8 * self.blocks.shape[1] > INDEXED_BITS:
            return None
        try:
            return Scanner(self.blocks, self.n)
        except ImportError:
            return None

    def top(self, logits: NDArray[np.int32], m: int) -> Found:
        """The ``m`` best keys, each one scored."""
        best = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        for start in range(0, self.n, UNPACKED):
            part = self.blocks[start // blocks.KEYS : (start + UNPACKED) // blocks.KEYS]
            packed = blocks.unblocked(part, min(UNPACKED, self.n - start))
            best = _better(best, start, KeyTable(packed).scores(logits), m)
        return best


class KeyIndex(Keys):
    """Keys in blocks, in segments of SEGMENT keys (the last one may have fewer), searched in parallel.

    The blocks take as much memory as the packed keys, and nothing else is kept.
    """

    def __init__(self, segments: Sequence[Segment], octets: int, threads: int | None = None) -> None:
        if any(segment.n != SEGMENT for segment in segments[:-1]):
            raise ValueError(f"all segments but the last have {SEGMENT} keys")
        if any(segment.blocks.shape[1] != octets for segment in segments):
            raise ValueError(f"all segments have keys of {octets} bytes")
        self.segments, self._octets = list(segments), octets
        self._threads = threads or os.cpu_count() or 1

    @classmethod
    def of(cls, packed: Packed, threads: int | None = None) -> KeyIndex:
        """The index over packed keys (n, k / 8): a second for 20 million of 64 bits."""
        table = KeyTable(packed)  # for its checks
        parts = [packed[start : start + SEGMENT] for start in range(0, len(table), SEGMENT)]
        with _mapping(threads or os.cpu_count() or 1) as mapped:
            segments = [Segment(blocks.blocked(part, mapped), len(part)) for part in parts]
        return cls(segments, table.bits // 8, threads)

    def __len__(self) -> int:
        return sum(segment.n for segment in self.segments)

    @property
    def bits(self) -> int:
        return 8 * self._octets

    def extended(self, packed: Packed) -> KeyIndex:
        """An index with further keys; only the last segment is made again, the others are shared."""
        kept = len(self) // SEGMENT
        tail = np.concatenate([self.rows(np.arange(kept * SEGMENT, len(self))), packed])
        made = KeyIndex.of(tail, self._threads).segments
        return KeyIndex([*self.segments[:kept], *made], self._octets, self._threads)

    def rows(self, rows: Indices) -> Packed:
        found = np.empty((len(rows), self._octets), np.uint8)
        for number in np.unique(rows // SEGMENT):
            chosen = rows // SEGMENT == number
            found[chosen] = blocks.rows_of(self.segments[number].blocks, rows[chosen] % SEGMENT)
        return found

    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None = None) -> list[Found]:
        if m < 1:
            raise ValueError(f"at least one key must be asked for, not {m}")
        readings = [self._checked(reading) for reading in np.atleast_2d(np.asarray(logits))]
        least = [-math.inf if floors is None else float(floors[i]) for i in range(len(readings))]
        # All logits zero: every key has the same score.
        found: list[Found | None] = [None if row.any() else self._first(m) for row in readings]
        with self._mapped() as mapped:
            for size in SHORTLISTS:
                open_ones = [i for i, row in enumerate(found) if row is None]
                if not open_ones or not m <= size < len(self):
                    continue
                queries = np.stack([readings[i] for i in open_ones])
                for i, shortlist in zip(open_ones, self._shortlists(queries, size, mapped), strict=True):
                    if shortlist is not None:
                        found[i] = self._settled(readings[i], *shortlist, m, least[i])
            everyone = [
                self._scored(readings[i], m, mapped) if row is None else row for i, row in enumerate(found)
            ]
        return _reaching(everyone, floors)

    def _mapped(self) -> AbstractContextManager[Map]:
        return _mapping(min(self._threads, len(self.segments)))

    def _first(self, m: int) -> Found:
        rows = np.arange(min(m, len(self)), dtype=np.int64)
        return rows, np.zeros_like(rows)

    def _shortlists(
        self, readings: NDArray[np.int32], size: int, mapped: Map
    ) -> Iterable[tuple[Indices, float] | None]:
        """For each reading the rows with the ``size`` largest rounded scores, and the least of these.

        Nobody outside has a larger one: not in the same segment, as its own shortlist is as long, and so
        none in another. ``None`` without FAISS.
        """
        if any(segment.scanner is None for segment in self.segments):
            return [None] * len(readings)
        queries = readings.astype(np.float32)

        def search(segment: Segment) -> tuple[NDArray[np.float32], Indices]:
            assert segment.scanner is not None
            return segment.scanner.search(queries, min(size, segment.n))

        parts = list(mapped(search, self.segments))
        rounded = np.concatenate([scores for scores, _ in parts], axis=1)
        rows = np.concatenate([rows + i * SEGMENT for i, (_, rows) in enumerate(parts)], axis=1)
        if rounded.shape[1] > size:
            best = np.argpartition(-rounded, size - 1, axis=1)[:, :size]
            rounded, rows = np.take_along_axis(rounded, best, 1), np.take_along_axis(rows, best, 1)
        return [(np.sort(some), float(scores.min())) for some, scores in zip(rows, rounded, strict=True)]

    def _settled(
        self, logits: NDArray[np.int32], rows: Indices, least: float, m: int, floor: float
    ) -> Found | None:
        """The ``m`` best of the shortlist ``rows`` if they are the best of all, or all that reach the
        floor; else None."""
        exact = phi.unpack(self.rows(rows)).astype(np.int64) @ logits.astype(np.int64)
        places, scores = _top(exact, m)
        outside = least + _rounding(logits)
        if scores[-1] <= outside and outside >= floor:
            return None
        return rows[places], scores

    def _scored(self, logits: NDArray[np.int32], m: int, mapped: Map) -> Found:
        """The ``m`` best, every key scored."""
        parts = list(mapped(lambda segment: segment.top(logits, m), self.segments))
        return joined([(rows + i * SEGMENT, scores) for i, (rows, scores) in enumerate(parts)], m)


@contextmanager
def _mapping(threads: int) -> Iterator[Map]:
    """``map`` that works in so many threads."""
    if threads < 2:
        yield map
        return
    from concurrent.futures import ThreadPoolExecutor  # here: a check of one image starts faster without

    with ThreadPoolExecutor(threads) as pool:
        yield pool.map


class KeysInTurn(Keys):
    """Several tables of keys of one length, the rows of one after those of the other."""

    def __init__(self, parts: Sequence[Keys]) -> None:
        self._parts = parts
        self._firsts = [sum(len(part) for part in parts[:i]) for i in range(len(parts))]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    @property
    def bits(self) -> int:
        return self._parts[0].bits

    def rows(self, rows: Indices) -> Packed:
        found = np.empty((len(rows), self.bits // 8), np.uint8)
        for first, part in zip(self._firsts, self._parts, strict=True):
            chosen = (rows >= first) & (rows < first + len(part))
            found[chosen] = part.rows(rows[chosen] - first)
        return found

    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None = None) -> list[Found]:
        parts = [part.top_batch(logits, m, floors) for part in self._parts]
        return [
            joined([(rows + first, s) for first, (rows, s) in zip(self._firsts, one, strict=True)], m)
            for one in zip(*parts, strict=True)
        ]


class AdaptiveKeys(Keys):
    """A table that is put behind an index once so many readings were asked about that it pays.

    An index takes the keys' memory once more, and the time of some WORTH readings of the plain table. Without
    FAISS, and for few or very long keys, there is none.
    """

    def __init__(self, packed: Packed) -> None:
        self._plain = KeyTable(packed)
        self._packed, self._asked = packed, 0
        self._index: KeyIndex | None = None

    def __len__(self) -> int:
        return len(self._plain)

    @property
    def bits(self) -> int:
        return self._plain.bits

    def rows(self, rows: Indices) -> Packed:
        return self._plain.rows(rows)

    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None = None) -> list[Found]:
        self._asked += len(np.atleast_2d(np.asarray(logits)))
        if self._index is None and self._asked >= WORTH and self._indexable:
            self._index = KeyIndex.of(self._packed)
        return (self._index or self._plain).top_batch(logits, m, floors)

    @cached_property
    def _indexable(self) -> bool:
        found = importlib.util.find_spec("faiss") is not None
        return found and len(self) >= FEW_TO_INDEX and self.bits <= INDEXED_BITS


def _rounding(logits: NDArray[np.int32]) -> float:
    """How far a rounded score of the index may lie from the exact one.

    Every table (four bits) is rounded to 255 steps of the widest table's range. Steps, offsets and sums are
    in single precision: some operations with a relative error of 2^-24 each, for which 2^-20 of all ranges is
    ample.
    """
    spans = 2 * np.abs(logits.astype(np.int64)).reshape(-1, 4).sum(axis=1)
    single = 1 + int(spans.sum()) * 2.0**-20
    return len(spans) * int(spans.max()) / 255 / 2 + single


def _byte_table(logits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Partial score of each of the 256 values of a byte that holds 8 bits, first bit highest."""
    patterns = phi.unpack(np.arange(256, dtype=np.uint8)[:, None]).astype(np.int32)
    return np.asarray(patterns @ logits, np.int32)


def _word_table(logits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Partial score of each value of two bytes read as a little-endian integer."""
    first, second = _byte_table(logits[:8]), _byte_table(logits[8:])
    return (second[:, None] + first[None, :]).reshape(-1)


def _top(scores: NDArray[Any], m: int) -> tuple[Indices, Scores]:
    if m < 1:
        raise ValueError(f"at least one key must be asked for, not {m}")
    if m < len(scores):
        # Take everything that reaches the m-th score, so that equals are cut by row, not by chance.
        least = np.partition(scores, len(scores) - m)[len(scores) - m]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(len(scores))
    values = scores[rows].astype(np.int64)
    order = np.lexsort((rows, -values))[:m]
    return rows[order].astype(np.int64), values[order]


def joined(parts: Sequence[Found], m: int) -> Found:
    """The ``m`` best of what parts of a table hold, in whose order their rows are."""
    rows = np.concatenate([rows for rows, _ in parts]) if parts else np.zeros(0, np.int64)
    scores = np.concatenate([scores for _, scores in parts]) if parts else np.zeros(0, np.int64)
    order = np.lexsort((rows, -scores))[:m]
    return rows[order], scores[order]


def _reaching(found: Sequence[Found], floors: NDArray[Any] | None) -> list[Found]:
    """Of each finding what reaches its floor."""
    if floors is None:
        return list(found)
    return [
        (rows[scores >= floor], scores[scores >= floor])
        for (rows, scores), floor in zip(found, floors, strict=True)
    ]


def _better(
    found: tuple[Indices, Scores], offset: int, products: NDArray[Any], m: int
) -> tuple[Indices, Scores]:
    """The best ``m`` of what earlier parts and this one (from row ``offset`` on) hold."""
    if len(found[0]) < m:
        rows, scores = _top(products, m)
    else:  # nearly always a few rows or none; of equals the earlier row stays
        rows = np.flatnonzero(products > found[1][-1])
        if not len(rows):
            return found
        scores = products[rows].astype(np.int64)
    return joined([found, (rows + offset, scores)], m)
