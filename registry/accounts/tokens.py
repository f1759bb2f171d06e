"""API tokens: bearer secrets of an organisation, stored hashed.

    secret = create(session, organisation, "ci", Role.ISSUER, expires_days=90)      # shown once
    held = authenticate(connection, secret)                                         # None if it does not hold

A token is ``hm_<prefix>_<secret>``. The secret has 256 random bits, so its plain SHA-256 is as good as a slow
hash; the prefix finds the row and names the token in logs, and the comparison takes constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, select, true, update
from sqlalchemy.orm import Session

from registry.accounts import security
from registry.accounts.models import ApiToken, Person
from registry.accounts.permissions import PERMISSIONS, Permission, Principal, Role
from registry.accounts.security import Event
from registry.db import DAY_SECONDS, table, unix_now
from registry.errors import ForbiddenError, InputError, NotFoundError
from registry.home import Home
from verifier.bundle import utc

LONGEST_DAYS = 366
_TEXT = re.compile(r"hm_([0-9a-f]{12})_([0-9A-Za-z_-]{43})")
_USED_EVERY = 300  # seconds; `last_used_at` needs no write for every request


def create(
    session: Session,
    organisation: int,
    name: str,
    role: Role,
    *,
    scopes: Collection[Permission] = (),
    expires_days: int = 90,
    person: int | None = None,
    creator: Principal | None = None,
) -> tuple[ApiToken, str]:
    """A new token's row and its secret text, which is stored nowhere.

    ``creator`` cannot hand out more than it may itself: :class:`ForbiddenError`. :class:`InputError` for an
    empty name or a validity outside 1 to ``LONGEST_DAYS``.
    """
    if not name.strip():
        raise InputError("the token's name is empty.", "Name what it is for.")
    if not 1 <= expires_days <= LONGEST_DAYS:
        raise InputError(f"a token cannot last {expires_days} days.", f"Give 1 to {LONGEST_DAYS}.")
    wanted = PERMISSIONS[role] & frozenset(scopes) if scopes else PERMISSIONS[role]
    if creator is not None and not wanted <= creator.permissions:
        raise ForbiddenError(
            f"{creator.label} cannot give a token permissions that he lacks.", "Choose narrower scopes."
        )
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    now = unix_now()
    row = ApiToken(
        organisation_id=organisation,
        person_id=person,
        name=name.strip(),
        prefix=prefix,
        secret_sha256=hashlib.sha256(secret.encode()).digest(),
        role=role.value,
        scopes=" ".join(sorted(scopes)),
        created_at=now,
        expires_at=now + expires_days * DAY_SECONDS,
    )
    session.add(row)
    session.flush()
    security.record(
        session,
        Event.TOKEN_CREATED,
        organisation=organisation,
        token=prefix,
        role=role.value,
        scopes=row.scopes,
    )
    return row, f"hm_{prefix}_{secret}"


@dataclass(frozen=True)
class Held:
    """A token that holds: for whom, and whether its use is to be noted."""

    principal: Principal
    unnoted: bool


def authenticate(connection: Connection | Session, text: str) -> Held | None:
    """Who holds this token; ``None`` if it is unknown, altered, expired or revoked, or its person disabled.

    A person's token does nothing that the person may not do at present.
    """
    row = _find(connection, text)
    if row is None or _refusal(row) is not None:
        return None
    scopes = frozenset(map(Permission, row.scopes.split())) if row.scopes else None
    if row.person_role is not None and row.person_role != row.role:
        allowed = PERMISSIONS[Role(row.person_role)]
        scopes = allowed if scopes is None else allowed & scopes
    principal = Principal(
        organisation=row.organisation_id,
        role=Role(row.role),
        label=f"token {row.prefix}",
        person=row.person_id,
        token=row.id,
        scopes=scopes,
    )
    return Held(principal, unnoted=unix_now() - (row.last_used_at or 0) >= _USED_EVERY)


def refused(connection: Connection | Session, text: str) -> dict[str, Any] | None:
    """What to log of a token that is genuine and does not hold: whose it is and why; else ``None``."""
    row = _find(connection, text)
    if row is None:
        return None
    return {"organisation": row.organisation_id, "token": row.prefix, "reason": _refusal(row)}


def forged(connection: Connection | Session, text: str) -> dict[str, Any]:
    """What to log of a token that is not genuine: the prefix that it claims, and whose that one is."""
    parts = _TEXT.fullmatch(text)
    if parts is None:
        return {"token": None}
    claimed = select(ApiToken.organisation_id).where(ApiToken.prefix == parts[1])
    return {"organisation": connection.execute(claimed).scalar_one_or_none(), "token": parts[1]}


def used(home: Home, token: int) -> None:
    """Note that a token was used."""
    with home.database.write() as session:
        session.execute(update(ApiToken).where(ApiToken.id == token).values(last_used_at=unix_now()))


def tokens(session: Session, organisation: int) -> Sequence[ApiToken]:
    """An organisation's tokens, newest first."""
    query = select(ApiToken).where(ApiToken.organisation_id == organisation).order_by(ApiToken.id.desc())
    return session.execute(query).scalars().all()


def get_token(session: Session, organisation: int, prefix: str, who: Principal | None = None) -> ApiToken:
    """An organisation's token, within the reach of ``who`` if he is given; :class:`NotFoundError`."""
    query = select(ApiToken).where(ApiToken.organisation_id == organisation, ApiToken.prefix == prefix)
    if who is not None:
        query = query.where(within_reach(who))
    row = session.execute(query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"there is no token {prefix}.", "See the list of tokens.")
    return row


def within_reach(who: Principal) -> ColumnElement[bool]:
    """Which tokens of his organisation ``who`` may see and revoke: all, or those of the person he is.

    A token that belongs to no person reaches itself alone.
    """
    if Permission.MANAGE_PEOPLE in who.permissions:
        return true()
    return ApiToken.id == who.token if who.person is None else ApiToken.person_id == who.person


def revoke(session: Session, organisation: int, prefix: str) -> ApiToken:
    """Withdraw a token for good; one that is withdrawn already stays so. :class:`NotFoundError`."""
    row = get_token(session, organisation, prefix)
    if row.revoked_at is None:
        row.revoked_at = unix_now()
        security.record(session, Event.TOKEN_REVOKED, organisation=organisation, token=prefix)
    return row


def describe(row: ApiToken) -> dict[str, Any]:
    """A token as the API and `registry token list --json` show it: everything but the secret."""
    return {
        "prefix": row.prefix,
        "name": row.name,
        "role": row.role,
        "scopes": row.scopes.split(),
        "created_at": utc(row.created_at),
        "expires_at": utc(row.expires_at),
        "revoked_at": None if row.revoked_at is None else utc(row.revoked_at),
        "last_used_at": None if row.last_used_at is None else utc(row.last_used_at),
    }


_TOKEN, _PERSON = table(ApiToken), table(Person)
_HELD = (
    select(_TOKEN, _PERSON.c.role.label("person_role"), _PERSON.c.disabled_at)
    .outerjoin(_PERSON, _PERSON.c.id == _TOKEN.c.person_id)
    .where(_TOKEN.c.prefix == bindparam("prefix"))
)


def _find(connection: Connection | Session, text: str) -> Row[Any] | None:
    parts = _TEXT.fullmatch(text)
    if parts is None:
        return None
    row = connection.execute(_HELD, {"prefix": parts[1]}).one_or_none()
    given = hashlib.sha256(parts[2].encode()).digest()
    same = hmac.compare_digest(given, row.secret_sha256 if row is not None else bytes(32))
    return row if same else None


def _refusal(row: Row[Any]) -> str | None:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at <= unix_now():
        return "expired"
    return None if row.disabled_at is None else "person disabled"
