"""`registry ledger verify`: the audit of the ledger over the records of every feature that logs."""

from __future__ import annotations

from collections.abc import Callable, Generator

from sqlalchemy.orm import Session

from registry.cases import service as cases
from registry.copies import service as copies
from registry.generators import service as generators
from registry.home import Home
from registry.identity import Identity
from registry.keys import service as keys
from registry.ledger import audit
from registry.ledger import service as ledger

Seen = Callable[[int], None]


def verify_ledger(home: Home, progress: Callable[[int], Seen] = lambda _: lambda _: None) -> audit.Report:
    """Rebuild every record and recompute the ledger; :class:`IntegrityError` names what fails first."""
    with home.database.read() as session:
        return verify_within(session, home.identity, progress)


def verify_within(session: Session, identity: Identity, progress: Callable[[int], Seen]) -> audit.Report:
    """The same within a transaction, of what it sees."""
    seen = progress(ledger.size(session))
    report = audit.verify(session, identity, records(session, identity.registry), seen)
    keys.check_counts(session)
    return report


def records(session: Session, registry: str) -> list[Generator[audit.Record]]:
    """Everything that is logged, rebuilt from its rows: one stream in ledger order for each kind."""
    sources = (
        generators.records,
        keys.records,
        copies.records,
        copies.countersignature_records,
        keys.revocation_records,
        cases.records,
    )
    return [source(session, registry) for source in sources]
