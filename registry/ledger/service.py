"""Appending to the ledger and proving what is in it.

    first = append(session, identity, CERTIFICATE, digests)     # within the caller's transaction
    document = describe_inclusion(session, identity, entry(session, index))
    note = checkpoint(session)

An append locks the head, so entries are numbered without gaps however many processes issue at once,
and it signs a checkpoint in the same transaction: no entry is ever committed without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, bindparam, insert, select, tuple_, update
from sqlalchemy.orm import Session

from registry.db import table, unix_now
from registry.errors import NotFoundError
from registry.identity import Identity
from registry.ledger import tiles
from registry.ledger.models import LedgerCheckpoint, LedgerEntry, LedgerHead, LedgerTile
from verifier import certificate, merkle, proof
from verifier.errors import TrustError

MODEL = "hallmark/model/1"
CERTIFICATE = certificate.SCHEMA
RECEIPT = "hallmark/receipt/1"
REVOCATION = "hallmark/revocation/1"
COUNTERSIGNATURE = "hallmark/countersignature/1"
CASE_IMAGES = "hallmark/case-images/1"

_HEAD = 1

_head, _entries = table(LedgerHead), table(LedgerEntry)
_tiles, _checkpoints = table(LedgerTile), table(LedgerCheckpoint)

# Built once, and without the ORM: every append runs them while it holds the ledger.
_TAKE_NUMBERS = (
    update(_head)
    .where(_head.c.id == _HEAD)
    .values(size=_head.c.size + bindparam("more", type_=BigInteger))
    .returning(_head.c.size)
)
_ADD_ENTRIES, _ADD_CHECKPOINT = insert(_entries).inline(), insert(_checkpoints).inline()
_READ_TILES = select(_tiles).where(
    tuple_(_tiles.c.level, _tiles.c.number).in_(bindparam("wanted", expanding=True))
)
_ADD_TILES = (
    insert(_tiles)
    .inline()
    .values(level=bindparam("at_level"), number=bindparam("at_number"), hashes=bindparam("content"))
)
_REPLACE_TILES = (
    update(_tiles)
    .where(_tiles.c.level == bindparam("at_level"), _tiles.c.number == bindparam("at_number"))
    .values(hashes=bindparam("content"))
)


def create(session: Session, identity: Identity) -> None:
    """The empty ledger with its first checkpoint."""
    session.add(LedgerHead(id=_HEAD, size=0))
    session.execute(_ADD_CHECKPOINT, [_checkpoint_row(identity, 0, merkle.EMPTY_ROOT)])


def append(session: Session, identity: Identity, kind: str, digests: Sequence[bytes]) -> int:
    """Log records by the digests of their signed documents; returns the index of the first.

    Holds the ledger until the transaction ends: prepare everything else before. Five or six statements,
    however many records.
    """
    # One statement takes the lock and the numbers; whoever comes second waits here and then counts on.
    new: int = session.execute(_TAKE_NUMBERS, {"more": len(digests)}).scalar_one()
    first, now = new - len(digests), unix_now()
    edge = _read_tiles(session, tiles.edge(first))
    changed = tiles.extend(first, [merkle.leaf_hash(digest) for digest in digests], _reader(edge))
    # The root needs the right edge alone: every full tile left of it is one hash of the level above.
    root = merkle.tree_root(new, _reader({**edge, **changed}))
    entries = [
        {"index": first + i, "kind": kind, "digest": digest, "logged_at": now}
        for i, digest in enumerate(digests)
    ]
    session.execute(_ADD_ENTRIES, entries)
    _write_tiles(session, changed, edge)
    session.execute(_ADD_CHECKPOINT, [_checkpoint_row(identity, new, root)])
    return first


def size(session: Session) -> int:
    """The number of entries."""
    return session.execute(select(LedgerHead.size).where(LedgerHead.id == _HEAD)).scalar_one()


def checkpoint(session: Session) -> str:
    """The signed note of the newest tree head."""
    newest = select(LedgerCheckpoint.note).order_by(LedgerCheckpoint.size.desc()).limit(1)
    return session.execute(newest).scalar_one()


@dataclass(frozen=True)
class Head:
    """The newest checkpoint, and whether what is stored agrees with it: ``problem`` says where not."""

    size: int
    root: str
    signed_at: int
    problem: str


def verify_head(session: Session, identity: Identity) -> Head:
    """Check the newest checkpoint: its signature, its place at the ledger's end, its root over the tiles.

    It reads the right edge alone; `registry ledger verify` recomputes everything.
    """
    row = session.execute(
        select(LedgerCheckpoint).order_by(LedgerCheckpoint.size.desc()).limit(1)
    ).scalar_one()
    problem = ""
    try:
        signed = merkle.Checkpoint.open(row.note, identity.public)
        found = merkle.tree_root(row.size, tile_reader(session))
    except (TrustError, ValueError, IndexError) as error:
        return Head(row.size, "", row.created_at, f"the newest checkpoint does not hold: {error}")
    if row.size != size(session):
        problem = f"{size(session)} entries are stored, and the newest checkpoint is of {row.size}."
    elif (signed.size, signed.root) != (row.size, found):
        problem = "the newest checkpoint has another root than the stored entries."
    return Head(row.size, signed.root.hex(), row.created_at, problem)


def checkpoint_of(session: Session, tree_size: int) -> str | None:
    """The signed note of the tree of ``tree_size`` entries; not every size was ever signed."""
    return session.execute(
        select(LedgerCheckpoint.note).where(LedgerCheckpoint.size == tree_size)
    ).scalar_one_or_none()


def entry(session: Session, index: int) -> LedgerEntry:
    """One entry; :class:`NotFoundError` beyond the end."""
    found = session.get(LedgerEntry, index)
    if found is None:
        raise NotFoundError(f"the ledger has no entry {index}.")
    return found


def find_entry(session: Session, digest: bytes) -> LedgerEntry:
    """The entry of the record with this digest; :class:`NotFoundError` where it was never logged."""
    query = select(LedgerEntry).where(LedgerEntry.digest == digest).order_by(LedgerEntry.index).limit(1)
    found = session.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"the ledger has no record {digest.hex()}.")
    return found


def tile(session: Session, level: int, number: int, width: int) -> bytes:
    """The first ``width`` hashes of a tile; :class:`NotFoundError` where it has fewer."""
    stored = session.get(LedgerTile, (level, number))
    wanted = width * merkle.HASH_BYTES
    if stored is None or len(stored.hashes) < wanted:
        raise NotFoundError(f"the ledger has no tile {level}/{number} of {width} hashes.")
    return stored.hashes[:wanted]


def entry_digests(session: Session, number: int, width: int) -> list[bytes]:
    """The digests of the first ``width`` entries below tile 0/``number``; :class:`NotFoundError` if fewer."""
    first = number * merkle.TILE_WIDTH
    query = (
        select(LedgerEntry.digest)
        .where(LedgerEntry.index >= first, LedgerEntry.index < first + width)
        .order_by(LedgerEntry.index)
    )
    found = list(session.execute(query).scalars())
    if len(found) < width:
        raise NotFoundError(f"the ledger has no {width} entries from {first} on.")
    return found


def tile_reader(session: Session) -> merkle.ReadTile:
    """Reads tiles of this session's snapshot, each once."""
    known: dict[tuple[int, int], bytes] = {}

    def read(level: int, number: int) -> bytes:
        if (level, number) not in known:
            tile = session.get(LedgerTile, (level, number))
            known[level, number] = tile.hashes if tile is not None else b""
        return known[level, number]

    return read


def level_hashes(session: Session, level: int) -> bytes:
    """All hashes of one tile level, concatenated; empty above the top level."""
    rows = select(LedgerTile.hashes).where(LedgerTile.level == level).order_by(LedgerTile.number)
    return b"".join(session.execute(rows).scalars())


def inclusion_proof(session: Session, index: int, tree_size: int) -> list[bytes]:
    """The audit path of one entry in the tree of the first ``tree_size`` entries."""
    return merkle.inclusion_proof(index, tree_size, tile_reader(session))


def consistency_proof(session: Session, old: int, new: int) -> list[bytes]:
    """The proof that the ledger of ``new`` entries extends that of ``old`` entries."""
    return merkle.consistency_proof(old, new, tile_reader(session))


def describe_inclusion(
    session: Session, identity: Identity, logged: LedgerEntry, tree_size: int | None = None
) -> dict[str, Any]:
    """The proof that an entry is in the ledger, as :mod:`verifier.proof` checks it.

    In the newest tree, or in that of ``tree_size`` entries; :class:`NotFoundError` where it is not.
    """
    chosen = _tree_size(session, tree_size)
    if logged.index >= chosen:
        raise NotFoundError(f"entry {logged.index} is not among the first {chosen}.")
    return {
        **_proof_document(session, identity, proof.INCLUSION, chosen),
        "index": logged.index,
        "kind": logged.kind,
        "digest": logged.digest.hex(),
        "proof": [value.hex() for value in inclusion_proof(session, logged.index, chosen)],
    }


def describe_consistency(
    session: Session, identity: Identity, old: int, tree_size: int | None = None
) -> dict[str, Any]:
    """The proof that the ledger only grew from ``old`` entries, as :mod:`verifier.proof` checks it.

    :class:`NotFoundError` for sizes that it never had, or in the wrong order.
    """
    chosen = _tree_size(session, tree_size)
    if not 0 < old <= chosen:
        raise NotFoundError(f"no consistency proof leads from {old} to {chosen} entries.")
    return {
        **_proof_document(session, identity, proof.CONSISTENCY, chosen),
        "old_size": old,
        "old_root": merkle.tree_root(old, tile_reader(session)).hex(),
        "proof": [value.hex() for value in consistency_proof(session, old, chosen)],
    }


def _tree_size(session: Session, wanted: int | None) -> int:
    newest = size(session)
    if wanted is not None and wanted > newest:
        raise NotFoundError(f"the ledger has {newest} entries, not {wanted}.")
    return newest if wanted is None else wanted


def _proof_document(session: Session, identity: Identity, schema: str, tree_size: int) -> dict[str, Any]:
    return {
        "schema": schema,
        "registry": identity.registry,
        "public_key": identity.public_text,
        "size": tree_size,
        "root": merkle.tree_root(tree_size, tile_reader(session)).hex(),
        "checkpoint": checkpoint_of(session, tree_size),
    }


def _read_tiles(session: Session, wanted: Sequence[tuple[int, int]]) -> tiles.Tiles:
    """Those of the ``wanted`` tiles (level, number) that exist, in one statement."""
    if not wanted:
        return {}
    rows = session.execute(_READ_TILES, {"wanted": wanted})
    return {(row.level, row.number): row.hashes for row in rows}


def _write_tiles(session: Session, changed: tiles.Tiles, stored: tiles.Tiles) -> None:
    """Store the changed tiles, of which the ``stored`` ones are there already."""
    rows = [{"at_level": at[0], "at_number": at[1], "content": hashes} for at, hashes in changed.items()]
    known = [row for row in rows if (row["at_level"], row["at_number"]) in stored]
    fresh = [row for row in rows if (row["at_level"], row["at_number"]) not in stored]
    if known:
        session.execute(_REPLACE_TILES, known)
    if fresh:
        session.execute(_ADD_TILES, fresh)


def _reader(known: tiles.Tiles) -> merkle.ReadTile:
    return lambda level, number: known.get((level, number), b"")


def _checkpoint_row(identity: Identity, tree_size: int, root: bytes) -> dict[str, Any]:
    note = merkle.Checkpoint(identity.origin, tree_size, root).sign(identity.signer)
    return {"size": tree_size, "note": note, "created_at": unix_now()}
