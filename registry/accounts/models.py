"""Tables of the people and organisations that a registry deals with."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class Organisation(Base):
    """A distributor, who registers models and issues copies, or an auditor, who resolves images."""

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


class ApiToken(Base):
    """A bearer token of an organisation: ``prefix`` names it, of its secret only the SHA-256 is stored.

    It may do what its ``role`` may, restricted to ``scopes`` (permissions by spaces) where there are any.
    """

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[bytes]
    role: Mapped[str]
    scopes: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    revoked_at: Mapped[int | None]
    last_used_at: Mapped[int | None]


class Recipient(Base):
    """Who receives copies: the only table with personal data beside deliveries and reasons.

    ``salt`` (32 random bytes) salts the commitments in certificates. Once the row's personal fields and
    salt are erased, nobody can tell whom a certificate names, and every proof stays valid.
    """

    __tablename__ = "recipient"
    __table_args__ = (UniqueConstraint("organisation_id", "email"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    email: Mapped[str]
    public_key: Mapped[bytes | None]
    salt: Mapped[bytes]
    created_at: Mapped[int]
