"""Second factors by code: TOTP (RFC 6238) and recovery codes.

    secret, uri = begin_totp(session, master, person)     # shown as a QR code
    codes = confirm_totp(session, master, person, "123456")
    use_code(session, master, person, "234567")           # False for a wrong code, or one used before

The TOTP secret is stored sealed; recovery codes have 80 random bits each, so their plain digest will do.
"""

from __future__ import annotations

import base64
import hashlib
import secrets

import pyotp
from pyotp.exceptions import OTPVerificationError
from sqlalchemy import CursorResult, delete, func, select
from sqlalchemy.orm import Session

from registry.accounts.models import Authenticator, Passkey, Person, RecoveryCode
from registry.db import unix_now
from registry.errors import StateError
from registry.sealing import MasterKey

ISSUER = "Hallmark"
RECOVERY_CODES = 10
_WINDOW = 1  # steps of 30 s that a clock may be off


def factors(session: Session, person: int) -> list[str]:
    """The second factors that a person has: ``totp``, ``passkey``, and ``recovery-code`` in their place."""
    found = []
    row = session.get(Authenticator, person)
    if row is not None and row.confirmed_at is not None:
        found.append("totp")
    if _has_passkey(session, person):
        found.append("passkey")
    if found and recovery_codes_left(session, person):
        found.append("recovery-code")
    return found


def begin_totp(session: Session, master: MasterKey, person: Person) -> tuple[str, str]:
    """A new TOTP secret (base32) and its ``otpauth:`` URI; it counts once confirmed.

    :class:`StateError` while another one is in use.
    """
    row = session.get(Authenticator, person.id)
    if row is not None and row.confirmed_at is not None:
        raise StateError("an authenticator is in use already.", "Remove it first.")
    secret = pyotp.random_base32()
    sealed = master.seal(secret.encode(), _purpose(person.id))
    if row is None:
        session.add(Authenticator(person_id=person.id, sealed=sealed, last_step=0))
    else:
        row.sealed = sealed
    return secret, pyotp.TOTP(secret).provisioning_uri(name=person.name, issuer_name=ISSUER)


def confirm_totp(session: Session, master: MasterKey, person: Person, code: str) -> list[str]:
    """Take the new authenticator into use and make recovery codes; :class:`StateError` for a wrong code."""
    row = session.get(Authenticator, person.id, with_for_update=True)
    if row is None or row.confirmed_at is not None:
        raise StateError("no authenticator waits to be confirmed.", "Begin with a new one.")
    if not _fits(row, master, code):
        raise StateError("the code is wrong.", "Check the clock of your device and try the next code.")
    row.confirmed_at = unix_now()
    return make_recovery_codes(session, person.id)


def remove_totp(session: Session, person: int) -> None:
    """Forget a person's authenticator, and his recovery codes unless they stand in for a passkey."""
    session.execute(delete(Authenticator).where(Authenticator.person_id == person))
    if not _has_passkey(session, person):
        session.execute(delete(RecoveryCode).where(RecoveryCode.person_id == person))


def remove_all(session: Session, person: int) -> None:
    """Forget every second factor of a person who lost them."""
    session.execute(delete(Passkey).where(Passkey.person_id == person))
    remove_totp(session, person)


def use_totp(session: Session, master: MasterKey, person: int, code: str) -> bool:
    """Whether ``code`` is the authenticator's, now and for the first time."""
    row = session.get(Authenticator, person, with_for_update=True)
    return row is not None and row.confirmed_at is not None and _fits(row, master, code)


def make_recovery_codes(session: Session, person: int) -> list[str]:
    """New recovery codes, which replace the old ones and are shown this once."""
    session.execute(delete(RecoveryCode).where(RecoveryCode.person_id == person))
    codes = [_new_code() for _ in range(RECOVERY_CODES)]
    session.add_all(RecoveryCode(person_id=person, code_sha256=_digest(code)) for code in codes)
    return codes


def use_recovery_code(session: Session, person: int, code: str) -> bool:
    """Whether ``code`` is one of the person's recovery codes, which is used up with that."""
    used = session.execute(
        delete(RecoveryCode).where(
            RecoveryCode.person_id == person, RecoveryCode.code_sha256 == _digest(code)
        )
    )
    assert isinstance(used, CursorResult)
    return used.rowcount == 1


def recovery_codes_left(session: Session, person: int) -> int:
    """How many recovery codes a person has not used."""
    query = select(func.count()).select_from(RecoveryCode).where(RecoveryCode.person_id == person)
    return session.execute(query).scalar_one()


def _has_passkey(session: Session, person: int) -> bool:
    query = select(Passkey.id).where(Passkey.person_id == person).limit(1)
    return session.execute(query).first() is not None


def _fits(row: Authenticator, master: MasterKey, code: str) -> bool:
    totp = pyotp.TOTP(master.open(row.sealed, _purpose(row.person_id)).decode())
    try:
        step = totp.verify_and_get_timecode(code, for_time=unix_now(), valid_window=_WINDOW)
    except OTPVerificationError:
        return False
    if step <= row.last_step:
        return False  # seen over somebody's shoulder
    row.last_step = step
    return True


def _new_code() -> str:
    text = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, 16, 4))


def _digest(code: str) -> bytes:
    return hashlib.sha256(b"hallmark/recovery/v1" + code.encode()).digest()


def _purpose(person: int) -> str:
    return f"totp/{person}"
