"""Challenges that are answered once, soon, and by whom they were meant for.

    begin(session, "passkey-sign-in", challenge)
    found = take(home, "passkey-sign-in", challenge)         # None the second time, or after five minutes

Kept on the server, so that an answer holds only if this registry asked for it.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.accounts.models import Ceremony
from registry.db import unix_now
from registry.home import Home

LIFETIME = 300  # seconds


def begin(
    session: Session, kind: str, secret: bytes, *, person: int | None = None, sealed: bytes | None = None
) -> None:
    """Remember a challenge (or state) and what its answer will be checked with."""
    session.execute(delete(Ceremony).where(Ceremony.expires_at <= unix_now()))
    session.add(
        Ceremony(
            secret_sha256=_digest(secret),
            kind=kind,
            person_id=person,
            sealed=sealed,
            expires_at=unix_now() + LIFETIME,
        )
    )


def take(home: Home, kind: str, secret: bytes) -> Ceremony | None:
    """The ceremony that waits for this answer, ``None`` if none does.

    That ends it, in a transaction of its own: also for an answer that turns out not to hold.
    """
    query = select(Ceremony).where(Ceremony.secret_sha256 == _digest(secret), Ceremony.kind == kind)
    with home.database.write() as session:
        found = session.execute(query.with_for_update()).scalar_one_or_none()
        if found is None:
            return None
        session.delete(found)
    return found if found.expires_at > unix_now() else None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
