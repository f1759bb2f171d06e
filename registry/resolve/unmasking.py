"""Telling an auditor who a recipient is: asked for with a reason, decided by the distributor, logged.

request(home, principal, resolution_id, pseudonym, "case 17")       # pending
decide(home, principal, unmasking_id, approve=True, note="")       # by the distributor
show(home, principal, unmasking_id)["recipient"]                   # once approved, to both
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from registry.accounts import security
from registry.accounts.models import Recipient
from registry.accounts.permissions import Permission, Principal
from registry.db import unix_now
from registry.errors import NotFoundError, StateError
from registry.generators.models import Model
from registry.home import Home
from registry.keys.models import UserKey
from registry.resolve.models import Resolution, ResolvedKey, Unmasking
from verifier.bundle import utc

PENDING, APPROVED, DENIED = "pending", "approved", "denied"
REQUESTED, DECIDED, SHOWN = "unmasking.requested", "unmasking.decided", "unmasking.shown"


def request(
    home: Home, principal: Principal, resolution_id: str, pseudonym: str, reason: str
) -> dict[str, Any]:
    """Ask whose key a resolution of one's own organisation named.

    :class:`NotFoundError` unless it named one so, :class:`StateError` while the same is undecided or
    approved.
    """
    named = (
        select(Resolution, ResolvedKey.user_key_id, Model.organisation_id)
        .join(ResolvedKey, ResolvedKey.resolution_id == Resolution.id)
        .join(Model, Model.id == Resolution.model_id)
        .where(
            Resolution.resolution_id == resolution_id,
            Resolution.organisation_id == principal.organisation,
            ResolvedKey.pseudonym == pseudonym,
        )
        .with_for_update(of=Resolution)
    )
    with home.database.write() as session:
        found = session.execute(named).one_or_none()
        if found is None:
            raise NotFoundError(
                f"no resolution {resolution_id} of yours named {pseudonym}.", "Take both from a finding."
            )
        resolution, user_key, owner = found
        before = select(Unmasking.state).where(
            Unmasking.resolution_id == resolution.id,
            Unmasking.user_key_id == user_key,
            Unmasking.state != DENIED,
        )
        if (state := session.execute(before).scalar()) is not None:
            raise StateError(f"this was asked for before and is {state}.", "See the list of unmaskings.")
        row = Unmasking(
            unmasking_id=secrets.token_hex(8),
            resolution_id=resolution.id,
            user_key_id=user_key,
            organisation_id=principal.organisation,
            owner_id=owner,
            pseudonym=pseudonym,
            reason=reason,
            requested_by=principal.label,
            requested_at=unix_now(),
            state=PENDING,
            note="",
            decided_by=None,
            decided_at=None,
        )
        session.add(row)
        for organisation in {owner, principal.organisation}:
            security.record(session, REQUESTED, organisation=organisation, unmasking=row.unmasking_id)
        session.flush()
        return _describe(session, row)


def decide(
    home: Home, principal: Principal, unmasking_id: str, *, approve: bool, note: str
) -> dict[str, Any]:
    """Approve or deny a request about one's own models.

    :class:`NotFoundError`, :class:`StateError` once it is decided.
    """
    query = select(Unmasking).where(
        Unmasking.unmasking_id == unmasking_id, Unmasking.owner_id == principal.organisation
    )
    with home.database.write() as session:
        row = session.execute(query.with_for_update()).scalar_one_or_none()
        if row is None:
            raise _unknown(unmasking_id)
        if row.state != PENDING:
            raise StateError(f"this unmasking is {row.state} already.", "Nothing was changed.")
        row.state, row.note = (APPROVED if approve else DENIED), note
        row.decided_by, row.decided_at = principal.label, unix_now()
        for organisation in {row.owner_id, row.organisation_id}:
            security.record(
                session, DECIDED, organisation=organisation, unmasking=unmasking_id, state=row.state
            )
        session.flush()
        return _describe(session, row)


def visible(organisation: int) -> Select[Any]:
    """The unmaskings that an organisation asked for or has to decide."""
    return select(Unmasking).where(
        or_(Unmasking.organisation_id == organisation, Unmasking.owner_id == organisation)
    )


def show(home: Home, principal: Principal, unmasking_id: str) -> dict[str, Any]:
    """One unmasking; with the recipient once it is approved, which is logged each time.

    It is approved for those who asked: of the distributor's people only those see the recipient who see all.
    """
    query = visible(principal.organisation).where(Unmasking.unmasking_id == unmasking_id)
    with home.database.write() as session:
        row = session.execute(query).scalar_one_or_none()
        if row is None:
            raise _unknown(unmasking_id)
        shown = _describe(session, row)
        may_know = row.organisation_id == principal.organisation
        if row.state == APPROVED and (may_know or Permission.READ_RECIPIENTS in principal.permissions):
            shown["recipient"] = _recipient(session, row)
            for organisation in {row.owner_id, row.organisation_id}:
                security.record(session, SHOWN, organisation=organisation, unmasking=unmasking_id)
        return shown


def describe(session: Session, row: Unmasking) -> dict[str, Any]:
    """An unmasking as lists show it, without the recipient."""
    return _describe(session, row)


def _describe(session: Session, row: Unmasking) -> dict[str, Any]:
    resolution = session.get_one(Resolution, row.resolution_id)
    return {
        "id": row.unmasking_id,
        "resolution": resolution.resolution_id,
        "model": session.get_one(Model, resolution.model_id).label,
        "key_id": row.pseudonym,
        "reason": row.reason,
        "requested_by": row.requested_by,
        "requested_at": utc(row.requested_at),
        "state": row.state,
        "note": row.note,
        "decided_by": row.decided_by,
        "decided_at": None if row.decided_at is None else utc(row.decided_at),
        "recipient": None,
    }


def _recipient(session: Session, row: Unmasking) -> dict[str, str]:
    key = session.get_one(UserKey, row.user_key_id)
    recipient = session.get_one(Recipient, key.recipient_id)
    return {"email": recipient.email, "key_id": key.key_id.hex(), "issued_at": utc(key.issued_at)}


def _unknown(unmasking_id: str) -> NotFoundError:
    return NotFoundError(f"there is no unmasking {unmasking_id}.", "See the list of unmaskings.")
