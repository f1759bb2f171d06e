"""Tables of the trust root. What is signed lies in the storage, named by its SHA-256; the rows say which."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class TrustKey(Base):
    """A key of an online role; ``sealed`` is its private half, empty where it is elsewhere or retired."""

    __tablename__ = "trust_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]
    public_key: Mapped[bytes] = mapped_column(unique=True)
    sealed: Mapped[bytes]
    created_at: Mapped[int]
    retired_at: Mapped[int | None]


class TrustMetadata(Base):
    """One signed version of a role's metadata; the newest of each role is in force."""

    __tablename__ = "trust_metadata"

    role: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[bytes]
    created_at: Mapped[int]
    expires_at: Mapped[int]


class TrustTarget(Base):
    """A file that was ever published under a path, so that clients in the midst of an update find it."""

    __tablename__ = "trust_target"

    path: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    size: Mapped[int]
    published_at: Mapped[int]


class TrustModel(Base):
    """A model whose network is published."""

    __tablename__ = "trust_model"

    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), primary_key=True)
    added_at: Mapped[int]
