"""The security event log: what an administrator should be able to look up later.

    security.record(session, Event.ROLE_CHANGED, person="ada", role="issuer")     # with the change itself
    security.log(home, Event.PERMISSION_DENIED, permission="keys:issue")         # when something is refused

Who did it, from which address and in which request is taken from the present request. A detail never holds a
secret. One source that causes the same refusal again and again fills the log no faster than ``REFUSALS``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flask import g, has_request_context, request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from registry.accounts.models import SecurityEvent
from registry.accounts.permissions import Principal
from registry.addresses import counted_as
from registry.db import unix_now
from registry.home import Home
from verifier.bundle import utc

REFUSALS = RateLimitItemPerMinute(30)
"""Rows a minute for one kind of refusal from one source."""

OPERATOR = 0
"""In place of an organisation: only the operator may read it."""

_refusals = FixedWindowRateLimiter(MemoryStorage())


class Event(StrEnum):
    """Kinds of events of this feature; others name their own in the same style."""

    SIGNED_IN = "session.signed-in"
    SIGN_IN_FAILED = "session.sign-in-failed"
    LOCKED_OUT = "session.locked-out"
    SIGNED_OUT = "session.signed-out"
    FORGED_SESSION = "session.forged"
    FORGED_REQUEST = "session.csrf-missing"
    TOKEN_CREATED = "token.created"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    TOKEN_REFUSED = "token.refused"  # noqa: S105
    TOKEN_FORGED = "token.forged"  # noqa: S105
    PERMISSION_DENIED = "permission.denied"
    FOREIGN_ID = "permission.foreign-id"
    ORGANISATION_ADDED = "organisation.added"
    PERSON_ADDED = "person.added"
    PERSON_INVITED = "person.invited"
    PERSON_DISABLED = "person.disabled"
    PERSON_ENABLED = "person.enabled"
    ROLE_CHANGED = "person.role-changed"
    FACTORS_REMOVED = "person.factors-removed"
    PASSWORD_CHANGED = "account.password-changed"  # noqa: S105
    INVITATION_USED = "account.invitation-used"
    TOTP_ADDED = "account.totp-added"
    TOTP_REMOVED = "account.totp-removed"
    RECOVERY_CODES = "account.recovery-codes-made"
    RECOVERY_CODE_USED = "account.recovery-code-used"
    PASSKEY_ADDED = "account.passkey-added"
    PASSKEY_REMOVED = "account.passkey-removed"
    IDENTITY_LINKED = "account.identity-linked"
    IDENTITY_UNLINKED = "account.identity-unlinked"


@dataclass(frozen=True)
class Source:
    """Who does something, for whom, from where and in which request."""

    actor: str
    organisation: int | None = None
    address: str | None = None
    request_id: str | None = None


def present() -> Source:
    """Whoever makes the present request; on the command line, its user."""
    if not has_request_context():
        from registry.accounts.service import user_name

        return Source(f"operator {user_name()}")
    who: Principal | None = g.get("principal")
    return Source(
        actor="a stranger" if who is None else who.label,
        organisation=None if who is None else who.organisation,
        address=request.remote_addr,
        request_id=g.get("request_id"),
    )


def record(
    session: Session,
    kind: str,
    *,
    organisation: int | None = None,
    actor: str | None = None,
    source: Source | None = None,
    **detail: Any,
) -> None:
    """Add an event within the caller's transaction: it is logged exactly if the change happens.

    ``organisation`` (whose administrators may read it) and ``actor`` are those of the ``source``, by default
    the present one, unless they are given.
    """
    source = source or present()
    whose = source.organisation if organisation is None else organisation
    session.add(
        SecurityEvent(
            at=unix_now(),
            kind=kind,
            organisation_id=None if whose == OPERATOR else whose,
            actor=actor or source.actor,
            address=source.address,
            request_id=source.request_id,
            detail=json.dumps(detail),
        )
    )


def log(home: Home, kind: str, *, source: Source | None = None, **said: Any) -> None:
    """As :func:`record` in a transaction of its own: for refusals, whose own one is rolled back."""
    source = source or present()
    who = counted_as(source.address) if source.organisation is None else source.actor
    if not _refusals.hit(REFUSALS, kind, who):
        return
    with home.database.write() as session:
        record(session, kind, source=source, **said)


def events(organisation: int, *, operator: bool, kind: str | None = None) -> Select[Any]:
    """An organisation's events; for the operator's those of strangers too."""
    own = SecurityEvent.organisation_id == organisation
    query = select(SecurityEvent).where(
        or_(own, SecurityEvent.organisation_id.is_(None)) if operator else own
    )
    return query if kind is None else query.where(SecurityEvent.kind == kind)


def describe(event: SecurityEvent) -> dict[str, Any]:
    """An event as the API shows it."""
    return {
        "id": event.id,
        "at": utc(event.at),
        "kind": event.kind,
        "actor": event.actor,
        "address": event.address,
        "request_id": event.request_id,
        "detail": json.loads(event.detail),
    }
