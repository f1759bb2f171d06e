"""The blocks are FAISS's own layout, and lent to it where they lie."""

from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from verifier import blocks, phi
from verifier.blocks import Scanner, blocked, rows_of, unblocked

SHAPES = [(1, 1), (31, 2), (33, 8), (1000, 32), (20_000, 16), (40, 128)]


def random_keys(n: int, octets: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, octets), np.uint8)


@pytest.mark.parametrize(("n", "octets"), SHAPES)
def test_keys_come_back_out_of_their_blocks(n: int, octets: int) -> None:
    packed = random_keys(n, octets)
    made = blocked(packed)
    assert made.nbytes == -(-n // blocks.KEYS) * blocks.KEYS * octets
    assert (unblocked(made, n) == packed).all()
    rows = np.random.default_rng(1).integers(0, n, 50)
    assert (rows_of(made, rows) == packed[rows]).all()


@pytest.mark.parametrize("octets", [2, 8, 32])
def test_the_layout_is_the_one_that_faiss_makes(octets: int) -> None:
    packed = random_keys(1000, octets)
    quantiser = faiss.IndexPQ(8 * octets, 2 * octets, 4, faiss.METRIC_INNER_PRODUCT)
    quantiser.is_trained = True
    # FAISS takes the low half of a byte first, keys have their first bits in the high one.
    faiss.copy_array_to_vector((packed << 4 | packed >> 4).ravel(), quantiser.codes)
    quantiser.ntotal = len(packed)
    scan = faiss.IndexPQFastScan(quantiser)  # owns the codes: must outlive the view of them
    theirs = faiss.rev_swig_ptr(scan.codes.data(), 1024 * octets)
    assert (theirs == blocked(packed).ravel()).all()


@pytest.mark.parametrize(("n", "octets"), SHAPES)
def test_rounded_scores_are_near_the_exact_ones(n: int, octets: int) -> None:
    packed = random_keys(n, octets)
    queries = np.random.default_rng(2).integers(-128, 129, (3, 8 * octets)).astype(np.float32)
    made = blocked(packed)
    scanner = Scanner(made, n)
    if made.size >= 256:
        assert int(scanner._index.codes.data()) == made.ctypes.data  # nothing was copied
    rounded, rows = scanner.search(queries, min(n, 20))
    exact = np.take_along_axis(queries @ phi.unpack(packed).astype(np.float32).T, rows, 1)
    spans = 2 * np.abs(queries).reshape(3, -1, 4).sum(2).max(1)
    assert (np.abs(exact - rounded) <= (2 * octets * spans / 510 + 1)[:, None]).all()


def test_lent_memory_is_given_back() -> None:
    made = blocked(random_keys(5000, 8))
    before = made.copy()
    for _ in range(3):
        scanner = Scanner(made, 5000)
        scanner.search(np.ones((1, 64), np.float32), 1)
        del scanner
        gc.collect()
    assert (made == before).all()


def test_another_version_of_faiss_gets_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = random_keys(5000, 8)
    made = blocked(packed)

    class Other:
        @staticmethod
        def from_address(_: int) -> list[int]:
            return [1, 2, 3]

    queries = np.random.default_rng(3).integers(-128, 129, (2, 64)).astype(np.float32)
    expected = Scanner(made, 5000).search(queries, 7)
    monkeypatch.setattr(blocks, "_CodeTable", Other)
    scanner = Scanner(made, 5000)
    assert int(scanner._index.codes.data()) != made.ctypes.data
    found = scanner.search(queries, 7)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        Scanner(blocked(random_keys(64, 8)), 65)
