"""Tables of the people and organisations that a registry deals with."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class Organisation(Base):
    """A distributor, who registers models and issues copies, or an auditor, who resolves images."""

    __tablename__ = "organisation"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[int]


class Person(Base):
    """Somebody who acts for an organisation and signs in as ``name``.

    ``password_hash`` is an argon2id hash with its parameters; ``None`` until a password is set.
    """

    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    name: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str | None] = mapped_column(unique=True)
    role: Mapped[str]
    password_hash: Mapped[str | None]
    created_at: Mapped[int]
    disabled_at: Mapped[int | None]


class Invitation(Base):
    """A one-time secret with which a person sets his password; a newer one replaces it."""

    __tablename__ = "invitation"

    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    expires_at: Mapped[int]


class Authenticator(Base):
    """A person's TOTP secret, sealed; it counts once confirmed. ``last_step`` (30 s) was used already."""

    __tablename__ = "authenticator"

    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    sealed: Mapped[bytes]
    confirmed_at: Mapped[int | None]
    last_step: Mapped[int]


class RecoveryCode(Base):
    """A code that replaces the second factor once; its row goes when it is used."""

    __tablename__ = "recovery_code"

    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    code_sha256: Mapped[bytes] = mapped_column(primary_key=True)


class Passkey(Base):
    """A WebAuthn credential. ``public_key`` is a COSE key; ``sign_count`` never goes back."""

    __tablename__ = "passkey"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    name: Mapped[str]
    credential_id: Mapped[bytes] = mapped_column(unique=True)
    public_key: Mapped[bytes]
    sign_count: Mapped[int]
    created_at: Mapped[int]
    last_used_at: Mapped[int | None]


class LinkedIdentity(Base):
    """An account at an OpenID provider, known by the provider's subject and never by an address."""

    __tablename__ = "linked_identity"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    issuer: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[int]


class Ceremony(Base):
    """A challenge that waits for its one answer: a passkey's, or the return from an OpenID provider.

    ``secret_sha256`` is the digest of the challenge or state; ``sealed`` is what the answer is checked with.
    """

    __tablename__ = "ceremony"

    secret_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    kind: Mapped[str]
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    sealed: Mapped[bytes | None]
    expires_at: Mapped[int]


class WebSession(Base):
    """A browser's session, named by the digest of its cookie.

    Until ``complete`` its person still owes the second factor and may do nothing else.
    """

    __tablename__ = "web_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    complete: Mapped[bool]
    created_at: Mapped[int]
    seen_at: Mapped[int]


class SignInAttempts(Base):
    """Attempts to sign in from one source (an account's name or an address) that did not succeed."""

    __tablename__ = "sign_in_attempts"

    source_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[int] = mapped_column(index=True)
    locked_until: Mapped[int]


class SecurityEvent(Base):
    """Something that an administrator should be able to look up. ``detail`` is a JSON object, no secrets.

    Events of strangers belong to no organisation and are the operator's to read.
    """

    __tablename__ = "security_event"
    __table_args__ = (
        Index("ix_security_event_organisation_id_id", "organisation_id", "id"),
        Index("ix_security_event_kind_id", "kind", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int]
    kind: Mapped[str]
    organisation_id: Mapped[int | None] = mapped_column(ForeignKey("organisation.id"))
    actor: Mapped[str]
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    detail: Mapped[str]


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
    salt are erased (:mod:`registry.copies.erasure`), nobody can tell whom a certificate names, and every
    proof stays valid.
    """

    __tablename__ = "recipient"
    __table_args__ = (
        UniqueConstraint("organisation_id", "email"),
        Index(
            "ix_recipient_organisation_id_email_beginning",
            "organisation_id",
            "email",
            postgresql_ops={"email": "text_pattern_ops"},  # for LIKE, in whatever collation the database has
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    email: Mapped[str]
    public_key: Mapped[bytes | None]
    salt: Mapped[bytes]
    created_at: Mapped[int]
