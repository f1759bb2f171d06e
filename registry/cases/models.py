"""Tables of cases. File names and texts are stored as they were given, and only ever shown as text."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class Case(Base):
    """An investigation of one organisation.

    ``status`` is open, disputed or closed. ``alpha`` bounds the probability that any finding of the case
    names somebody falsely; ``rounds`` counts the checks that have taken their share of it. ``disclosed``:
    readers of the case see bits and bounds. ``version`` counts edits, for people who edit at the same time.
    ``erased_at`` is when its images were removed.
    """

    __tablename__ = "investigation"
    __table_args__ = (Index(None, "organisation_id", "id"), Index(None, "organisation_id", "status", "id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[str] = mapped_column(unique=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"))
    title: Mapped[str]
    description: Mapped[str]
    status: Mapped[str]
    assigned_to: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    alpha: Mapped[float]
    rounds: Mapped[int]
    disclosed: Mapped[bool]
    version: Mapped[int]
    created_by: Mapped[str]
    created_at: Mapped[int]
    changed_at: Mapped[int]
    closed_at: Mapped[int | None]
    erased_at: Mapped[int | None]


class CaseTimestamp(Base):
    """The signed statement that these images were at hand: their SHA-256 digests, sorted, in a row.

    Its digest is entry ``ledger_index`` of the ledger.
    """

    __tablename__ = "case_timestamp"

    id: Mapped[int] = mapped_column(primary_key=True)
    investigation_id: Mapped[int] = mapped_column(ForeignKey("investigation.id"), index=True)
    digests: Mapped[bytes]
    signature: Mapped[bytes]
    logged_at: Mapped[int]
    ledger_index: Mapped[int] = mapped_column(unique=True)


class CaseImage(Base):
    """One image of a case; its file is in the storage under the case and its SHA-256.

    ``notes`` (JSON) says what a reader should know of its decoding.
    """

    __tablename__ = "case_image"
    __table_args__ = (UniqueConstraint("investigation_id", "sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(unique=True)
    investigation_id: Mapped[int] = mapped_column(ForeignKey("investigation.id"), index=True)
    timestamp_id: Mapped[int] = mapped_column(ForeignKey("case_timestamp.id"), index=True)
    name: Mapped[str]
    sha256: Mapped[bytes]
    size: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    notes: Mapped[str]
    added_by: Mapped[str]
    added_at: Mapped[int]


class CaseFinding(Base):
    """The test of one image or set. ``state`` is waiting, done or failed.

    ``alpha`` is the round's share of the case's, shared by its ``groups``; keys from ledger entry ``before``
    on are left out. ``document`` is the finding (``hallmark/finding/1``) in which images go by their ids and
    recipients are left out, ``detail`` what else is needed to explain it (JSON, see
    :mod:`registry.cases.checking`). Who asked, for budgets: ``person_id`` or ``token_id``.
    """

    __tablename__ = "case_finding"

    id: Mapped[int] = mapped_column(primary_key=True)
    finding_id: Mapped[str] = mapped_column(unique=True)
    investigation_id: Mapped[int] = mapped_column(ForeignKey("investigation.id"), index=True)
    round: Mapped[int]
    alpha: Mapped[float]
    groups: Mapped[int]
    before: Mapped[int]
    state: Mapped[str]
    document: Mapped[str | None]
    detail: Mapped[str | None]
    error: Mapped[str | None]
    requested_by: Mapped[str]
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    token_id: Mapped[int | None] = mapped_column(ForeignKey("api_token.id"))
    requested_at: Mapped[int]
    found_at: Mapped[int | None]


class CaseFindingImage(Base):
    """Which images a finding is about, in their order."""

    __tablename__ = "case_finding_image"

    finding_id: Mapped[int] = mapped_column(ForeignKey("case_finding.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image_id: Mapped[int] = mapped_column(ForeignKey("case_image.id"), index=True)


class CaseNote(Base):
    """What somebody wrote down. Notes are added, never changed."""

    __tablename__ = "case_note"

    id: Mapped[int] = mapped_column(primary_key=True)
    note_id: Mapped[str] = mapped_column(unique=True)
    investigation_id: Mapped[int] = mapped_column(ForeignKey("investigation.id"), index=True)
    text: Mapped[str]
    author: Mapped[str]
    written_at: Mapped[int]


class CaseEvent(Base):
    """One line of a case's audit trail. ``detail`` is JSON."""

    __tablename__ = "case_event"
    __table_args__ = (Index(None, "investigation_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    investigation_id: Mapped[int] = mapped_column(ForeignKey("investigation.id"))
    at: Mapped[int]
    actor: Mapped[str]
    kind: Mapped[str]
    detail: Mapped[str]
