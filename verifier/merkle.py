"""Merkle tree of the ledger: RFC 6962 hashing, proofs from tiles, signed checkpoints.

    proof = inclusion_proof(index, size, read_tile)
    verify_inclusion(leaf_hash(record_digest), index, size, proof, root)
    checkpoint = Checkpoint.open(text, public_key)

Proof verification follows RFC 9162, section 2.1.3 and 2.1.4. The tree is stored as tiles of 256
hashes (C2SP tlog-tiles): tile (level, n) holds the hashes of height ``8 * level`` number
``256 n .. 256 n + 255``, concatenated; the last tile of a level may be partial. Checkpoints are C2SP
signed notes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import note, signing
from verifier.errors import TrustError

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

ReadTile = Callable[[int, int], bytes]
"""(level, n) -> the concatenated hashes of that tile, at least as many as the tree size implies."""


def leaf_hash(data: bytes) -> bytes:
    """``SHA-256(0x00 || data)`` (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """``SHA-256(0x01 || left || right)``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """Root over the given leaf or subtree hashes in order (any positive number of them)."""
    level = list(hashes)
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def _range_root(start: int, end: int, read: ReadTile) -> bytes:
    """MTH of leaves ``start <= i < end``; start is a multiple of the largest power of 2 below the length."""
    width = end - start
    if width == 1 << (width.bit_length() - 1):
        return _full_root(width.bit_length() - 1, start >> (width.bit_length() - 1), read)
    split = 1 << (width - 1).bit_length() - 1
    return node_hash(_range_root(start, start + split, read), _range_root(start + split, end, read))


def _full_root(height: int, index: int, read: ReadTile) -> bytes:
    """The hash of the complete subtree number ``index`` of height ``height``."""
    level, within = divmod(height, TILE_HEIGHT)
    first, count = index << within, 1 << within
    tile = read(level, first // TILE_WIDTH)
    offset = first % TILE_WIDTH
    hashes = [tile[HASH_BYTES * i : HASH_BYTES * (i + 1)] for i in range(offset, offset + count)]
    if any(len(value) != HASH_BYTES for value in hashes):
        raise TrustError(f"ledger tile {level}/{first // TILE_WIDTH} is shorter than the tree needs")
    return subtree_root(hashes)


def tree_root(size: int, read: ReadTile) -> bytes:
    """Root of the first ``size`` leaves."""
    return _range_root(0, size, read) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: ReadTile) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1, from the leaf upwards."""
    if not 0 <= index < size:
        raise ValueError(f"entry {index} is not in a tree of {size}")
    path = []
    start, end = 0, size
    while end - start > 1:
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if index < split:
            path.append(_range_root(split, end, read))
            end = split
        else:
            path.append(_range_root(start, split, read))
            start = split
    return path[::-1]


def consistency_proof(old: int, new: int, read: ReadTile) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2."""
    if not 0 < old <= new:
        raise ValueError(f"no consistency proof leads from {old} to {new} entries")
    path = []
    start, end, whole = 0, new, True
    while end != old:
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if old <= split:
            path.append(_range_root(split, end, read))
            end = split
        else:
            path.append(_range_root(start, split, read))
            start, whole = split, False
    if not whole:
        path.append(_range_root(start, end, read))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2; ``leaf`` is the leaf hash. Raises :class:`TrustError`."""
    if not 0 <= index < size:
        raise TrustError(f"ledger entry {index} lies outside a tree of {size} entries")
    position, last, value = index, size - 1, leaf
    for step, sibling in enumerate(proof):
        if last == 0:
            raise TrustError(f"the inclusion proof is too long: {len(proof)} hashes, {step} needed")
        if position & 1 or position == last:
            value = node_hash(sibling, value)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise TrustError(f"the inclusion proof is too short: {len(proof)} hashes")
    if value != root:
        raise TrustError(f"ledger entry {index}: expected root {root.hex()}, found {value.hex()}")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """RFC 9162, section 2.1.4.2. Raises :class:`TrustError` unless new extends old."""
    if old == new:
        if proof or old_root != new_root:
            raise TrustError(f"two different ledgers of {old} entries")
        return
    if not 0 < old < new:
        raise TrustError(f"no ledger grows from {old} to {new} entries")
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise TrustError("the consistency proof is empty")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise TrustError("the consistency proof is too long")
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    if last or first != old_root or second != new_root:
        raise TrustError(f"the ledger of {new} entries does not extend that of {old} entries")


@dataclass(frozen=True)
class Checkpoint:
    """A signed tree head: the ledger ``origin`` had ``size`` entries under ``root`` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The note's text (C2SP tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, signer: signing.Signer) -> str:
        """The signed note, under the origin's name."""
        return note.sign(self.body(), self.origin, signer)

    @classmethod
    def open(cls, signed: str, key: Ed25519PublicKey) -> Checkpoint:
        """Verify a signed note; :class:`TrustError` unless ``key`` signed it under the origin's name."""
        text = note.verify(signed, signed.partition("\n")[0], key)
        origin, *rest = text[:-1].split("\n")
        try:
            size, root = rest[:2]
            checkpoint = cls(origin, int(size), base64.b64decode(root, validate=True))
        except (ValueError, binascii.Error):
            raise TrustError("the signed note is no checkpoint.") from None
        # One tree head has one text; lines after it are extensions, which no one has to understand.
        sound = checkpoint.size >= 0 and len(checkpoint.root) == HASH_BYTES
        if not sound or not text.startswith(checkpoint.body()) or "" in rest:
            raise TrustError("the signed note is no checkpoint.")
        return checkpoint
