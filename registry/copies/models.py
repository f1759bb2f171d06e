"""Tables of copies and their deliveries. Copies themselves are never stored."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class DeliveredCopy(Base):
    """The digest of a copy, recorded at its first full delivery and the same at every rebuild."""

    __tablename__ = "delivered_copy"

    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), primary_key=True)
    sha256: Mapped[bytes]
    size: Mapped[int]
    first_delivered_at: Mapped[int]


class Download(Base):
    """One delivery: who asked, from where, when, which bytes, and the receipt's signature.

    ``state`` is ``started`` until the delivery is ``delivered`` or ``aborted``; one that stays
    ``started`` was killed. ``actor`` and ``origin`` can be personal and are not in the ledger.
    """

    __tablename__ = "download"

    id: Mapped[int] = mapped_column(primary_key=True)
    download_id: Mapped[str] = mapped_column(unique=True)
    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), index=True)
    actor: Mapped[str]
    origin: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[int]
    ended_at: Mapped[int | None]
    sha256: Mapped[bytes | None]
    size: Mapped[int | None]
    signature: Mapped[bytes | None]
    ledger_index: Mapped[int | None] = mapped_column(unique=True)
