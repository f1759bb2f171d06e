"""Jobs as rows: asked for, claimed by one worker, kept alive by its heartbeat, ended once.

    job = enqueue(session, organisation, "train-model", TrainModel(model="flowers"), principal)
    claimed = claim(database, job.job_id)            # None where another worker has it
    beat(database, claimed, snapshot, lines)         # cancelled? still ours?
    finish(database, claimed, State.DONE, result={...})

The queue only wakes workers; whatever it loses or repeats, a row is claimed by one attempt at a time, and
only that attempt writes its progress and its end.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from registry.accounts.permissions import Principal
from registry.api.schemas import Body
from registry.db import Database, unix_now
from registry.errors import InputError, NotFoundError, StateError
from registry.jobs import kinds
from registry.jobs.models import Job, JobLine
from verifier.bundle import utc

MOST_ATTEMPTS = 3
"""A job whose workers vanish this often is at fault itself (out of memory, a crash in native code)."""

COMMAND_LINE = "command line"


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (State.DONE, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Snapshot:
    """How far a job is: the loop it is in, and what is done of its total (0: not known)."""

    stage: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Claimed:
    """A job that this attempt, and no other, runs."""

    row: int
    job_id: str
    organisation: int
    kind: str
    arguments: str
    attempt: int
    runner: str

    def wanted(self) -> Body:
        """The arguments; :class:`InputError` where this version knows no such kind or arguments."""
        return _arguments(kinds.kind(self.kind), json.loads(self.arguments))


def enqueue(
    session: Session,
    organisation: int,
    kind: str,
    arguments: Body | Mapping[str, Any],
    principal: Principal | None = None,
) -> Job:
    """Ask for a job within the caller's transaction; a worker finds it once that is committed.

    ``principal`` is who asked (``None``: the command line). :class:`InputError` for a kind that does not
    exist or arguments that do not fit it.
    """
    wanted = _arguments(kinds.kind(kind), arguments)
    row = Job(
        organisation_id=organisation,
        job_id=f"job-{secrets.token_hex(12)}",
        kind=kind,
        arguments=wanted.model_dump_json(),
        requested_by=principal.label if principal is not None else COMMAND_LINE,
        state=State.QUEUED,
        stage="",
        done=0,
        total=0,
        attempts=0,
        created_at=unix_now(),
    )
    session.add(row)
    session.flush()
    return row


def get_job(session: Session, job_id: str, organisation: int | None = None) -> Job:
    """An organisation's job (``None``: of any); :class:`NotFoundError` if there is none."""
    query = select(Job).where(Job.job_id == job_id)
    if organisation is not None:
        query = query.where(Job.organisation_id == organisation)
    row = session.execute(query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"there is no job {job_id}.", "See the list of jobs.")
    return row


def select_jobs(organisation: int | None = None, state: State | None = None) -> Select[Job]:
    """The query for an organisation's jobs (``None``: of all)."""
    query = select(Job)
    if organisation is not None:
        query = query.where(Job.organisation_id == organisation)
    return query if state is None else query.where(Job.state == state)


def cancel(session: Session, job: Job) -> None:
    """Withdraw a waiting job; a running one is asked to stop between two steps and keeps its checkpoint.

    :class:`StateError` for one that has ended.
    """
    now = unix_now()
    waiting = update(Job).where(Job.id == job.id, Job.state == State.QUEUED)
    stopped = session.execute(
        waiting.values(state=State.CANCELLED, cancel_at=now, ended_at=now).returning(Job.id)
    ).scalar_one_or_none()
    if stopped is None:
        running = update(Job).where(Job.id == job.id, Job.state == State.RUNNING)
        asked = session.execute(running.values(cancel_at=now).returning(Job.id)).scalar_one_or_none()
        if asked is None:
            session.refresh(job)
            raise StateError(f"{job.job_id} has ended: {job.state}.", "There is nothing to cancel.")
    _say(session, job.id, "cancelled" if stopped is not None else "asked to stop")
    session.refresh(job)


def retry(session: Session, job: Job) -> None:
    """Queue a job that failed or was cancelled again; it goes on from what it kept. :class:`StateError`."""
    ended = update(Job).where(Job.id == job.id, Job.state.in_((State.FAILED, State.CANCELLED)))
    again = session.execute(
        ended.values(
            state=State.QUEUED,
            delivered_at=None,
            cancel_at=None,
            ended_at=None,
            error=None,
            attempts=0,
        ).returning(Job.id)
    ).scalar_one_or_none()
    if again is None:
        raise StateError(f"{job.job_id} is {job.state}.", "Only failed and cancelled jobs are tried again.")
    _say(session, job.id, "queued again")
    session.refresh(job)


def claim(database: Database, job_id: str) -> Claimed | None:
    """Make a waiting job this attempt's own; ``None`` where it waits no longer."""
    runner, now = secrets.token_hex(8), unix_now()
    waiting = update(Job).where(Job.job_id == job_id, Job.state == State.QUEUED)
    with database.write() as session:
        row = session.execute(
            waiting.values(
                state=State.RUNNING,
                runner=runner,
                attempts=Job.attempts + 1,
                started_at=func.coalesce(Job.started_at, now),
                beat_at=now,
                stage="",
                done=0,
                total=0,
            ).returning(Job)
        ).scalar_one_or_none()
        if row is None:
            return None
        _say(session, row.id, f"attempt {row.attempts} begins")
        return Claimed(row.id, job_id, row.organisation_id, row.kind, row.arguments, row.attempts, runner)


@dataclass(frozen=True)
class Pulse:
    """What a heartbeat learns: whether the job is still this attempt's, and whether it shall stop."""

    ours: bool
    cancelled: bool


def beat(database: Database, claimed: Claimed, snapshot: Snapshot, lines: Sequence[str]) -> Pulse:
    """Say that the attempt lives and how far it is; writes ``lines`` to the log."""
    with database.write() as session:
        row = session.execute(
            _own(claimed)
            .values(beat_at=unix_now(), stage=snapshot.stage, done=snapshot.done, total=snapshot.total)
            .returning(Job.cancel_at)
        ).one_or_none()
        if row is None:
            return Pulse(ours=False, cancelled=False)
        for line in lines:
            _say(session, claimed.row, line)
    return Pulse(ours=True, cancelled=row.cancel_at is not None)


def finish(
    database: Database,
    claimed: Claimed,
    state: State,
    *,
    result: Mapping[str, Any] | None = None,
    error: str | None = None,
    line: str = "",
) -> bool:
    """End the attempt; false, and nothing is written, where the job is no longer this attempt's."""
    with database.write() as session:
        ended = session.execute(
            _own(claimed)
            .values(
                state=state,
                ended_at=unix_now(),
                result=None if result is None else json.dumps(result),
                error=error,
                runner=None,
            )
            .returning(Job.id)
        ).scalar_one_or_none()
        if ended is not None:
            _say(session, claimed.row, line or error or state.value)
    return ended is not None


def release(database: Database, claimed: Claimed, line: str, *, counted: bool) -> bool:
    """Put the job back into the queue; an attempt that is not ``counted`` was not its own fault."""
    with database.write() as session:
        found = session.execute(_again(_own(claimed), counted=counted).returning(Job.id)).scalar_one_or_none()
        if found is not None:
            _say(session, claimed.row, line)
    return found is not None


def give_up_on(session: Session, job: Job) -> None:
    """Deal with a running job whose worker has vanished: queue it again, or fail it after too many."""
    vanished = update(Job).where(Job.id == job.id, Job.state == State.RUNNING, Job.runner == job.runner)
    if job.cancel_at is not None:
        changed = vanished.values(state=State.CANCELLED, ended_at=unix_now(), runner=None)
        line = "its worker vanished; cancelled"
    elif job.attempts < MOST_ATTEMPTS:
        changed, line = _again(vanished, counted=True), "its worker vanished; queued again"
    else:
        line = f"its workers vanished {job.attempts} times."
        changed = vanished.values(state=State.FAILED, ended_at=unix_now(), runner=None, error=line)
    if session.execute(changed.returning(Job.id)).scalar_one_or_none() is not None:
        _say(session, job.id, line)


def lines(session: Session, job: Job, after: int = 0, most: int = 500) -> Sequence[JobLine]:
    """The log of a job behind line number ``after``, oldest first."""
    query = select(JobLine).where(JobLine.job_row == job.id, JobLine.id > after)
    return session.execute(query.order_by(JobLine.id).limit(most)).scalars().all()


def counts(session: Session) -> dict[str, int]:
    """Number of jobs in each state, over all organisations."""
    rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
    found = {state: number for state, number in rows}  # noqa: C416  (rows are no pairs to a type checker)
    return {state.value: found.get(state.value, 0) for state in State}


def describe(job: Job) -> dict[str, Any]:
    """A job as the API and `registry job show --json` give it."""
    return {
        "job_id": job.job_id,
        "kind": job.kind,
        "state": job.state,
        "arguments": json.loads(job.arguments),
        "requested_by": job.requested_by,
        "progress": {"stage": job.stage, "done": job.done, "total": job.total},
        "attempts": job.attempts,
        "created_at": utc(job.created_at),
        "started_at": None if job.started_at is None else utc(job.started_at),
        "ended_at": None if job.ended_at is None else utc(job.ended_at),
        "cancelling": job.state == State.RUNNING and job.cancel_at is not None,
        "result": None if job.result is None else json.loads(job.result),
        "error": job.error,
    }


def _arguments(kind: kinds.Kind, given: Body | Mapping[str, Any]) -> Body:
    if isinstance(given, kind.arguments):
        return given
    try:
        return kind.arguments.model_validate(given)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, entry["loc"])) for entry in error.errors()}))
        raise InputError(f"these arguments do not fit a job {kind.name}: {fields}.") from None


def _own(claimed: Claimed) -> Any:
    return update(Job).where(Job.id == claimed.row, Job.state == State.RUNNING, Job.runner == claimed.runner)


def _again(chosen: Any, *, counted: bool) -> Any:
    attempts = Job.attempts if counted else Job.attempts - 1
    return chosen.values(state=State.QUEUED, runner=None, delivered_at=None, attempts=attempts)


def _say(session: Session, row: int, text: str) -> None:
    session.add(JobLine(job_row=row, at=unix_now(), text=text))
