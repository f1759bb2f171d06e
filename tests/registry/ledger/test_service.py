from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from registry.home import Home
from registry.ledger import service
from registry.ledger.models import LedgerEntry
from verifier.merkle import Checkpoint, leaf_hash, verify_consistency, verify_inclusion


def digests(start: int, count: int) -> list[bytes]:
    return [hashlib.sha256(i.to_bytes(4)).digest() for i in range(start, start + count)]


def append(home: Home, start: int, count: int) -> int:
    with home.database.write() as session:
        return service.append(session, home.identity, service.CERTIFICATE, digests(start, count))


def test_entries_are_numbered_proved_and_signed(home: Home) -> None:
    roots = {}
    size = 0
    for count in (1, 2, 255, 300):
        assert append(home, size, count) == size
        size += count
        with home.database.read() as session:
            signed = Checkpoint.open(service.checkpoint(session), home.identity.public)
        assert (signed.origin, signed.size) == (home.identity.origin, size)
        roots[size] = signed.root
    with home.database.read() as session:
        for index in (0, 1, 2, 255, 256, 557):
            proof = service.inclusion_proof(session, index, size)
            verify_inclusion(leaf_hash(digests(index, 1)[0]), index, size, proof, roots[size])
        for old, new in ((1, 3), (3, 258), (258, 558), (1, 558), (558, 558)):
            verify_consistency(old, new, service.consistency_proof(session, old, new), roots[old], roots[new])
        assert len(service.level_hashes(session, 0)) == 32 * size
        assert len(service.level_hashes(session, 1)) == 32 * 2
        assert service.level_hashes(session, 2) == b""


def test_a_transaction_that_fails_leaves_no_entry(home: Home) -> None:
    append(home, 0, 3)

    def fails() -> None:
        with home.database.write() as session:
            service.append(session, home.identity, service.CERTIFICATE, digests(3, 300))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert append(home, 3, 2) == 3
    with home.database.read() as session:
        assert service.size(session) == 5


def test_parallel_appends_leave_no_gap(home: Home) -> None:
    def worker(number: int) -> None:
        for turn in range(5):
            append(home, 1000 * number + 10 * turn, 7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(worker, range(4)))
    with home.database.read() as session:
        entries = session.execute(select(LedgerEntry).order_by(LedgerEntry.index)).scalars().all()
        signed = Checkpoint.open(service.checkpoint(session), home.identity.public)
        assert [entry.index for entry in entries] == list(range(140))
        for index in (0, 77, 139):
            proof = service.inclusion_proof(session, index, 140)
            verify_inclusion(leaf_hash(entries[index].digest), index, 140, proof, signed.root)
