"""Erasing a recipient: who he is goes, what was issued stays.

    erased = erase(home, "ada@example.org", organisation)

His address, key and salt are replaced, his links withdrawn, where his downloads came from and why copies of
his were revoked is cleared. Certificates, receipts, revocations and the ledger are as they were: they hold
commitments, which nobody can open without the salt. His copies still resolve, to a recipient whom nobody can
name any more. Backups made before, bundles exported with recipients, the security log, and what people wrote
into cases are not reached; nor are his countersignatures, which whoever has his public key can still check.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from sqlalchemy import CursorResult, Update, func, select, update
from sqlalchemy.orm import Session

from registry.accounts import security, service
from registry.accounts.models import Recipient
from registry.copies.models import Download, DownloadLink
from registry.db import unix_now
from registry.errors import NotFoundError
from registry.home import Home
from registry.keys.models import KeyRevocation, UserKey

ERASED_EVENT = "recipient.erased"
CLEARED = "erased"


@dataclass(frozen=True)
class Erased:
    """What stands for the recipient now, and what of his was touched."""

    email: str
    copies: int
    links_withdrawn: int
    downloads_cleared: int


def erase(home: Home, email: str, organisation: int | None = None) -> Erased:
    """Erase an organisation's recipient (``None``: the command line's) in one transaction, logged as it is.

    :class:`NotFoundError` where there is none, :class:`StateError` where he was erased already.
    """
    with home.database.write() as session:
        try:
            recipient = service.get_recipient(session, email, organisation)
        except NotFoundError as error:
            raise NotFoundError(str(error), "See `registry recipient list`.") from None
        service.erase(recipient)
        done = Erased(recipient.email, *_clear(session, recipient))
        security.record(
            session, ERASED_EVENT, organisation=recipient.organisation_id, recipient=recipient.email
        )
    return done


def _clear(session: Session, recipient: Recipient) -> tuple[int, int, int]:
    """End his links, clear what tells of him; how many copies he has, and links and downloads it changed."""
    own = select(UserKey.id).where(UserKey.recipient_id == recipient.id)
    copies = session.execute(select(func.count()).select_from(own.subquery())).scalar_one()
    links = _count(
        session,
        update(DownloadLink)
        .where(DownloadLink.user_key_id.in_(own), DownloadLink.used_at.is_(None))
        .where(DownloadLink.withdrawn_at.is_(None))
        .values(withdrawn_at=unix_now()),
    )
    downloads = _count(
        session,
        update(Download)
        .where(Download.user_key_id.in_(own), Download.link_id.is_not(None))
        .values(origin=CLEARED, user_agent=""),
    )
    revoked = update(KeyRevocation).where(KeyRevocation.user_key_id.in_(own))
    _count(session, revoked.values(reason=CLEARED, reason_salt=os.urandom(32)))
    return copies, links, downloads


def _count(session: Session, change: Update) -> int:
    found = session.execute(change.execution_options(synchronize_session=False))
    assert isinstance(found, CursorResult)
    return found.rowcount
