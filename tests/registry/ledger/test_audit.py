"""`ledger verify` names what was tampered with, whichever table it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.config import DATABASE_VARIABLE
from registry.copies.models import Download
from registry.copies.service import download
from registry.errors import IntegrityError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys.models import KeyRevocation, UserKey
from registry.keys.service import Issuer, certificate_document, revoke
from registry.ledger.audit import verify
from registry.ledger.models import LedgerCheckpoint, LedgerEntry, LedgerHead, LedgerTile
from registry.verification import records, verify_ledger
from tests.registry.support import MODEL, RECIPIENT, TinyModel, postgres_database, register
from verifier.certificate import leaf
from verifier.merkle import Checkpoint, leaf_hash

# Entries: 0 model, 1-3 certificates, 4 receipt, 5 revocation, 6-305 certificates.
SIZE = 306


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def logged(
    request: pytest.FixtureRequest, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """One ledger for all tests: each tampers with it in a transaction that it rolls back."""
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as cleanup:
        patch.delenv(DATABASE_VARIABLE, raising=False)
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_server")
            patch.setenv(DATABASE_VARIABLE, cleanup.enter_context(postgres_database(server)))
        Home.create(folder / "home")
        home = Home.open(folder / "home")
        cleanup.callback(home.close)
        register(home, tiny)
        issuer = Issuer.open(home, MODEL, RECIPIENT)
        documents = issuer.issue(3)
        download(home, documents[0]["copy_id"], folder / "copy")
        revoke(home, documents[1]["key_id"], "leaked")
        issuer.issue(300)
        yield home


def test_an_untouched_ledger_holds(logged: Home) -> None:
    seen: list[int] = []
    report = verify_ledger(logged, lambda total: seen.append(total) or seen.append)
    assert (report.size, report.checkpoints) == (SIZE, 6)
    assert seen == [SIZE]


def set_key(index: int, **values: object) -> Callable[[Session, Home], None]:
    return lambda session, _: session.execute(
        update(UserKey).where(UserKey.ledger_index == index).values(**values)
    )


def drop(table: type, *where: object) -> Callable[[Session, Home], None]:
    return lambda session, _: session.execute(delete(table).where(*where))


def flip_tile(level: int, number: int, byte: int) -> Callable[[Session, Home], None]:
    def change(session: Session, _: Home) -> None:
        tile = session.get_one(LedgerTile, (level, number))
        hashes = bytearray(tile.hashes)
        hashes[byte] ^= 1
        tile.hashes = bytes(hashes)

    return change


def forge_entry(session: Session, home: Home) -> None:
    """Change a record, its entry's digest and its hash in the tile: only the signatures remain."""
    row = session.execute(select(UserKey).where(UserKey.ledger_index == 2)).scalar_one()
    row.issued_at -= 1
    model = generators.get_model(session, MODEL)
    entry = session.get_one(LedgerEntry, 2)
    entry.digest = leaf(certificate_document(row, model, home.identity.registry))
    tile = session.get_one(LedgerTile, (0, 0))
    tile.hashes = tile.hashes[:64] + leaf_hash(entry.digest) + tile.hashes[96:]


def forge_checkpoint(session: Session, home: Home) -> None:
    row = session.get_one(LedgerCheckpoint, 4)
    row.note = Checkpoint(home.identity.origin, 4, bytes(32)).sign(home.identity.signer)


def break_signature(session: Session, _: Home) -> None:
    row = session.get_one(LedgerCheckpoint, 4)
    row.note = row.note.replace("\n4\n", "\n5\n")


def cut(session: Session, _: Home) -> None:
    """Remove the newest 300 entries with their records, tiles and count, but not the checkpoint."""
    session.execute(delete(UserKey).where(UserKey.ledger_index >= 6))
    session.execute(delete(LedgerEntry).where(LedgerEntry.index >= 6))
    session.execute(delete(LedgerTile).where((LedgerTile.number > 0) | (LedgerTile.level > 0)))
    tile = session.get_one(LedgerTile, (0, 0))
    tile.hashes = tile.hashes[: 32 * 6]
    session.execute(update(LedgerHead).values(size=6))


TAMPERINGS: dict[str, tuple[Callable[[Session, Home], object], str]] = {
    "certificate": (set_key(2, issued_at=0), r"ledger entry 2 \(certificate\) does not match its record"),
    "certificate expiry": (set_key(3, expires_at=5), r"ledger entry 3 \(certificate\) does not match"),
    "certificate signature": (set_key(300, signature=bytes(64)), r"ledger entry 300 \(certificate\)"),
    "certificate gone": (
        drop(UserKey, UserKey.ledger_index == 7),
        r"ledger entry 7 \(certificate\) has lost",
    ),
    "certificate moved": (
        set_key(10, ledger_index=900),
        r"ledger entry 10 \(certificate\) has lost its record",
    ),
    "model": (
        lambda s, _: s.execute(update(Model).values(registered_at=1)),
        r"ledger entry 0 \(model\) does not match",
    ),
    "receipt": (
        lambda s, _: s.execute(update(Download).values(sha256=bytes(32))),
        r"ledger entry 4 \(receipt\) does not match",
    ),
    "receipt gone": (drop(Download), r"ledger entry 4 \(receipt\) has lost its record"),
    "revocation undone": (drop(KeyRevocation), r"ledger entry 5 \(revocation\) has lost its record"),
    "entry digest": (
        lambda s, _: s.execute(update(LedgerEntry).where(LedgerEntry.index == 8).values(digest=bytes(32))),
        r"ledger entry 8 \(certificate\) does not match",
    ),
    "entry kind": (
        lambda s, _: s.execute(update(LedgerEntry).where(LedgerEntry.index == 8).values(kind="x/y/1")),
        r"ledger entry 8 \(y\) belongs to a record of another kind",
    ),
    "entry gone": (drop(LedgerEntry, LedgerEntry.index == 8), r"ledger entry 8 \(certificate\) is missing"),
    "last entry gone": (
        drop(LedgerEntry, LedgerEntry.index == SIZE - 1),
        rf"ledger entry {SIZE - 1} \(certificate\) is missing, but its record exists",
    ),
    "leaf in a tile": (flip_tile(0, 0, 32 * 77 + 5), "ledger entry 77: tile 0/0"),
    "leaf in the last tile": (flip_tile(0, 1, 0), "ledger entry 256: tile 0/1"),
    "upper tile": (flip_tile(1, 0, 3), "tile 1/0, which covers the ledger from entry 0 on"),
    "tile gone": (drop(LedgerTile, LedgerTile.number == 1), "ledger entry 256: tile 0/1"),
    "tile too many": (
        lambda s, _: s.add(LedgerTile(level=3, number=0, hashes=bytes(32))),
        "has 4 tiles where 3 belong",
    ),
    "record, entry and tile": (forge_entry, "ledger entries 1 to 3 are not those that were signed"),
    "checkpoint root": (forge_checkpoint, "the checkpoint of 4 entries has root 0000"),
    "checkpoint signature": (break_signature, "checkpoint 4: the signature of hallmark/.* does not hold"),
    "checkpoint gone": (
        drop(LedgerCheckpoint, LedgerCheckpoint.size == SIZE),
        f"entries 6 to {SIZE - 1} have no checkpoint",
    ),
    "head": (lambda s, _: s.execute(update(LedgerHead).values(size=3)), "head counts 3 entries"),
    "cut": (cut, f"a checkpoint of {SIZE} entries was signed, but only 6 are stored"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_named(logged: Home, name: str) -> None:
    change, said = TAMPERINGS[name]
    with logged.database.write() as session:
        change(session, logged)
        session.flush()
        with pytest.raises(IntegrityError, match=said):
            verify(session, logged.identity, records(session, logged.identity.registry))
        session.rollback()
