"""The search for the key behind a reading, among many.

    table = KeyTable(packed)                              # (n, k / 8) uint8, see verifier.phi
    index, score = table.top(logits, m=8)                 # the m largest <L, phi>, exactly

The maximum-likelihood key has the largest inner product with the logits. Readings are integers, so every
score here is an exact integer, whatever the order of summation: one reading is scored with look-up
tables (two bytes of a key, 16 bits, name one of 65 536 partial sums), many at once as a matrix product
in floating point, where integers below the mantissa's range stay exact.

    table = IndexedKeyTable(packed)                       # the same answers, a hundred times faster

With FAISS (the extra ``search``) a product quantiser whose codebooks are the 16 sign patterns of four bits
searches millions of keys in milliseconds. Its sums are rounded, so they only choose a shortlist; that is
scored exactly, and returned only where no key outside of it can belong to the answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from verifier import phi

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

SHORTLISTS = (128, 4096)
"""Keys taken from the index, tried in turn until one holds the answer for certain; ties may need many."""

_LOGITS_LIMIT = 1 << 30  # bound on sum |L_j|: partial sums fit 32 bits


class KeyTable:
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

    def signs(self, index: int) -> NDArray[np.int8]:
        """The key of a row as (k,) of -1 and +1."""
        return phi.unpack(self._packed[index])

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

    def top(self, logits: Logits, m: int) -> tuple[Indices, Scores]:
        """The ``m`` best keys of one reading (k,): row numbers and scores, best first, equals by row."""
        return _top(self.scores(logits), m)

    def top_batch(self, logits: Logits, m: int) -> list[tuple[Indices, Scores]]:
        """:meth:`top` of each of the readings (q, k)."""
        readings = np.atleast_2d(np.asarray(logits))
        if len(readings) < BATCH:
            return [self.top(reading, m) for reading in readings]
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
        return best

    def _checked(self, logits: Logits) -> NDArray[np.int32]:
        array = np.asarray(logits)
        if array.shape != (self.bits,):
            raise ValueError(f"expected {self.bits} logits, got shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"logits must be integers, not {array.dtype}")
        if int(np.abs(array.astype(np.int64)).sum()) >= _LOGITS_LIMIT:
            raise ValueError("the logits' sum is too large to score in 32 bits")
        return array.astype(np.int32)


class IndexedKeyTable(KeyTable):
    """A key table with a FAISS index over it: made once, for many readings of many keys.

    Twice the memory of the keys; 10^6 keys of 256 bits are indexed in half a second.
    """

    def __init__(self, packed: NDArray[np.uint8]) -> None:
        """:class:`ImportError` where FAISS is not installed, ``ValueError`` beyond ``INDEXED_BITS``."""
        super().__init__(packed)
        if self.bits > INDEXED_BITS:
            raise ValueError(f"keys of {self.bits} bits cannot be indexed, only up to {INDEXED_BITS}")
        self._index = _sign_index(self._packed)

    def top(self, logits: Logits, m: int) -> tuple[Indices, Scores]:
        return self.top_batch(np.asarray(logits)[None], m)[0]

    def top_batch(self, logits: Logits, m: int) -> list[tuple[Indices, Scores]]:
        readings = [self._checked(reading) for reading in np.atleast_2d(np.asarray(logits))]
        found: list[tuple[Indices, Scores] | None] = [None] * len(readings)
        for size in SHORTLISTS:
            # All logits zero: every key has the same score, and the index no scale.
            open_ones = [i for i, row in enumerate(found) if row is None and readings[i].any()]
            if not open_ones or not m <= size < len(self):
                continue
            queries = np.stack([readings[i] for i in open_ones]).astype(np.float32)
            for i, rounded, rows in zip(open_ones, *self._index.search(queries, size), strict=True):
                found[i] = self._settled(readings[i], np.sort(rows), float(rounded[-1]), m)
        return [
            KeyTable.top(self, reading, m) if row is None else row
            for reading, row in zip(readings, found, strict=True)
        ]

    def _settled(
        self, logits: NDArray[np.int32], rows: Indices, least: float, m: int
    ) -> tuple[Indices, Scores] | None:
        """The ``m`` best of the shortlist ``rows`` if they are the best of all, else None.

        ``least`` is the smallest rounded score in the shortlist: nobody outside has a larger one.
        """
        exact = phi.unpack(self._packed[rows]).astype(np.int64) @ logits.astype(np.int64)
        places, scores = _top(exact, m)
        if scores[-1] <= least + _rounding(logits):
            return None
        return rows[places], scores


def _sign_index(packed: NDArray[np.uint8]) -> Any:
    """FAISS's fast-scan index over packed keys, with exact sign patterns as its codebooks."""
    import faiss

    n, octets = packed.shape
    quantiser = faiss.IndexPQ(8 * octets, 2 * octets, 4, faiss.METRIC_INNER_PRODUCT)
    patterns = phi.unpack(np.arange(16, dtype=np.uint8)[:, None])[:, 4:].astype(np.float32)
    faiss.copy_array_to_vector(np.tile(patterns, (2 * octets, 1)).ravel(), quantiser.pq.centroids)
    quantiser.is_trained = True
    # FAISS takes the low half of a byte first, keys have their first bits in the high one.
    faiss.copy_array_to_vector((packed << 4 | packed >> 4).ravel(), quantiser.codes)
    quantiser.ntotal = n
    return faiss.IndexPQFastScan(quantiser)  # type: ignore[arg-type]  # an overload that the stubs lack


def _rounding(logits: NDArray[np.int32]) -> float:
    """How far a rounded score of the index may lie from the exact one.

    Every table (four bits) is rounded to 255 steps of the widest table's range; one more is ample for the
    sums in single precision.
    """
    spans = 2 * np.abs(logits.astype(np.int64)).reshape(-1, 4).sum(axis=1)
    return len(spans) * int(spans.max()) / 255 / 2 + 1


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
    all_rows = np.concatenate([found[0], rows + offset])
    all_scores = np.concatenate([found[1], scores])
    order = np.lexsort((all_rows, -all_scores))[:m]
    return all_rows[order], all_scores[order]
