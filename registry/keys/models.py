"""Tables of issued keys and their revocations. Neither the bits of a key nor its blinder are stored."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class UserKey(Base):
    """One issued key: with its model's constants, all of its certificate.

    ``key_id`` has 12 bytes; ``recipient_commitment`` and ``commitment`` 32, ``signature`` 64.
    """

    __tablename__ = "user_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[bytes] = mapped_column(unique=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    recipient_id: Mapped[int] = mapped_column(ForeignKey("recipient.id"), index=True)
    redraws: Mapped[int]
    recipient_commitment: Mapped[bytes]
    commitment: Mapped[bytes]
    issued_at: Mapped[int]
    expires_at: Mapped[int | None]
    signature: Mapped[bytes]
    ledger_index: Mapped[int] = mapped_column(unique=True)


class KeyRevocation(Base):
    """A revoked key. The reason may be personal and stays here; the ledger has a salted hash of it."""

    __tablename__ = "key_revocation"

    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), primary_key=True)
    reason: Mapped[str]
    reason_salt: Mapped[bytes]
    reason_commitment: Mapped[bytes]
    revoked_at: Mapped[int]
    signature: Mapped[bytes]
    ledger_index: Mapped[int] = mapped_column(unique=True)
