"""API tokens: bearer secrets of an organisation, stored hashed.

    secret = create(session, organisation, "ci", Role.ISSUER, expires_days=90)      # shown once
    principal = authenticate(session, secret)                                       # None if it does not hold

A token is ``hm_<prefix>_<secret>``. The secret has 256 random bits, so its plain SHA-256 is as good as a slow
hash; the prefix finds the row and names the token in logs, and the comparison takes constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts.models import ApiToken
from registry.accounts.permissions import PERMISSIONS, Permission, Principal, Role
from registry.db import unix_now
from registry.errors import ForbiddenError, InputError, NotFoundError

DAY_SECONDS = 86_400
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
    return row, f"hm_{prefix}_{secret}"


def authenticate(session: Session, text: str) -> Principal | None:
    """Who holds this token; ``None`` if it is unknown, altered, expired or revoked."""
    parts = _TEXT.fullmatch(text)
    if parts is None:
        return None
    row = session.execute(select(ApiToken.__table__).where(ApiToken.prefix == parts[1])).one_or_none()
    given = hashlib.sha256(parts[2].encode()).digest()
    if not hmac.compare_digest(given, row.secret_sha256 if row is not None else bytes(32)) or row is None:
        return None
    if row.revoked_at is not None or row.expires_at <= unix_now():
        return None
    return Principal(
        organisation=row.organisation_id,
        role=Role(row.role),
        label=f"token {row.prefix}",
        person=row.person_id,
        token=row.id,
        scopes=frozenset(map(Permission, row.scopes.split())) if row.scopes else None,
    )


def used(session: Session, token: int) -> None:
    """Note that a token was used, to the nearest minutes."""
    row = session.get_one(ApiToken, token)
    if unix_now() - (row.last_used_at or 0) >= _USED_EVERY:
        row.last_used_at = unix_now()


def tokens(session: Session, organisation: int) -> Sequence[ApiToken]:
    """An organisation's tokens, newest first."""
    query = select(ApiToken).where(ApiToken.organisation_id == organisation).order_by(ApiToken.id.desc())
    return session.execute(query).scalars().all()


def revoke(session: Session, organisation: int, prefix: str) -> ApiToken:
    """Withdraw a token for good; one that is withdrawn already stays so. :class:`NotFoundError`."""
    query = select(ApiToken).where(ApiToken.organisation_id == organisation, ApiToken.prefix == prefix)
    row = session.execute(query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"there is no token {prefix}.", "See the list of tokens.")
    row.revoked_at = row.revoked_at or unix_now()
    return row
