"""Packed keys in the layout that FAISS's fast scan reads: as large as the keys, and nothing beside them.

    blocks = blocked(packed)                              # (ceil(n / 32), k / 8, 32) uint8
    unblocked(blocks, n)                                  # the keys again
    rows_of(blocks, rows)                                 # some of them
    rounded, rows = Scanner(blocks, n).search(queries, m) # with FAISS, in place: wherever the blocks lie

A block holds 32 keys. For each byte of a key it has 32 bytes: 16 with the first four bits of every key,
16 with the last four. In either half, byte 2 i has keys i and i + 16 in its low and high four bits, and byte
2 i + 1 keys i + 8 and i + 24 (``pq4_pack_codes`` in FAISS). The last block is filled up with zeros.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verifier import phi
from verifier.phi import Packed

Blocks = NDArray[np.uint8]
Map = Callable[..., Iterator[Any]]
"""``map``, or that of a pool of threads."""

KEYS = 32
"""Keys of a block."""

_CodeTable = ctypes.c_size_t * 3

AT_ONCE = 1 << 14
"""Keys laid out at a time: what is in work stays in the second-level cache."""


def blocked(packed: Packed, mapped: Map = map) -> Blocks:
    """The blocks of packed keys (n, octets); their parts one by one, or as ``mapped`` does."""
    n, octets = packed.shape
    blocks = np.empty((-(-n // KEYS), octets, KEYS), np.uint8)

    def lay_out(start: int) -> None:
        part = packed[start : start + AT_ONCE]
        if len(part) % KEYS:
            part = np.concatenate([part, np.zeros((-len(part) % KEYS, octets), np.uint8)])
        # Axes of a block: keys 16 h + 8 e + i.
        keys = part.reshape(-1, 2, 2, 8, octets)
        low, high = keys[:, 0], keys[:, 1]
        out = blocks[start // KEYS : start // KEYS + len(keys)].reshape(-1, octets, 2, 8, 2)
        out[:, :, 0] = (low >> 4 | high & 0xF0).transpose(0, 3, 2, 1)
        out[:, :, 1] = (low & 0x0F | high << 4).transpose(0, 3, 2, 1)

    for _ in mapped(lay_out, range(0, n, AT_ONCE)):
        pass
    return blocks


def unblocked(blocks: Blocks, n: int) -> Packed:
    """The first ``n`` keys, packed (n, octets)."""
    octets = blocks.shape[1]
    halves = blocks.reshape(-1, octets, 2, 8, 2).transpose(0, 4, 3, 2, 1)  # (blocks, e, i, half, octets)
    first, last = halves[..., 0, :], halves[..., 1, :]
    keys = np.empty((len(blocks), 2, 2, 8, octets), np.uint8)
    keys[:, 0] = first << 4 | last & 0x0F
    keys[:, 1] = first & 0xF0 | last >> 4
    return keys.reshape(-1, octets)[:n]


def rows_of(blocks: Blocks, rows: NDArray[np.int64]) -> Packed:
    """The keys of these rows, packed (len(rows), octets)."""
    block, key = rows // KEYS, rows % KEYS
    place = 2 * (key % 8) + key // 8 % 2
    shift = (key // 16 * 4).astype(np.uint8)[:, None]
    first = blocks[block, :, place] >> shift & 0x0F
    last = blocks[block, :, place + 16] >> shift & 0x0F
    return np.asarray(first << 4 | last, np.uint8)


class Scanner:
    """FAISS's fast-scan search over blocks, with exact sign patterns as its codebooks.

    The blocks are searched where they lie, so that they may be shared memory; FAISS would copy them into
    memory of its own that is up to twice as large.
    """

    def __init__(self, blocks: Blocks, n: int) -> None:
        """:class:`ImportError` where FAISS is not installed."""
        import faiss

        octets = blocks.shape[1]
        if not blocks.flags.c_contiguous or len(blocks) != -(-n // KEYS):
            raise ValueError(f"{n} keys do not fill blocks of shape {blocks.shape}")
        self._blocks = blocks  # must outlive the index
        index: Any = faiss.IndexPQFastScan(8 * octets, 2 * octets, 4, faiss.METRIC_INNER_PRODUCT)
        patterns = phi.unpack(np.arange(16, dtype=np.uint8)[:, None])[:, 4:].astype(np.float32)
        faiss.copy_array_to_vector(np.tile(patterns, (2 * octets, 1)).ravel(), index.pq.centroids)
        index.is_trained = True
        self._index = index
        if n:
            self._lend(blocks)
        self._index.ntotal = n
        self._index.ntotal2 = len(blocks) * KEYS

    def search(self, queries: NDArray[np.float32], m: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The ``m`` largest rounded scores for each of the queries (q, k), and their rows: both (q, m).

        One thread computes; other threads may search meanwhile.
        """
        import faiss

        faiss.omp_set_num_threads(1)  # of the calling thread
        rounded, rows = self._index.search(queries, m)
        return rounded, rows

    def _lend(self, blocks: Blocks) -> None:
        """Let the index point to ``blocks``.

        Its table of codes is a pointer, the room behind it and the length. Only where these three are what
        FAISS itself says of them is the table changed, and afterwards FAISS has to agree; elsewhere (another
        version of FAISS) it gets a copy.
        """
        import faiss

        codes = self._index.codes
        codes.resize(blocks.size if blocks.size < 256 else 256)
        table = _CodeTable.from_address(int(codes.this))
        own = (int(codes.data()), 256, codes.size())
        if tuple(table) == own and blocks.size >= 256:
            weakref.finalize(self, _take_back, self._index, table, own)
            table[:] = [blocks.ctypes.data, blocks.size, blocks.size]
            if (int(codes.data()), codes.size()) == (blocks.ctypes.data, blocks.size):
                return
            _take_back(self._index, table, own)
        codes.resize(blocks.size)
        faiss.memcpy(codes.data(), faiss.swig_ptr(blocks.reshape(-1)), blocks.size)


def _take_back(_index: Any, table: ctypes.Array[ctypes.c_size_t], own: tuple[int, int, int]) -> None:
    """Give the index its own memory again, before it frees what it points to."""
    table[:] = list(own)
