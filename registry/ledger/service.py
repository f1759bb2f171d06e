"""Appending to the ledger and proving what is in it.

    first = append(session, identity, CERTIFICATE, digests)     # within the caller's transaction
    proof = inclusion_proof(session, index, size)
    note = checkpoint(session)

An append locks the head, so entries are numbered without gaps however many processes issue at once,
and it signs a checkpoint in the same transaction: no entry is ever committed without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, insert, or_, select, update
from sqlalchemy.orm import Session

from registry.db import unix_now
from registry.identity import Identity
from registry.ledger import tiles
from registry.ledger.models import LedgerCheckpoint, LedgerEntry, LedgerHead, LedgerTile
from verifier import certificate, merkle

MODEL = "hallmark/model/1"
CERTIFICATE = certificate.SCHEMA
RECEIPT = "hallmark/receipt/1"
REVOCATION = "hallmark/revocation/1"

_HEAD = 1


def create(session: Session, identity: Identity) -> None:
    """The empty ledger with its first checkpoint."""
    session.add(LedgerHead(id=_HEAD, size=0))
    session.execute(insert(LedgerCheckpoint), [_checkpoint_row(identity, 0, merkle.EMPTY_ROOT)])


def append(session: Session, identity: Identity, kind: str, digests: Sequence[bytes]) -> int:
    """Log records by the digests of their signed documents; returns the index of the first.

    Holds the ledger until the transaction ends: prepare everything else before. Five or six statements,
    however many records.
    """
    # One statement takes the lock and the numbers; whoever comes second waits here and then counts on.
    new: int = session.execute(
        update(LedgerHead)
        .where(LedgerHead.id == _HEAD)
        .values(size=LedgerHead.size + len(digests))
        .returning(LedgerHead.size)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    first, now = new - len(digests), unix_now()
    session.execute(
        insert(LedgerEntry),
        [
            {"index": first + i, "kind": kind, "digest": digest, "logged_at": now}
            for i, digest in enumerate(digests)
        ],
    )
    edge = _read_tiles(session, tiles.edge(first))
    changed = tiles.extend(first, [merkle.leaf_hash(digest) for digest in digests], _reader(edge))
    _write_tiles(session, changed, edge)
    # The root needs the right edge alone: every full tile left of it is one hash of the level above.
    root = merkle.tree_root(new, _reader({**edge, **changed}))
    session.execute(insert(LedgerCheckpoint), [_checkpoint_row(identity, new, root)])
    return first


def size(session: Session) -> int:
    """The number of entries."""
    return session.execute(select(LedgerHead.size).where(LedgerHead.id == _HEAD)).scalar_one()


def checkpoint(session: Session) -> str:
    """The signed note of the newest tree head."""
    newest = select(LedgerCheckpoint.note).order_by(LedgerCheckpoint.size.desc()).limit(1)
    return session.execute(newest).scalar_one()


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


def _read_tiles(session: Session, wanted: Sequence[tuple[int, int]]) -> tiles.Tiles:
    """Those of the ``wanted`` tiles (level, number) that exist, in one statement."""
    if not wanted:
        return {}
    places = [and_(LedgerTile.level == level, LedgerTile.number == number) for level, number in wanted]
    rows = session.execute(select(LedgerTile.level, LedgerTile.number, LedgerTile.hashes).where(or_(*places)))
    return {(row.level, row.number): row.hashes for row in rows}


def _write_tiles(session: Session, changed: tiles.Tiles, stored: tiles.Tiles) -> None:
    """Store the changed tiles, of which the ``stored`` ones are there already."""
    rows = [
        {"level": level, "number": number, "hashes": hashes} for (level, number), hashes in changed.items()
    ]
    known = [row for row in rows if (row["level"], row["number"]) in stored]
    fresh = [row for row in rows if (row["level"], row["number"]) not in stored]
    if known:
        session.execute(update(LedgerTile), known)
    if fresh:
        session.execute(insert(LedgerTile), fresh)


def _reader(known: tiles.Tiles) -> merkle.ReadTile:
    return lambda level, number: known.get((level, number), b"")


def _checkpoint_row(identity: Identity, tree_size: int, root: bytes) -> dict[str, Any]:
    note = merkle.Checkpoint(identity.origin, tree_size, root).sign(identity.signer)
    return {"size": tree_size, "note": note, "created_at": unix_now()}
