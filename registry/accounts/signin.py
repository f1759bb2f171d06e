"""Signing in, step by step.

    done = with_password(home, settings, "ada", password, remote)       # a session, perhaps half of one
    done = with_code(home, settings, current, "123456", remote)         # its second factor
    done = with_passkey(home, settings, site, answer, current)          # alone, or as second factor

Every step ends the session before it and begins one with a new secret. Failures say neither whether the
account exists nor what was wrong, and take equal time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import factors, lockout, passkeys, passwords, security, sessions
from registry.accounts.models import Person
from registry.accounts.passkeys import Site
from registry.accounts.security import Event
from registry.accounts.sessions import Current
from registry.accounts.settings import AccountSettings
from registry.db import unix_now
from registry.errors import AuthenticationError, ThrottledError
from registry.home import Home

_TOTP = re.compile(r"[0-9]{6}")


@dataclass(frozen=True)
class SignedIn:
    """A session that has just begun; without ``complete`` it still owes the second factor."""

    secret: str
    person: Person
    complete: bool


def with_password(
    home: Home,
    settings: AccountSettings,
    name: str,
    password: str,
    remote: str | None,
    current: Current | None = None,
) -> SignedIn:
    """Begin with name and password; :class:`AuthenticationError`, :class:`ThrottledError` when locked.

    A session that this browser has already (``current``) ends.
    """
    own, there = lockout.account(name), lockout.address(remote)
    with home.database.read() as session:
        person = session.execute(select(Person).where(Person.name == name)).scalar_one_or_none()
    _attempt(home, person, own, there)
    active = person is not None and person.disabled_at is None
    right = passwords.verify(person.password_hash if person is not None and active else None, password)
    if not right or person is None:
        _failed(home, person, "password")
        raise AuthenticationError("the name or the password is wrong.", "Check both and try again.")
    with home.database.write() as session:
        person = session.get_one(Person, person.id)
        if passwords.outdated(person.password_hash or ""):
            person.password_hash = passwords.hash_password(password)
        done = begin(session, settings, person, "password", current)
        (lockout.succeeded if done.complete else lockout.passed)(session, own, there)
    return done


def with_code(
    home: Home, settings: AccountSettings, current: Current, code: str, remote: str | None
) -> SignedIn:
    """Complete a session with a TOTP or recovery code; the same refusals."""
    person = current.person
    own, there = lockout.account(person.name), lockout.address(remote)
    _attempt(home, person, own, there)
    with home.database.write() as session:
        if _TOTP.fullmatch(code):
            right = factors.use_totp(session, home.master, person.id, code)
        elif right := factors.use_recovery_code(session, person.id, code):
            security.record(
                session,
                Event.RECOVERY_CODE_USED,
                organisation=person.organisation_id,
                actor=f"person {person.name}",
                left=factors.recovery_codes_left(session, person.id),
            )
        if right:
            lockout.succeeded(session, own, there)
            return _complete(session, settings, person, "code", current)
    _failed(home, person, "code")
    raise AuthenticationError("the code is wrong or was used before.", "Wait for the next one.")


def with_passkey(
    home: Home, settings: AccountSettings, site: Site, answer: dict[str, Any], current: Current | None
) -> SignedIn:
    """Sign in with a passkey alone, or complete ``current`` with it; :class:`AuthenticationError`."""
    owing = None if current is None else current.person
    try:
        person = passkeys.finish_sign_in(home, site, answer, owing)
    except AuthenticationError:
        _failed(home, owing, "passkey")
        raise
    with home.database.write() as session:
        return _complete(session, settings, person, "passkey", current)


def begin(
    session: Session, settings: AccountSettings, person: Person, means: str, current: Current | None
) -> SignedIn:
    """A session after a first factor: complete at once only for who has no second one."""
    if not factors.factors(session, person.id):
        return _complete(session, settings, person, means, current)
    secret = sessions.start(session, person, complete=False, replaces=current)
    return SignedIn(secret, person, complete=False)


def _complete(
    session: Session, settings: AccountSettings, person: Person, means: str, current: Current | None
) -> SignedIn:
    sessions.forget_expired(session, settings)
    secret = sessions.start(session, person, complete=True, replaces=current)
    security.record(
        session,
        Event.SIGNED_IN,
        organisation=person.organisation_id,
        actor=f"person {person.name}",
        means=means,
    )
    return SignedIn(secret, person, complete=True)


def _attempt(home: Home, person: Person | None, *sources: lockout.Source) -> None:
    try:
        lockout.attempt(home, *sources)
    except ThrottledError as locked:
        security.log(home, Event.LOCKED_OUT, **_whose(person), until=unix_now() + locked.wait)
        raise


def _failed(home: Home, person: Person | None, means: str) -> None:
    security.log(home, Event.SIGN_IN_FAILED, **_whose(person), means=means)


def _whose(person: Person | None) -> dict[str, Any]:
    """Which account was tried. A name that nobody has is not logged: it may be a mistyped password."""
    if person is None:
        return {"account": None}
    return {"organisation": person.organisation_id, "account": person.name}
