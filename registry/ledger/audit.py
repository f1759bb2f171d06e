"""`registry ledger verify`: recompute the whole ledger from the records it speaks of.

    report = verify(session, identity, records)
    report.size, report.root

Every record is rebuilt from its table row, hashed, and compared with its entry, its tile and the
signed checkpoints. Nothing stored is taken for granted: a changed row, a missing row, an altered tile,
a swapped entry or a rewritten checkpoint is named by the first entry that does not hold.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from registry.db import stream
from registry.errors import IntegrityError
from registry.identity import Identity
from registry.ledger import service
from registry.ledger.models import LedgerCheckpoint, LedgerEntry, LedgerTile
from registry.ledger.tiles import Frontier
from verifier import certificate, signing
from verifier.errors import TrustError
from verifier.merkle import HASH_BYTES, TILE_WIDTH, Checkpoint, leaf_hash, subtree_root

SEEN_EVERY = 5_000

Record = tuple[int, signing.Document]
"""(ledger index, the signed document rebuilt from its row)"""


@dataclass(frozen=True)
class Report:
    """A ledger that holds: its size, its root in hex and the number of checkpoints checked."""

    size: int
    root: str
    checkpoints: int


def verify(
    session: Session,
    identity: Identity,
    records: Iterable[Generator[Record]],
    seen: Callable[[int], None] = lambda _: None,
) -> Report:
    """Check entries, records, tiles and checkpoints; :class:`IntegrityError` names what fails first.

    ``records`` are streams in ledger order, one for each feature that logs; ``seen`` is told the number
    of entries checked so far.
    """
    with ExitStack() as streams:
        # An open cursor must not outlive the session, also when something does not hold.
        opened = [streams.enter_context(closing(record)) for record in records]
        entries = streams.enter_context(closing(stream(session, _ENTRIES)))
        signed = streams.enter_context(closing(stream(session, _CHECKPOINTS)))
        return _verify(session, identity, opened, entries, signed, seen)


def _verify(
    session: Session,
    identity: Identity,
    records: Iterable[Iterator[Record]],
    entries: Iterator[Row[int, str, bytes]],
    signed: Iterator[Row[int, str]],
    seen: Callable[[int], None],
) -> Report:
    tiles, frontier = _TileCheck(session), Frontier()
    checkpoints = _CheckpointCheck(signed, identity)
    checkpoints.check(frontier)
    rebuilt = heapq.merge(*records, key=lambda record: record[0])
    for entry in entries:
        index = frontier.size
        if entry.number != index:
            raise _fails(index, entry.kind, "is missing")
        record = next(rebuilt, None)
        _check_record(entry, record)
        leaf = leaf_hash(entry.digest)
        tiles.add(leaf)
        frontier.add(leaf)
        checkpoints.check(frontier)
        if frontier.size % SEEN_EVERY == 0:
            seen(frontier.size)
    if (extra := next(rebuilt, None)) is not None:
        raise _fails(extra[0], str(extra[1].get("schema")), "is missing, but its record exists")
    if (size := service.size(session)) != frontier.size:
        raise IntegrityError(f"the ledger's head counts {size} entries, {frontier.size} are stored.", _HINT)
    tiles.finish()
    checkpoints.finish(frontier.size)
    return Report(frontier.size, frontier.root().hex(), checkpoints.count)


_ENTRIES = select(LedgerEntry.index.label("number"), LedgerEntry.kind, LedgerEntry.digest).order_by(
    LedgerEntry.index
)
_CHECKPOINTS = select(LedgerCheckpoint.size, LedgerCheckpoint.note).order_by(LedgerCheckpoint.size)
_HINT = "The database was altered outside Hallmark or damaged; restore it from a backup."


def _fails(index: int, kind: str, what: str) -> IntegrityError:
    name = kind.split("/")[1] if "/" in kind else kind
    return IntegrityError(f"ledger entry {index} ({name}) {what}.", _HINT)


def _check_record(entry: Row[int, str, bytes], record: Record | None) -> None:
    if record is None or record[0] > entry.number:
        raise _fails(entry.number, entry.kind, "has lost its record")
    index, document = record
    if index < entry.number:
        raise _fails(index, entry.kind, "is claimed by two records")
    if document["schema"] != entry.kind:
        raise _fails(index, entry.kind, f"belongs to a record of another kind, {document['schema']}")
    digest = certificate.leaf(document)
    if digest != entry.digest:
        raise _fails(
            index,
            entry.kind,
            f"does not match its record: logged {entry.digest.hex()}, rebuilt {digest.hex()}",
        )


class _TileCheck:
    """Compares the stored tiles with hashes recomputed from left to right, one open tile a level."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: list[list[bytes]] = []
        self._counts: list[int] = []
        self._stored = b""

    def add(self, leaf: bytes) -> None:
        """Compare the next leaf hash with its place in its tile, and close the tiles that it fills."""
        value, level = leaf, 0
        while True:
            if level == len(self._open):
                self._open.append([])
                self._counts.append(0)
            hashes = self._open[level]
            if level == 0:
                self._compare_leaf(value, len(hashes))
            hashes.append(value)
            if len(hashes) < TILE_WIDTH:
                return
            self._compare(level, b"".join(hashes))
            self._counts[level] += 1
            self._open[level], value, level = [], subtree_root(hashes), level + 1

    def finish(self) -> None:
        """Compare the partial tiles, and count: a tile that nothing needs is no part of the ledger."""
        expected = 0
        for level, hashes in enumerate(self._open):
            if hashes:
                self._compare(level, b"".join(hashes))
            expected += self._counts[level] + bool(hashes)
        found = self._session.execute(select(func.count()).select_from(LedgerTile)).scalar_one()
        if found != expected:
            raise IntegrityError(f"the ledger has {found} tiles where {expected} belong.", _HINT)

    def _compare_leaf(self, leaf: bytes, offset: int) -> None:
        if offset == 0:
            self._stored = self._read(0)
        if self._stored[HASH_BYTES * offset : HASH_BYTES * (offset + 1)] != leaf:
            number = self._counts[0]
            raise IntegrityError(
                f"ledger entry {number * TILE_WIDTH + offset}: tile 0/{number} does not hold its hash.", _HINT
            )

    def _compare(self, level: int, expected: bytes) -> None:
        if self._read(level) != expected:
            number = self._counts[level]
            first = number * TILE_WIDTH << (8 * level)
            raise IntegrityError(
                f"tile {level}/{number}, which covers the ledger from entry {first} on, was altered.", _HINT
            )

    def _read(self, level: int) -> bytes:
        query = select(LedgerTile.hashes).where(
            LedgerTile.level == level, LedgerTile.number == self._counts[level]
        )
        return self._session.execute(query).scalar_one_or_none() or b""


class _CheckpointCheck:
    """Every signed tree head must be the root that the recomputed entries have at its size."""

    def __init__(self, rows: Iterator[Row[int, str]], identity: Identity) -> None:
        self._rows = rows
        self._identity = identity
        self._next = next(self._rows, None)
        self._last = -1
        self.count = 0

    def check(self, frontier: Frontier) -> None:
        row = self._next
        if row is None or row.size != frontier.size:
            return
        try:
            signed = Checkpoint.open(row.note, self._identity.public)
        except TrustError as error:
            raise IntegrityError(f"checkpoint {row.size}: {error}", _HINT) from None
        found = Checkpoint(self._identity.origin, frontier.size, frontier.root())
        if signed != found:
            raise IntegrityError(
                f"ledger entries {max(self._last, 0)} to {row.size - 1} are not those that were signed: "
                f"the checkpoint of {row.size} entries has root {signed.root.hex()}, "
                f"the entries give {found.root.hex()}.",
                _HINT,
            )
        self._last, self.count = row.size, self.count + 1
        self._next = next(self._rows, None)

    def finish(self, size: int) -> None:
        if self._next is not None:
            raise IntegrityError(
                f"a checkpoint of {self._next.size} entries was signed, but only {size} are stored.", _HINT
            )
        if self._last != size:
            raise IntegrityError(f"entries {max(self._last, 0)} to {size - 1} have no checkpoint.", _HINT)
