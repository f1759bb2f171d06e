"""Tables of issued keys and their revocations. Neither the bits of a key nor its blinder are stored."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class UserKey(Base):
    """One issued key: with its model's constants, all of its certificate.

    ``key_id`` has 12 bytes; ``recipient_commitment`` and ``commitment`` 32, ``signature`` 64.
    ``organisation_id`` is the model's, repeated here so that an organisation's keys are listed in order.
    """

    __tablename__ = "user_key"
    __table_args__ = (
        Index("ix_user_key_organisation_id_ledger_index", "organisation_id", "ledger_index"),
        Index("ix_user_key_model_id_ledger_index", "model_id", "ledger_index"),
        Index("ix_user_key_recipient_id_ledger_index", "recipient_id", "ledger_index"),
        Index(
            "ix_user_key_organisation_id_expires_at",
            "organisation_id",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
            sqlite_where=text("expires_at IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[bytes] = mapped_column(unique=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    recipient_id: Mapped[int] = mapped_column(ForeignKey("recipient.id"))
    redraws: Mapped[int]
    recipient_commitment: Mapped[bytes]
    commitment: Mapped[bytes]
    issued_at: Mapped[int]
    expires_at: Mapped[int | None]
    signature: Mapped[bytes]
    ledger_index: Mapped[int] = mapped_column(unique=True)


class KeyCount(Base):
    """How many keys were ever issued for a model: counted in the transaction that issues them."""

    __tablename__ = "key_count"

    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), primary_key=True)
    issued: Mapped[int]


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
