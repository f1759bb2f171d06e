"""Tables of the ledger. None of them holds personal data."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class LedgerHead(Base):
    """One row: the number of entries. Whoever appends locks it first, which leaves no gaps."""

    __tablename__ = "ledger_head"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


class LedgerEntry(Base):
    """One logged record: its kind (schema name) and the SHA-256 of its canonical signed document."""

    __tablename__ = "ledger_entry"

    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    digest: Mapped[bytes] = mapped_column(index=True)
    logged_at: Mapped[int]


class LedgerTile(Base):
    """Up to 256 hashes of one level, concatenated (see :mod:`verifier.merkle`)."""

    __tablename__ = "ledger_tile"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hashes: Mapped[bytes]


class LedgerCheckpoint(Base):
    """The signed tree head after one transaction."""

    __tablename__ = "ledger_checkpoint"

    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    note: Mapped[str]
    created_at: Mapped[int]
