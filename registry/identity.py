"""Who this registry is: its Ed25519 signing key, sealed in the database.

    identity = Identity.create(session, master)      # once, at `registry init`
    identity = Identity.load(session, master)
    document = identity.sign({"schema": "hallmark/receipt/1", ...})

One key signs certificates, receipts, revocations, copies, bundles and the ledger's checkpoints.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from registry.db import Base, unix_now
from registry.errors import IntegrityError
from registry.sealing import MasterKey
from verifier import signing


class SigningKey(Base):
    """The registry's signing key; the private half only as ``sealed`` bytes."""

    __tablename__ = "signing_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    registry_id: Mapped[str] = mapped_column(unique=True)
    public_key: Mapped[bytes]
    sealed: Mapped[bytes]
    created_at: Mapped[int]


@dataclass(frozen=True)
class Identity:
    """The signing key in use and the name that goes with it."""

    private: Ed25519PrivateKey
    registry: str

    @property
    def public(self) -> Ed25519PublicKey:
        return self.private.public_key()

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
        return signing.sign(document, self.private)

    @classmethod
    def create(cls, session: Session, master: MasterKey) -> Identity:
        """Generate the signing key and store it sealed."""
        private = Ed25519PrivateKey.generate()
        name = signing.registry_id(private.public_key())
        session.add(
            SigningKey(
                registry_id=name,
                public_key=signing.public_bytes(private.public_key()),
                sealed=master.seal(private.private_bytes_raw(), _purpose(name)),
                created_at=unix_now(),
            )
        )
        return cls(private, name)

    @classmethod
    def load(cls, session: Session, master: MasterKey) -> Identity:
        """Open the stored key; :class:`IntegrityError` where it does not fit its public half."""
        row = session.execute(select(SigningKey).order_by(SigningKey.id.desc()).limit(1)).scalar_one()
        private = Ed25519PrivateKey.from_private_bytes(master.open(row.sealed, _purpose(row.registry_id)))
        if signing.public_bytes(private.public_key()) != row.public_key:
            raise IntegrityError("the signing key does not fit its public key.", "Restore the database.")
        return cls(private, row.registry_id)


def _purpose(registry: str) -> str:
    return f"signing-key/{registry}"


def signature_text(signature: bytes) -> str:
    """A stored 64-byte signature as documents carry it."""
    return base64.b64encode(signature).decode()


def signature_bytes(document: signing.Document) -> bytes:
    """The 64 signature bytes of a signed document, as tables store them."""
    return base64.b64decode(document["signature"])
