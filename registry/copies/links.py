"""One-time download links: a recipient gets his copy without an account.

    link, secret = create(home, key, "person ada", hours=72)        # the secret is shown once
    found = find(session, registry, secret)                         # the link and its key
    require_usable(found.link)

A link ends with its first complete delivery, when it expires or when it is withdrawn; until then whoever has
it may resume. Its secret has 256 random bits, so its plain SHA-256 is as good as a slow hash.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.accounts.models import Recipient
from registry.copies import deliveries
from registry.copies.models import Download, DownloadLink
from registry.db import unix_now
from registry.errors import NotFoundError, RegistryError
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.keys.service import IssuedKey
from verifier.bundle import utc

DEFAULT_HOURS = 72
LONGEST_HOURS = 24 * 90
_HOUR_SECONDS = 3600


class GoneError(RegistryError):
    """A link that was good once; ``reason`` is ``used``, ``withdrawn`` or ``expired``."""

    def __init__(self, reason: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.reason = reason


@dataclass(frozen=True)
class FoundLink:
    """A link, the key of its copy, and the organisation that made it."""

    link: DownloadLink
    key: IssuedKey

    @property
    def organisation(self) -> int:
        """Whose copy it is."""
        return self.key.model.organisation_id


def create(
    home: Home, key: IssuedKey, created_by: str, hours: int = DEFAULT_HOURS
) -> tuple[DownloadLink, str]:
    """A new link for the copy of ``key`` and its secret, which is stored nowhere.

    :class:`StateError` for a copy that is no longer delivered.
    """
    with home.database.write() as session:
        ((row, secret),) = create_all(session, [key], created_by, hours)
    return row, secret


def create_all(
    session: Session, keys: Sequence[IssuedKey], created_by: str, hours: int = DEFAULT_HOURS
) -> list[tuple[DownloadLink, str]]:
    """A new link for each copy; the same refusal, of all of them, and of those whose recipient was erased."""
    whose = select(Recipient).where(Recipient.id.in_({key.row.recipient_id for key in keys}))
    for recipient in session.execute(whose).scalars():
        accounts.refuse_erased(recipient)
    made, now = [], unix_now()
    for key in keys:
        deliveries.refuse(key)
        secret = secrets.token_urlsafe(32)
        row = DownloadLink(
            link_id=f"link-{secrets.token_hex(12)}",
            user_key_id=key.row.id,
            secret_sha256=_digest(secret),
            created_by=created_by,
            created_at=now,
            expires_at=now + hours * _HOUR_SECONDS,
        )
        session.add(row)
        made.append((row, secret))
    return made


def find(session: Session, registry: str, secret: str) -> FoundLink:
    """The link with this secret, in whatever state; :class:`NotFoundError` if there is none."""
    query = (
        select(DownloadLink, UserKey.key_id)
        .join(UserKey, UserKey.id == DownloadLink.user_key_id)
        .where(DownloadLink.secret_sha256 == _digest(secret))
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFoundError("there is no such link.", "Check that you have all of it.")
    link, key_id = found
    return FoundLink(link, keys.get_key(session, registry, key_id.hex()))


def require_usable(link: DownloadLink) -> None:
    """:class:`GoneError` for a link that is over."""
    hint = "Ask for a new one."
    if link.used_at is not None:
        raise GoneError(
            "used", f"this link was used: its download was complete at {utc(link.used_at)}.", hint
        )
    if link.withdrawn_at is not None:
        raise GoneError("withdrawn", "this link was withdrawn.", hint)
    if link.expires_at <= unix_now():
        raise GoneError("expired", f"this link expired at {utc(link.expires_at)}.", hint)


def delivered(session: Session, link: DownloadLink) -> Download:
    """The complete delivery of a link; :class:`NotFoundError` before there is one."""
    query = select(Download).where(Download.link_id == link.id, Download.state == deliveries.DELIVERED)
    found = session.execute(query.order_by(Download.id).limit(1)).scalar_one_or_none()
    if found is None:
        raise NotFoundError("there is no receipt yet.", "Download the copy to its end first.")
    return found


def withdraw(session: Session, organisation: int, copy: UserKey, link_id: str) -> None:
    """End a link of an organisation's copy; one that is over already stays so. :class:`NotFoundError`."""
    query = (
        select(DownloadLink)
        .join(UserKey, UserKey.id == DownloadLink.user_key_id)
        .join(Model, Model.id == UserKey.model_id)
        .where(
            DownloadLink.link_id == link_id,
            DownloadLink.user_key_id == copy.id,
            Model.organisation_id == organisation,
        )
    )
    row = session.execute(query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"this copy has no link {link_id}.", "See the list of its links.")
    row.withdrawn_at = row.withdrawn_at or unix_now()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
