"""Tables of background jobs: the truth about them, whatever the queue that wakes the workers holds."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class Job(Base):
    """One piece of work for an organisation.

    ``arguments`` and ``result`` are JSON. ``delivered_at`` is when the queue was last told of it: empty until
    then, so that no job is lost where the queue is. ``runner`` names the attempt that runs it, and only that
    attempt may write its end; ``beat_at`` changes as long as it lives.
    """

    __tablename__ = "job"
    __table_args__ = (Index(None, "organisation_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"))
    job_id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    arguments: Mapped[str]
    requested_by: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    stage: Mapped[str]
    done: Mapped[int]
    total: Mapped[int]
    attempts: Mapped[int]
    runner: Mapped[str | None]
    created_at: Mapped[int]
    delivered_at: Mapped[int | None]
    started_at: Mapped[int | None]
    beat_at: Mapped[int | None]
    cancel_at: Mapped[int | None]
    ended_at: Mapped[int | None]
    result: Mapped[str | None]
    error: Mapped[str | None]


class JobLine(Base):
    """One line of a job's log."""

    __tablename__ = "job_line"
    __table_args__ = (Index(None, "job_row", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_row: Mapped[int] = mapped_column(ForeignKey("job.id"))
    at: Mapped[int]
    text: Mapped[str]
