"""Sessions of browsers: rows on the server, a random secret in a cookie.

    secret = start(session, person, complete=True)        # a new secret at every step of signing in
    current = find(session, secret, settings)             # None once it ended or was idle for too long
    require_csrf(current, request.headers.get(CSRF_HEADER))

Of the secret only its digest is stored. The CSRF token is derived from the secret: pages of other sites can
send the cookie along, but neither read it nor the token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.accounts import lockout
from registry.accounts.models import Person, WebSession
from registry.accounts.permissions import Principal, Role
from registry.accounts.settings import AccountSettings
from registry.db import unix_now
from registry.errors import ForbiddenError
from registry.home import Home

COOKIE = "hallmark_session"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
"""The same of a form that a browser sends by itself."""

FACTOR_SECONDS = 600
"""How long the second factor may take."""

RECENT_SECONDS = 15 * 60
"""What changes an account's own keys needs a sign-in as recent as this."""

_SEEN_EVERY = 60  # seconds; `seen_at` needs no write for every request


@dataclass(frozen=True)
class Current:
    """The session of a request and whose it is."""

    secret: str
    row: WebSession
    person: Person

    @property
    def csrf_token(self) -> str:
        """What unsafe requests must carry in the header ``X-CSRF-Token``."""
        return hmac.new(self.secret.encode(), b"hallmark/csrf/v1", hashlib.sha256).hexdigest()

    @property
    def principal(self) -> Principal | None:
        """Who makes the request; nobody while the second factor is owed."""
        return principal_of(self.person) if self.row.complete else None


def principal_of(person: Person) -> Principal:
    """A person with all that his role may do."""
    return Principal(
        organisation=person.organisation_id,
        role=Role(person.role),
        label=f"person {person.name}",
        person=person.id,
    )


def start(session: Session, person: Person, *, complete: bool, replaces: Current | None = None) -> str:
    """Begin a session, with a secret that no earlier session had; the one it replaces ends."""
    if replaces is not None:
        end(session, replaces)
    secret = secrets.token_urlsafe(32)
    now = unix_now()
    session.add(
        WebSession(
            secret_sha256=_digest(secret), person_id=person.id, complete=complete, created_at=now, seen_at=now
        )
    )
    return secret


def find(session: Session, secret: str, settings: AccountSettings) -> Current | None:
    """The session with this secret; ``None`` if it is unknown, ended or expired, or the person disabled."""
    query = (
        select(WebSession, Person)
        .join(Person, Person.id == WebSession.person_id)
        .where(WebSession.secret_sha256 == _digest(secret), Person.disabled_at.is_(None))
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    row, person = found
    now = unix_now()
    longest = settings.longest_seconds if row.complete else FACTOR_SECONDS
    if now >= row.created_at + longest or now >= row.seen_at + settings.idle_seconds:
        return None
    return Current(secret, row, person)


def known(session: Session, secret: str) -> bool:
    """Whether there was such a session of late, even if it holds no longer."""
    query = select(WebSession.id).where(WebSession.secret_sha256 == _digest(secret))
    return session.execute(query).first() is not None


def seen(home: Home, current: Current) -> None:
    """Note that a session is in use, to the nearest minute."""
    now = unix_now()
    if now - current.row.seen_at < _SEEN_EVERY:
        return
    with home.database.write() as session:
        session.execute(update(WebSession).where(WebSession.id == current.row.id).values(seen_at=now))


def end(session: Session, current: Current) -> None:
    """Sign one browser out."""
    session.execute(delete(WebSession).where(WebSession.id == current.row.id))


def end_all(session: Session, person: int, but: Current | None = None) -> None:
    """Sign a person out everywhere, except perhaps in the browser he does it from."""
    query = delete(WebSession).where(WebSession.person_id == person)
    session.execute(query if but is None else query.where(WebSession.id != but.row.id))


def forget_expired(session: Session, settings: AccountSettings) -> None:
    """Delete sessions whose cookies no browser has any more, and failed attempts that no longer count."""
    longest = unix_now() - settings.longest_seconds
    session.execute(delete(WebSession).where(WebSession.created_at <= longest))
    lockout.forget_old(session)


def require_csrf(current: Current, given: str | None) -> None:
    """:class:`ForbiddenError` unless the request proves that it comes from our own pages."""
    if given is None or not hmac.compare_digest(given.encode(), current.csrf_token.encode()):
        raise ForbiddenError(
            f"the header {CSRF_HEADER} is missing or wrong.",
            "Send the csrf_token of GET /api/v1/session with every request that changes something.",
        )


def require_recent(current: Current) -> None:
    """:class:`ForbiddenError` unless the person signed in a few minutes ago."""
    if unix_now() - current.row.created_at > RECENT_SECONDS:
        raise ForbiddenError("this needs a recent sign-in.", "Sign in again and repeat it.")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
