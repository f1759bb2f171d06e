"""Tables of the people and organisations that a registry deals with."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class Organisation(Base):
    """A distributor: registers models and issues copies."""

    __tablename__ = "organisation"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[int]


class Person(Base):
    """Somebody who acts for an organisation."""

    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    created_at: Mapped[int]


class Recipient(Base):
    """Who receives copies: the only table with personal data beside deliveries and reasons.

    ``salt`` (32 random bytes) salts the commitments in certificates. Once the row's personal fields and
    salt are erased, nobody can tell whom a certificate names, and every proof stays valid.
    """

    __tablename__ = "recipient"

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    public_key: Mapped[bytes | None]
    salt: Mapped[bytes]
    created_at: Mapped[int]
