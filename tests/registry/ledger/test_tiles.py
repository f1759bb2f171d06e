from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.ledger.tiles import Frontier, Tiles, extend
from verifier.merkle import (
    EMPTY_ROOT,
    inclusion_proof,
    leaf_hash,
    subtree_root,
    tree_root,
    verify_inclusion,
)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(hashlib.sha256(i.to_bytes(4)).digest()) for i in range(count)]


ALL = leaves(1500)


def grow(batches: list[int]) -> tuple[int, Tiles]:
    size, stored = 0, Tiles()
    for count in batches:
        stored.update(extend(size, ALL[size : size + count], lambda level, n: stored[level, n]))
        size += count
    return size, stored


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH exactly as RFC 6962, section 2.1 defines it."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])).digest()


@settings(max_examples=40)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=3), st.data())
def test_tiles_do_not_depend_on_how_the_leaves_arrived(batches: list[int], data: st.DataObject) -> None:
    size, stored = grow(batches)
    assert stored == grow([size])[1]
    root = tree_root(size, lambda level, n: stored[level, n])
    assert root == naive_root(ALL[:size])
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, lambda level, n: stored[level, n])
    verify_inclusion(ALL[index], index, size, proof, root)


def test_a_filled_tile_hands_its_root_up() -> None:
    _, stored = grow([513])
    assert sorted(stored) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert stored[1, 0] == subtree_root(ALL[:256]) + subtree_root(ALL[256:512])
    assert stored[0, 2] == ALL[512]


def test_a_short_partial_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="2 hashes are needed"):
        extend(2, ALL[2:3], lambda level, n: ALL[0])


@given(st.integers(1, 300))
def test_the_frontier_has_the_root_of_every_prefix(size: int) -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for leaf in ALL[:size]:
        frontier.add(leaf)
    assert frontier.size == size
    assert frontier.root() == naive_root(ALL[:size])
