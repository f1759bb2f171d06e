"""Who this registry is: its Ed25519 signing key and the name that follows from it.

    keys = registry_keys(settings, master)
    identity = Identity.create(session, keys)        # once, at `registry init`
    identity = Identity.load(session, keys)
    document = identity.sign({"schema": "hallmark/receipt/1", ...})

One key signs certificates, receipts, revocations, copies, bundles and the ledger's checkpoints. Where its
private half is kept is for :mod:`registry.signing_keys`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from registry.config import Settings
from registry.db import Base, unix_now
from registry.errors import StateError
from registry.sealing import MasterKey
from registry.signing_keys import FolderKeys, KeySettings, KeyStore, SealedKeys, key_store
from verifier import signing

PURPOSE = "signing-key"


class SigningKey(Base):
    """The registry's signing key; the private half only as ``sealed`` bytes, none where it is elsewhere."""

    __tablename__ = "signing_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    registry_id: Mapped[str] = mapped_column(unique=True)
    public_key: Mapped[bytes]
    sealed: Mapped[bytes]
    created_at: Mapped[int]


@dataclass(frozen=True)
class Identity:
    """The signing key in use and the name that goes with it."""

    signer: signing.Signer
    registry: str

    @property
    def public(self) -> Ed25519PublicKey:
        return self.signer.public_key()

    @property
    def public_text(self) -> str:
        """The raw public key, base64, as documents carry it."""
        return base64.b64encode(signing.public_bytes(self.public)).decode()

    @property
    def origin(self) -> str:
        """The name of this registry's ledger in its checkpoints."""
        return f"hallmark/{self.registry}"

    def sign(self, document: signing.Document) -> signing.Document:
        """``document`` signed; see :mod:`verifier.signing`."""
        return signing.sign(document, self.signer)

    @classmethod
    def create(cls, session: Session, keys: KeyStore) -> Identity:
        """Take a new signing key from the back end and record it."""
        signer, sealed = keys.create()
        name = signing.registry_id(signer.public_key())
        public = signing.public_bytes(signer.public_key())
        session.add(SigningKey(registry_id=name, public_key=public, sealed=sealed, created_at=unix_now()))
        return cls(signer, name)

    @classmethod
    def load(cls, session: Session, keys: KeyStore) -> Identity:
        """Open the recorded key; :class:`IntegrityError` where the back end has another."""
        row = _newest(session)
        return cls(keys.load(row.public_key, row.sealed), row.registry_id)


def registry_keys(settings: Settings, master: MasterKey) -> KeyStore:
    """Where this registry's signing key is kept."""
    return key_store(KeySettings.of(settings, "registry"), PURPOSE, master)


def sealed_key(session: Session, master: MasterKey) -> Ed25519PrivateKey:
    """The signing key out of the database; :class:`StateError` where it is elsewhere."""
    row = _newest(session)
    return SealedKeys(master, PURPOSE).load(row.public_key, row.sealed)


def move_key(session: Session, keys: KeyStore, master: MasterKey) -> None:
    """Take the signing key out of the database: to the folder that the configuration now names, or, where a
    program signs from now on, once that has proved to have it."""
    if isinstance(keys, SealedKeys):
        raise StateError(
            "the configuration keeps the signing key in the database.", "Change [signing.registry] first."
        )
    private, row = sealed_key(session, master), _newest(session)
    if isinstance(keys, FolderKeys):
        keys.add(private)
    keys.load(row.public_key, b"").sign(b"hallmark/move/v1")  # fails unless the key is there
    row.sealed = b""


def _newest(session: Session) -> SigningKey:
    return session.execute(select(SigningKey).order_by(SigningKey.id.desc()).limit(1)).scalar_one()


def signature_text(signature: bytes) -> str:
    """A stored 64-byte signature as documents carry it."""
    return base64.b64encode(signature).decode()


def signature_bytes(document: signing.Document) -> bytes:
    """The 64 signature bytes of a signed document, as tables store them."""
    return base64.b64decode(document["signature"])
