"""Growing the tiles of the ledger, and the root of a tree that is read from left to right.

    changed = extend(size, leaf_hashes, read_tile)       # {(level, number): hashes}
    frontier = Frontier(); frontier.add(leaf); frontier.root()

Pure functions of bytes; :mod:`verifier.merkle` reads what these write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from verifier.merkle import EMPTY_ROOT, HASH_BYTES, TILE_WIDTH, ReadTile, node_hash, subtree_root

TILE_BYTES = TILE_WIDTH * HASH_BYTES

Tiles = dict[tuple[int, int], bytes]


def edge(size: int) -> list[tuple[int, int]]:
    """The partial tiles (level, number) of a tree of ``size``: what the next leaf, or the root, needs."""
    found, level = [], 0
    while size:
        number, filled = divmod(size, TILE_WIDTH)
        if filled:
            found.append((level, number))
        level, size = level + 1, number
    return found


def extend(size: int, leaves: Sequence[bytes], read: ReadTile) -> Tiles:
    """The tiles that change when ``leaves`` (leaf hashes) are appended to a tree of ``size``.

    ``read`` is asked only for the last, partial tile of each level. Every tile that fills hands its
    root to the level above.
    """
    changed: Tiles = {}
    level, start, fresh = 0, size, list(leaves)
    while fresh:
        number, filled = divmod(start, TILE_WIDTH)
        known = read(level, number)[: filled * HASH_BYTES] if filled else b""
        if len(known) != filled * HASH_BYTES:
            raise ValueError(f"tile {level}/{number} holds {len(known)} bytes, {filled} hashes are needed")
        content = known + b"".join(fresh)
        completed = []
        for offset in range(0, len(content), TILE_BYTES):
            tile = content[offset : offset + TILE_BYTES]
            changed[level, number + offset // TILE_BYTES] = tile
            if len(tile) == TILE_BYTES:
                completed.append(subtree_root(list(hashes_of(tile))))
        level, start, fresh = level + 1, number, completed
    return changed


def hashes_of(tile: bytes) -> Iterator[bytes]:
    """The hashes of a tile one by one."""
    for offset in range(0, len(tile), HASH_BYTES):
        yield tile[offset : offset + HASH_BYTES]


class Frontier:
    """Roots of the complete subtrees of a growing tree, largest first: O(log n) memory."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash; each trailing one bit of the size merges two subtrees."""
        size, value = self.size, leaf
        while size & 1:
            value = node_hash(self._roots.pop(), value)
            size >>= 1
        self._roots.append(value)
        self.size += 1

    def root(self) -> bytes:
        """MTH of all leaves so far (RFC 6962, section 2.1)."""
        if not self._roots:
            return EMPTY_ROOT
        value = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            value = node_hash(left, value)
        return value
