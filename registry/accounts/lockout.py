"""Lock-out: after failed attempts to sign in, an account and an address must wait, each time longer.

    lockout.attempt(home, sources)          # before anything is checked; ThrottledError while locked
    lockout.succeeded(session, sources)     # this attempt was none of the failures

An attempt counts as failed before it is checked, so that many at once gain nothing. An account that does not
exist locks as one that does: the answer says nothing about it. Passkeys and OpenID sign-in, which cannot be
guessed, are not locked, so nobody can be shut out by others for good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError as DuplicateError
from sqlalchemy.orm import Session

from registry.accounts.models import SignInAttempts
from registry.addresses import counted_as
from registry.db import unix_now
from registry.errors import ThrottledError
from registry.home import Home

LONGEST_WAIT = 15 * 60
"""Seconds: an attacker gets four guesses an hour, an owner is back after a coffee."""

FORGOTTEN_AFTER = 24 * 3600


@dataclass(frozen=True)
class Source:
    """Where attempts come from; the first ``free`` failures cost no waiting."""

    kind: str
    name: str
    free: int

    @property
    def key(self) -> bytes:
        """What the row is found by; neither names nor addresses are stored."""
        return hashlib.sha256(f"hallmark/attempts/{self.kind}\n{self.name}".encode()).digest()


def account(name: str) -> Source:
    """Attempts on one account, by the name that was given."""
    return Source("account", name, 5)


def address(remote: str | None) -> Source:
    """Attempts from one address, which many people may share."""
    return Source("address", counted_as(remote), 30)


def wait_after(failures: int, free: int) -> int:
    """Seconds to wait after so many failures: 1, 2, 4, ... beyond the free ones."""
    return 0 if failures <= free else min(LONGEST_WAIT, 1 << min(failures - free - 1, 20))


def attempt(home: Home, *sources: Source) -> None:
    """Count an attempt from each source; :class:`ThrottledError` while one of them must wait."""
    now = unix_now()
    with home.database.write() as session:
        rows = [_locked_row(session, source) for source in sorted(sources, key=lambda source: source.key)]
        wait = max(row.locked_until for row in rows) - now
        if wait <= 0:
            for source, row in zip(sorted(sources, key=lambda source: source.key), rows, strict=True):
                row.failures = 1 if row.last_at < now - FORGOTTEN_AFTER else row.failures + 1
                row.last_at, row.locked_until = now, now + wait_after(row.failures, source.free)
    if wait > 0:
        raise ThrottledError("there were too many failed attempts to sign in.", "Wait, then try again.", wait)


def passed(session: Session, *sources: Source) -> None:
    """Take this attempt back: it did not fail, but others stay counted."""
    for source in sorted(sources, key=lambda source: source.key):
        row = _locked_row(session, source)
        row.failures, row.locked_until = max(0, row.failures - 1), 0


def succeeded(session: Session, own: Source, *others: Source) -> None:
    """Forget the failures of the account that signed in; of its address only this attempt."""
    passed(session, *others)
    session.execute(delete(SignInAttempts).where(SignInAttempts.source_sha256 == own.key))


def forget_old(session: Session) -> None:
    """Delete what no longer counts."""
    session.execute(delete(SignInAttempts).where(SignInAttempts.last_at < unix_now() - FORGOTTEN_AFTER))


def _locked_row(session: Session, source: Source) -> SignInAttempts:
    query = select(SignInAttempts).where(SignInAttempts.source_sha256 == source.key).with_for_update()
    row = session.execute(query).scalar_one_or_none()
    if row is not None:
        return row
    try:
        with session.begin_nested():
            session.add(SignInAttempts(source_sha256=source.key, failures=0, last_at=0, locked_until=0))
    except DuplicateError:
        pass  # another attempt came first
    return session.execute(query).scalar_one()
