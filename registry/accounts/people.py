"""Organisations, their people, and invitations.

    organisation = add_organisation(session, "acme")
    person = add_person(session, organisation.id, "ada", Role.ADMIN, email="ada@acme.example")
    secret = invite(session, person)                       # he sets his password with it, once

An organisation keeps at least one administrator who is not disabled.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from registry.accounts import passwords, security, sessions
from registry.accounts.models import Invitation, Organisation, Person
from registry.accounts.permissions import Role
from registry.accounts.security import Event
from registry.accounts.service import default_organisation, normal_email
from registry.db import DAY_SECONDS, unix_now
from registry.errors import AuthenticationError, InputError, NotFoundError, StateError
from verifier.bundle import utc

INVITATION_DAYS = 7

_ORGANISATION = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}")


def add_organisation(session: Session, name: str) -> Organisation:
    """A further organisation; :class:`StateError` if the name is taken."""
    if not _ORGANISATION.fullmatch(name):
        raise InputError(
            f"{name!r} is no name of an organisation.", "Use lower-case letters, digits and . _ -"
        )
    if session.execute(select(Organisation.id).where(Organisation.name == name)).first():
        raise StateError(f"an organisation {name} exists already.", "Choose another name.")
    added = Organisation(name=name, created_at=unix_now())
    session.add(added)
    session.flush()
    security.record(session, Event.ORGANISATION_ADDED, name=name)
    return added


def organisation(session: Session, name: str | None) -> Organisation:
    """The organisation of this name, ``None`` for the operator's; :class:`NotFoundError`."""
    if name is None:
        return default_organisation(session)
    found = session.execute(select(Organisation).where(Organisation.name == name)).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"there is no organisation {name}.", "See `registry organisation list`.")
    return found


def organisations(session: Session) -> Sequence[Organisation]:
    """All organisations, the operator's first."""
    return session.execute(select(Organisation).order_by(Organisation.id)).scalars().all()


def is_operator(session: Session, organisation_id: int) -> bool:
    """Whether this organisation runs the registry: it is the first one."""
    return default_organisation(session).id == organisation_id


def add_person(
    session: Session, organisation_id: int, name: str, role: Role, email: str | None = None
) -> Person:
    """Somebody who may sign in once he has a password, a passkey or a linked account.

    :class:`StateError` if the name or address is taken, by whatever organisation.
    """
    if not _PERSON.fullmatch(name):
        raise InputError(f"{name!r} is no login name.", "Use letters, digits and . _ @ + -")
    address = None if email is None else normal_email(email)
    taken = select(Person.id).where(
        Person.name == name if address is None else or_(Person.name == name, Person.email == address)
    )
    if session.execute(taken).first():
        raise StateError("this name or address is taken.", "Choose another one.")
    added = Person(
        organisation_id=organisation_id,
        name=name,
        email=address,
        role=role.value,
        created_at=unix_now(),
    )
    session.add(added)
    session.flush()
    security.record(session, Event.PERSON_ADDED, organisation=organisation_id, person=name, role=role.value)
    return added


def get_person(session: Session, name: str, organisation_id: int | None = None) -> Person:
    """The person of this name (in one organisation, ``None``: in any); :class:`NotFoundError`."""
    query = select(Person).where(Person.name == name)
    if organisation_id is not None:
        query = query.where(Person.organisation_id == organisation_id)
    found = session.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"there is no person {name}.", "See `registry person list`.")
    return found


def people(session: Session, organisation_id: int | None = None) -> Sequence[Person]:
    """The people of an organisation (``None``: of all), in the order they were added."""
    query = select(Person).order_by(Person.id)
    if organisation_id is not None:
        query = query.where(Person.organisation_id == organisation_id)
    return session.execute(query).scalars().all()


def change_role(session: Session, person: Person, role: Role) -> None:
    """Give a person another role, at once; :class:`StateError` for the last administrator."""
    if role.value == person.role:
        return
    if role is not Role.ADMIN:
        _keep_an_admin(session, person)
    before, person.role = person.role, role.value
    security.record(
        session,
        Event.ROLE_CHANGED,
        organisation=person.organisation_id,
        person=person.name,
        before=before,
        after=role.value,
    )


def disable(session: Session, person: Person) -> None:
    """Shut a person out: he is signed out, and neither he nor his tokens get in until he is enabled."""
    if person.disabled_at is not None:
        return
    _keep_an_admin(session, person)
    person.disabled_at = unix_now()
    session.execute(delete(Invitation).where(Invitation.person_id == person.id))
    sessions.end_all(session, person.id)
    security.record(session, Event.PERSON_DISABLED, organisation=person.organisation_id, person=person.name)


def enable(session: Session, person: Person) -> None:
    """Let a disabled person in again."""
    if person.disabled_at is None:
        return
    person.disabled_at = None
    security.record(session, Event.PERSON_ENABLED, organisation=person.organisation_id, person=person.name)


def invite(session: Session, person: Person) -> str:
    """A secret with which ``person`` sets a new password; it replaces an earlier one."""
    if person.disabled_at is not None:
        raise StateError(f"{person.name} is disabled.", "Enable the account first.")
    secret = f"hmi_{secrets.token_urlsafe(32)}"
    session.merge(
        Invitation(
            person_id=person.id,
            secret_sha256=_digest(secret),
            expires_at=unix_now() + INVITATION_DAYS * DAY_SECONDS,
        )
    )
    security.record(session, Event.PERSON_INVITED, organisation=person.organisation_id, person=person.name)
    return secret


def accept_invitation(session: Session, secret: str, password: str) -> Person:
    """Set the invited person's password; :class:`AuthenticationError` for an unknown or old secret."""
    query = select(Invitation).where(Invitation.secret_sha256 == _digest(secret)).with_for_update()
    found = session.execute(query).scalar_one_or_none()
    if found is None or found.expires_at <= unix_now():
        raise AuthenticationError("this invitation does not hold.", "Ask your administrator for a new one.")
    person = session.get_one(Person, found.person_id)
    session.delete(found)
    set_password(session, person, password)
    security.record(
        session,
        Event.INVITATION_USED,
        organisation=person.organisation_id,
        actor=f"person {person.name}",
    )
    return person


def set_password(
    session: Session, person: Person, password: str, current: sessions.Current | None = None
) -> None:
    """Give a person a password and sign him out everywhere but in the ``current`` session."""
    passwords.check_password(person.name, password)
    person.password_hash = passwords.hash_password(password)
    sessions.end_all(session, person.id, but=current)
    security.record(session, Event.PASSWORD_CHANGED, organisation=person.organisation_id, person=person.name)


def describe(person: Person) -> dict[str, Any]:
    """A person as the API and `registry person list --json` show him."""
    return {
        "name": person.name,
        "email": person.email,
        "role": person.role,
        "created_at": utc(person.created_at),
        "disabled_at": None if person.disabled_at is None else utc(person.disabled_at),
    }


def describe_organisation(found: Organisation) -> dict[str, Any]:
    """An organisation as the API and `registry organisation list --json` show it."""
    return {"name": found.name, "created_at": utc(found.created_at)}


def _keep_an_admin(session: Session, person: Person) -> None:
    if person.role != Role.ADMIN.value:
        return
    # Locking the organisation keeps two administrators from removing each other at once.
    session.execute(
        select(Organisation.id).where(Organisation.id == person.organisation_id).with_for_update()
    )
    others = select(func.count()).where(
        Person.organisation_id == person.organisation_id,
        Person.role == Role.ADMIN.value,
        Person.disabled_at.is_(None),
        Person.id != person.id,
    )
    if session.execute(others).scalar_one() == 0:
        raise StateError(
            f"{person.name} is the last administrator of his organisation.", "Make somebody else one first."
        )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
