"""Recipients and the first administrator.

    recipient = add_recipient(session, "ada@example.org", load_public_key(path))
    commitments(recipient, [key_id])            # what certificates carry in place of the name

Addresses never leave this feature except for bundles that disclose them on purpose.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.accounts.models import Organisation, Person, Recipient
from registry.db import unix_now
from registry.errors import InputError, NotFoundError, StateError
from verifier import signing
from verifier.bundle import utc

DEFAULT_ORGANISATION = "default"
ADMIN = "admin"
ERASED = "erased.invalid"
"""Domain of the names that stand for erased recipients: nobody has an address there (RFC 2606)."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+|[^@\s]+@localhost")
_LONGEST_EMAIL = 254
_LARGEST_KEY_FILE = 64 * 1024


def create_first_admin(session: Session) -> Person:
    """The default organisation and its administrator, named after the user who runs `registry init`."""
    organisation = Organisation(name=DEFAULT_ORGANISATION, created_at=unix_now())
    session.add(organisation)
    session.flush()
    person = Person(
        organisation_id=organisation.id, name=user_name(), role=ADMIN, created_at=organisation.created_at
    )
    session.add(person)
    return person


def default_organisation(session: Session) -> Organisation:
    """The organisation that everything belongs to while there is only one."""
    return session.execute(select(Organisation).order_by(Organisation.id).limit(1)).scalar_one()


def owner(session: Session, organisation: int | None) -> int:
    """The organisation meant: the one given, else that of the command line."""
    return default_organisation(session).id if organisation is None else organisation


def user_name() -> str:
    """The operating system's name for who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in the password file
        return f"uid-{os.getuid()}"


def add_recipient(
    session: Session, email: str, public_key: bytes | None = None, organisation: int | None = None
) -> Recipient:
    """Register a recipient of ``organisation``; addresses are compared without regard to case.

    Here and below ``None`` stands for the organisation of the command line, the first one. ``public_key``
    is a raw Ed25519 key (32 bytes). :class:`InputError` for something that is no e-mail
    address or that stands for an erased recipient, :class:`StateError` for one that is registered already.
    """
    address = normal_email(email)
    belongs_to = owner(session, organisation)
    if _find(session, address, belongs_to) is not None:
        raise StateError(f"{address} is already a recipient.", "See `registry recipient list`.")
    recipient = new_recipient(address, public_key, belongs_to)
    session.add(recipient)
    session.flush()
    return recipient


def new_recipient(address: str, public_key: bytes | None, organisation: int) -> Recipient:
    """The row of a recipient who is not stored yet, with a fresh salt; ``address`` as :func:`normal_email`
    gives it. :class:`InputError` for one that stands for an erased recipient."""
    if is_erased(address):
        raise InputError(
            f"{address}: addresses at {ERASED} stand for recipients who were erased.", "Give another address."
        )
    return Recipient(
        organisation_id=organisation,
        email=address,
        public_key=public_key,
        salt=os.urandom(32),
        created_at=unix_now(),
    )


def get_recipient(session: Session, email: str, organisation: int | None = None) -> Recipient:
    """The organisation's recipient with this address; :class:`NotFoundError` if there is none."""
    recipient = _find(session, normal_email(email), owner(session, organisation))
    if recipient is None:
        raise NotFoundError(
            f"no recipient {email} is registered.", f"Run `registry recipient add {email}` first."
        )
    return recipient


def is_recipient(session: Session, email: str, organisation: int) -> bool:
    """Whether an organisation has a recipient with this address (as :func:`normal_email` gives it)."""
    return _find(session, email, organisation) is not None


def select_recipients(organisation: int, beginning: str = "") -> Select[Recipient]:
    """The query for an organisation's recipients whose addresses begin so."""
    query = select(Recipient).where(Recipient.organisation_id == organisation)
    return query.where(Recipient.email.startswith(beginning, autoescape=True)) if beginning else query


def recipients(session: Session, organisation: int | None = None) -> Sequence[Recipient]:
    """The recipients of an organisation (``None``: of all) in the order they were added."""
    query = select(Recipient).order_by(Recipient.id)
    if organisation is not None:
        query = query.where(Recipient.organisation_id == organisation)
    return session.execute(query).scalars().all()


def erase(recipient: Recipient) -> None:
    """Replace whatever tells who a recipient is. What certificates say of him can never be opened again.

    :class:`StateError` where that was done before.
    """
    refuse_erased(recipient)
    recipient.email = f"recipient-{recipient.id}@{ERASED}"
    recipient.public_key = None
    recipient.salt = os.urandom(32)


def is_erased(address: str) -> bool:
    """Whether this address stands for a recipient who was erased."""
    return address.endswith(f"@{ERASED}")


def refuse_erased(recipient: Recipient) -> None:
    """:class:`StateError` for a row that stands for a recipient who was erased."""
    if is_erased(recipient.email):
        raise StateError(f"{recipient.email} stands for a recipient who was erased.", "Nothing was changed.")


def describe(recipient: Recipient) -> dict[str, Any]:
    """A recipient as `registry recipient list --json` shows it."""
    return {
        "email": recipient.email,
        "public_key": _key_text(recipient),
        "created_at": utc(recipient.created_at),
    }


def commitments(recipient: Recipient, key_ids: Sequence[bytes]) -> list[bytes]:
    """Per-key commitments to a recipient (32 bytes each).

    ``SHA-256(tag || salt || canonical({email, public_key}))`` with the certificate's own
    ``salt = HMAC-SHA-256(recipient's salt, key id)``: two certificates cannot be linked to one person,
    and revealing one salt opens one certificate only. :class:`StateError` for a recipient who was erased.
    """
    refuse_erased(recipient)
    who = signing.canonical({"email": recipient.email, "public_key": _key_text(recipient)})
    salts = (hmac.digest(recipient.salt, key_id, "sha256") for key_id in key_ids)
    return [hashlib.sha256(b"hallmark/recipient/v1" + salt + who).digest() for salt in salts]


def normal_email(email: str) -> str:
    """``email`` as it is stored; :class:`InputError` unless it looks like an address."""
    address = email.strip().lower()
    if not _EMAIL.fullmatch(address) or len(address) > _LONGEST_EMAIL or not address.isprintable():
        raise InputError(f"{email!r} is no e-mail address.", "Give one like ada@example.org.")
    return address


def load_public_key(path: Path) -> bytes:
    """The raw Ed25519 public key in ``path``: PEM, OpenSSH (``ssh-ed25519 ...``) or base64 of 32 bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_KEY_FILE).strip()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    wanted = "Give an Ed25519 public key: PEM, OpenSSH (id_ed25519.pub) or base64 of its 32 bytes."
    if b"PRIVATE KEY" in content:
        raise InputError(f"{path}: this is a private key.", "Never hand it out. " + wanted)
    try:
        if content.startswith(b"-----BEGIN"):
            key = load_pem_public_key(content)
        elif content.startswith(b"ssh-"):
            key = load_ssh_public_key(content)
        else:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(content, validate=True))
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise InputError(f"{path}: not a public key.", wanted) from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: a key of another kind than Ed25519.", wanted)
    return signing.public_bytes(key)


def raw_public_key(raw: bytes) -> bytes:
    """``raw`` (32 bytes) if it is an Ed25519 public key; :class:`InputError` otherwise."""
    try:
        return signing.public_bytes(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError:
        raise InputError("this is no Ed25519 public key.", "Give base64 of its 32 bytes.") from None


def _key_text(recipient: Recipient) -> str | None:
    return None if recipient.public_key is None else base64.b64encode(recipient.public_key).decode()


def _find(session: Session, address: str, organisation: int) -> Recipient | None:
    query = select(Recipient).where(Recipient.email == address, Recipient.organisation_id == organisation)
    return session.execute(query).scalar_one_or_none()
