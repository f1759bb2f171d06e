"""Tables of copies, their deliveries and what recipients sign. Copies themselves are never stored."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class DeliveredCopy(Base):
    """The digest of a copy, recorded at its first full delivery and the same at every rebuild."""

    __tablename__ = "delivered_copy"

    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), primary_key=True)
    sha256: Mapped[bytes]
    size: Mapped[int]
    first_delivered_at: Mapped[int]


class StoredDigest(Base):
    """The SHA-256 of a stored file that copies hold unchanged, valid as long as its ``mark`` is the same."""

    __tablename__ = "stored_digest"

    name: Mapped[str] = mapped_column(primary_key=True)
    mark: Mapped[str]
    sha256: Mapped[bytes]


class CopyFile(Base):
    """The SHA-256 of a file that a copy has of its own; ``mark`` is that of the base it is made from."""

    __tablename__ = "copy_file"

    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    mark: Mapped[str]
    sha256: Mapped[bytes]


class Download(Base):
    """One delivery: who asked, from where, when, which bytes, and the receipt's signature.

    ``state`` is ``started`` until the delivery is ``delivered`` or ``aborted``; one that stays
    ``started`` was killed. An aborted one that is resumed is started again. ``form`` is how it is sent: a
    ``folder`` written here, an ``archive`` or single ``files`` over HTTP. ``sent`` holds the byte ranges
    that were sent, per file, as JSON; ``active_at`` is when the last of them was. ``actor``, ``origin``
    and ``user_agent`` can be personal and are not in the ledger. ``organisation_id`` is the key's.
    """

    __tablename__ = "download"
    __table_args__ = (Index("ix_download_organisation_id_id", "organisation_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    download_id: Mapped[str] = mapped_column(unique=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"))
    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), index=True)
    actor: Mapped[str]
    origin: Mapped[str]
    user_agent: Mapped[str] = mapped_column(default="")
    token_id: Mapped[int | None] = mapped_column(ForeignKey("api_token.id"))
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    link_id: Mapped[int | None] = mapped_column(ForeignKey("download_link.id"), index=True)
    form: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[int]
    active_at: Mapped[int]
    ended_at: Mapped[int | None]
    sent: Mapped[str] = mapped_column(default="{}")
    sha256: Mapped[bytes | None]
    size: Mapped[int | None]
    signature: Mapped[bytes | None]
    ledger_index: Mapped[int | None] = mapped_column(unique=True)


class Transfer(Base):
    """A response that is being sent: bytes ``start`` to ``stop`` of ``part`` (a path, or "" for an archive).

    The row goes when the response ends; of one that was broken off the chunk that was under way stays. One
    whose ``active_at`` has stopped was killed. ``claimed`` is then how far its client said it had come, by
    asking for the rest.
    """

    __tablename__ = "transfer"

    id: Mapped[int] = mapped_column(primary_key=True)
    download_id: Mapped[int] = mapped_column(ForeignKey("download.id"), index=True)
    part: Mapped[str]
    start: Mapped[int]
    stop: Mapped[int]
    claimed: Mapped[int]
    active_at: Mapped[int]


class DownloadLink(Base):
    """A link that lets a recipient download his copy once; of its secret only the SHA-256 is stored.

    It ends when its delivery is complete (``used_at``), when it expires, or
    when it is withdrawn.
    """

    __tablename__ = "download_link"

    id: Mapped[int] = mapped_column(primary_key=True)
    link_id: Mapped[str] = mapped_column(unique=True)
    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), index=True)
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_by: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    used_at: Mapped[int | None]
    withdrawn_at: Mapped[int | None]


class Countersignature(Base):
    """The recipient's own signature (64 bytes) under the receipt of a delivery."""

    __tablename__ = "countersignature"

    download_id: Mapped[int] = mapped_column(ForeignKey("download.id"), primary_key=True)
    signature: Mapped[bytes]
    signed_at: Mapped[int]
    ledger_index: Mapped[int] = mapped_column(unique=True)


class ModelSigningKey(Base):
    """The registry's EC P-256 key for OpenSSF model signatures; the private half only as ``sealed`` bytes."""

    __tablename__ = "model_signing_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    public_key: Mapped[bytes]
    sealed: Mapped[bytes]
    created_at: Mapped[int]
