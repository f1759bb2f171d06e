"""One attempt at a job: the work, its heartbeat, and what its end means.

    execute(home, job_id, stopping)          # what a worker does with every message of the queue

The work reports progress through :mod:`registry.progress` and is interrupted through
:mod:`registry.interrupts`, as on the command line; neither costs it a write to the database, which is the
heartbeat's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from registry.db import explain
from registry.errors import RegistryError, UnavailableError
from registry.home import Home
from registry.interrupts import interruptible
from registry.jobs import kinds, service
from registry.jobs.service import MOST_ATTEMPTS, Claimed, Snapshot, State
from registry.progress import Progress, reported_to
from verifier.errors import VerifierError

BEAT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Run:
    """What the work of a job is given."""

    def __init__(self, home: Home, claimed: Claimed, stopping: threading.Event) -> None:
        self.home, self.organisation, self.job_id = home, claimed.organisation, claimed.job_id
        self._claimed, self._stopping = claimed, stopping
        self._snapshot, self._lines = Snapshot(), list[str]()
        self._lock = threading.Lock()
        self.cancelled = self.lost = False

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        with self._lock:
            self._lines.append(line)

    def progress(self, title: str) -> Callable[[int], Callable[[int], None]]:
        """For services that are given a progress bar: told the total, then the counts done.

        The work is interrupted where it reports, so it must be at a point where it may end.
        """

        def begin(total: int) -> Callable[[int], None]:
            bar = _Reporter(self, title, total, 0)

            def seen(done: int) -> None:
                bar.update(done)
                self.check()

            return seen

        return begin

    def check(self) -> None:
        """``KeyboardInterrupt`` where the job shall stop."""
        if self.asked():
            raise KeyboardInterrupt

    def asked(self) -> bool:
        """Whether the job shall stop at its next step."""
        return self.cancelled or self.lost or self._stopping.is_set()

    def keep(self, path: Path, name: str) -> dict[str, Any]:
        """Store a file of the result, which :func:`file_name` finds again; its entry for the result."""
        self.home.storage.put_file(file_name(self.job_id, name), path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"name": name, "sha256": digest, "size": file.tell()}

    def reported(self, snapshot: Snapshot) -> None:
        """Note how far the work is, for the next heartbeat."""
        if snapshot.stage != self._snapshot.stage:
            self.log(snapshot.stage)
        self._snapshot = snapshot

    def beat(self) -> None:
        """One heartbeat: write progress and log lines, learn whether to go on."""
        with self._lock:
            pending = list(self._lines)
        pulse = service.beat(self.home.database, self._claimed, self._snapshot, pending)
        with self._lock:
            del self._lines[: len(pending)]
        self.cancelled, self.lost = pulse.cancelled, not pulse.ours


class _Reporter(Progress):
    def __init__(self, run: Run, title: str, total: int, done: int) -> None:
        self._run, self._title, self._total = run, title, total
        self.update(done)

    def update(self, done: int, **figures: float) -> None:  # noqa: ARG002  (figures are for terminals)
        self._run.reported(Snapshot(self._title, done, self._total))


def file_name(job_id: str, name: str) -> str:
    """Storage name of a file that a job left."""
    return f"jobs/{job_id}/{name}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the state that the job goes to, ``QUEUED`` for another attempt."""

    state: State
    result: dict[str, Any] | None = None
    error: str | None = None
    line: str = ""
    counted: bool = True


def execute(home: Home, job_id: str, stopping: threading.Event) -> None:
    """Run a waiting job to its end, or until ``stopping`` is set or it is cancelled."""
    claimed = service.claim(home.database, job_id)
    if claimed is None:
        return
    with structlog.contextvars.bound_contextvars(
        job=job_id, kind=claimed.kind, organisation=claimed.organisation, attempt=claimed.attempt
    ):
        log.info("job started")
        run = Run(home, claimed, stopping)
        with _beating(run):
            outcome = _attempt(run, claimed)
        run.beat()
        log.info("job ended", state=outcome.state.value, reason=outcome.line)
        if outcome.state is State.QUEUED:
            service.release(home.database, claimed, outcome.line, counted=outcome.counted)
        else:
            service.finish(home.database, claimed, outcome.state, result=outcome.result, error=outcome.error)


def _attempt(run: Run, claimed: Claimed) -> Outcome:
    """Do the work; what its end means for the job."""
    try:
        with interruptible(run.asked), reported_to(lambda *begun: _Reporter(run, *begun)):
            return Outcome(State.DONE, kinds.kind(claimed.kind).work(run, claimed.wanted()))
    except KeyboardInterrupt:
        if run.cancelled:
            return Outcome(State.CANCELLED)
        return Outcome(State.QUEUED, line="interrupted by a shutdown; queued again", counted=False)
    except (SQLAlchemyError, UnavailableError, OSError) as error:
        reason = explain(error) if isinstance(error, SQLAlchemyError) else error
        log.warning("job failed for now", error=str(reason), exc_info=True)
        if claimed.attempt < MOST_ATTEMPTS:
            return Outcome(State.QUEUED, line="the database or the storage failed; queued again")
        return Outcome(State.FAILED, error="the database or the storage failed again and again.")
    except (RegistryError, VerifierError) as error:
        return Outcome(State.FAILED, error=error.diagnostics())
    except Exception:
        log.exception("job failed unexpectedly")
        return Outcome(State.FAILED, error="something went wrong here. Tell the operator the job's name.")


@contextmanager
def _beating(run: Run) -> Iterator[None]:
    """Heartbeats beside the block; a database that is away for a moment is asked again."""
    over = threading.Event()

    def beats() -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                run.beat()
            except SQLAlchemyError as error:
                log.warning("heartbeat failed", error=str(explain(error)))

    thread = threading.Thread(target=beats, name=f"heartbeat {run.job_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
