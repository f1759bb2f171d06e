"""Tables of grants, budgets, queries and unmasking. Logits are never stored."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class ResolveGrant(Base):
    """A distributor's permission for another organisation to resolve on one model.

    ``sealed_secret`` makes the pseudonyms that this grant shows, ``daily_units`` is its budget.
    """

    __tablename__ = "resolve_grant"

    id: Mapped[int] = mapped_column(primary_key=True)
    grant_id: Mapped[str] = mapped_column(unique=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    sealed_secret: Mapped[bytes]
    daily_units: Mapped[int]
    granted_by: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    withdrawn_at: Mapped[int | None]


class ResolveBudget(Base):
    """Units spent by one ``scope`` on one ``day`` (days since 1970, UTC)."""

    __tablename__ = "resolve_budget"

    scope: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    spent: Mapped[int]


class ResolveSecret(Base):
    """A random secret of this registry, sealed, by what it is for."""

    __tablename__ = "resolve_secret"

    purpose: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[bytes]


class Resolution(Base):
    """One query: who asked what, and the verdict.

    ``logits_sha256`` is the digest of its readings; ``sketches`` (32 bytes a reading) tell near-duplicates
    apart from new images, and under their secret alone. ``owner_id`` is the model's organisation.
    """

    __tablename__ = "resolution"
    __table_args__ = (
        Index("ix_resolution_scope_model_id_id", "scope", "model_id", "id"),
        Index("ix_resolution_organisation_id_id", "organisation_id", "id"),
        Index("ix_resolution_owner_id_id", "owner_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    resolution_id: Mapped[str] = mapped_column(unique=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"))
    actor: Mapped[str]
    scope: Mapped[str]
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    owner_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"))
    grant_id: Mapped[int | None] = mapped_column(ForeignKey("resolve_grant.id"))
    source: Mapped[str]
    network: Mapped[bytes]
    logits_sha256: Mapped[bytes]
    sketches: Mapped[bytes]
    alpha: Mapped[float]
    images: Mapped[int]
    readings: Mapped[int]
    repeated: Mapped[bool]
    units: Mapped[int]
    attributed: Mapped[bool]
    asked_at: Mapped[int]


class ResolvedKey(Base):
    """A key that a resolution named, and the name under which it was shown."""

    __tablename__ = "resolved_key"

    resolution_id: Mapped[int] = mapped_column(ForeignKey("resolution.id"), primary_key=True)
    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), primary_key=True)
    pseudonym: Mapped[str]


class Unmasking(Base):
    """A request to be told a recipient, and the distributor's decision. ``state`` is pending, approved or
    denied."""

    __tablename__ = "unmasking"

    id: Mapped[int] = mapped_column(primary_key=True)
    unmasking_id: Mapped[str] = mapped_column(unique=True)
    resolution_id: Mapped[int] = mapped_column(ForeignKey("resolution.id"), index=True)
    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"))
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    pseudonym: Mapped[str]
    reason: Mapped[str]
    requested_by: Mapped[str]
    requested_at: Mapped[int]
    state: Mapped[str]
    note: Mapped[str]
    decided_by: Mapped[str | None]
    decided_at: Mapped[int | None]
