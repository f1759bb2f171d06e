"""Passkeys (WebAuthn): what browsers are asked and how their answers are checked.

    options = begin_registration(session, site, person)        # for navigator.credentials.create()
    add(session, person.id, "laptop", finish_registration(home, site, person, answer))
    options = begin_sign_in(session, site, None)               # for navigator.credentials.get()
    person = finish_sign_in(home, site, answer, None)

A passkey that verified its user (by PIN, finger or face) is two factors in one and signs in alone; after a
password its presence is enough.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import webauthn
from sqlalchemy import select
from sqlalchemy.orm import Session
from webauthn.helpers import (
    base64url_to_bytes,
    options_to_json_dict,
    parse_client_data_json,
)
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)
from webauthn.registration.verify_registration_response import VerifiedRegistration

from registry.accounts import ceremonies
from registry.accounts.models import Passkey, Person
from registry.db import unix_now
from registry.errors import AuthenticationError, NotFoundError, StateError
from registry.home import Home
from verifier.bundle import utc

REGISTRATION, SIGN_IN = "passkey-registration", "passkey-sign-in"
MOST_PASSKEYS = 20

_MALFORMED = (WebAuthnException, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError)
"""What the library raises for answers that no authenticator gives."""


@dataclass(frozen=True)
class Site:
    """The web site that passkeys belong to."""

    origin: str
    host: str


def begin_registration(session: Session, site: Site, person: Person) -> dict[str, Any]:
    """The options with which a browser makes a passkey for ``person``."""
    challenge = secrets.token_bytes(32)
    ceremonies.begin(session, REGISTRATION, challenge, person=person.id)
    options = webauthn.generate_registration_options(
        rp_id=site.host,
        rp_name="Hallmark",
        user_id=_handle(person),
        user_name=person.name,
        challenge=challenge,
        exclude_credentials=_descriptors(passkeys(session, person.id)),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED,
            user_verification=UserVerificationRequirement.PREFERRED,
        ),
    )
    return options_to_json_dict(options)


def finish_registration(
    home: Home, site: Site, person: Person, answer: dict[str, Any]
) -> VerifiedRegistration:
    """What a browser's answer registers; :class:`StateError` where it does not hold."""
    try:
        challenge = _challenge(answer)
        waiting = ceremonies.take(home, REGISTRATION, challenge)
        if waiting is None or waiting.person_id != person.id:
            raise ValueError("the challenge is not one of ours")
        return webauthn.verify_registration_response(
            credential=answer,
            expected_challenge=challenge,
            expected_rp_id=site.host,
            expected_origin=site.origin,
        )
    except _MALFORMED:
        raise StateError("the passkey's answer does not hold.", "Begin again.") from None


def add(session: Session, person: int, name: str, made: VerifiedRegistration) -> Passkey:
    """Keep a passkey that was made; :class:`StateError` if it is known or there are too many."""
    if len(passkeys(session, person)) >= MOST_PASSKEYS:
        raise StateError(f"there are {MOST_PASSKEYS} passkeys already.", "Remove one that is not used.")
    if _find(session, made.credential_id) is not None:
        raise StateError("this passkey is registered already.", "Use another one.")
    added = Passkey(
        person_id=person,
        name=name,
        credential_id=made.credential_id,
        public_key=made.credential_public_key,
        sign_count=made.sign_count,
        created_at=unix_now(),
    )
    session.add(added)
    session.flush()
    return added


def begin_sign_in(session: Session, site: Site, person: Person | None) -> dict[str, Any]:
    """The options with which a browser signs in: as ``person``, or as whoever's passkey is chosen."""
    challenge = secrets.token_bytes(32)
    ceremonies.begin(session, SIGN_IN, challenge, person=None if person is None else person.id)
    options = webauthn.generate_authentication_options(
        rp_id=site.host,
        challenge=challenge,
        allow_credentials=[] if person is None else _descriptors(passkeys(session, person.id)),
        user_verification=UserVerificationRequirement.REQUIRED
        if person is None
        else UserVerificationRequirement.PREFERRED,
    )
    return options_to_json_dict(options)


def finish_sign_in(home: Home, site: Site, answer: dict[str, Any], person: Person | None) -> Person:
    """Whose passkey answered; :class:`AuthenticationError` where the answer does not hold.

    ``person`` is who owes a second factor; without one the passkey must have verified its user. The answer
    to a challenge is refused the second time, and so is a signature counter that does not go on (a clone).
    """
    try:
        challenge = _challenge(answer)
        waiting = ceremonies.take(home, SIGN_IN, challenge)
        if waiting is None or waiting.person_id != (None if person is None else person.id):
            raise ValueError("the challenge is not one of ours")
        with home.database.write() as session:
            return _verify(session, site, challenge, answer, person)
    except _MALFORMED:
        raise AuthenticationError("the passkey's answer does not hold.", "Try again.") from None


def _verify(
    session: Session, site: Site, challenge: bytes, answer: dict[str, Any], person: Person | None
) -> Person:
    passkey = _find(session, base64url_to_bytes(answer["rawId"]))
    if passkey is None or (person is not None and passkey.person_id != person.id):
        raise ValueError("the passkey is not registered")
    owner = session.get_one(Person, passkey.person_id)
    if owner.disabled_at is not None:
        raise ValueError("the account is disabled")
    shown = webauthn.verify_authentication_response(
        credential=answer,
        expected_challenge=challenge,
        expected_rp_id=site.host,
        expected_origin=site.origin,
        credential_public_key=passkey.public_key,
        credential_current_sign_count=passkey.sign_count,
        require_user_verification=person is None,
    )
    passkey.sign_count, passkey.last_used_at = shown.new_sign_count, unix_now()
    return owner


def passkeys(session: Session, person: int) -> Sequence[Passkey]:
    """A person's passkeys, oldest first."""
    query = select(Passkey).where(Passkey.person_id == person).order_by(Passkey.id)
    return session.execute(query).scalars().all()


def remove(session: Session, person: int, number: int) -> Passkey:
    """Forget one of a person's passkeys; :class:`NotFoundError` if it is not his."""
    found = session.get(Passkey, number)
    if found is None or found.person_id != person:
        raise NotFoundError(f"there is no passkey {number}.", "See your account.")
    session.delete(found)
    return found


def describe(passkey: Passkey) -> dict[str, Any]:
    """A passkey as the API shows it."""
    return {
        "id": passkey.id,
        "name": passkey.name,
        "created_at": utc(passkey.created_at),
        "last_used_at": None if passkey.last_used_at is None else utc(passkey.last_used_at),
    }


def _find(session: Session, credential_id: bytes) -> Passkey | None:
    query = select(Passkey).where(Passkey.credential_id == credential_id).with_for_update()
    return session.execute(query).scalar_one_or_none()


def _descriptors(known: Sequence[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    return [PublicKeyCredentialDescriptor(id=passkey.credential_id) for passkey in known]


def _challenge(answer: dict[str, Any]) -> bytes:
    """The challenge that an answer claims to be for; everything else is checked by the library."""
    return parse_client_data_json(base64url_to_bytes(answer["response"]["clientDataJSON"])).challenge


def _handle(person: Person) -> bytes:
    """What the authenticator knows a person by: stable, and saying nothing about him."""
    return hashlib.sha256(f"hallmark/passkey-user/{person.id}/{person.created_at}".encode()).digest()
