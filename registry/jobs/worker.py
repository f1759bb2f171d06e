"""A worker process: huey's consumer, whose scheduler looks after the jobs of the whole registry.

    Worker(home).run()             # until SIGTERM or Ctrl-C; then jobs stop between two steps and wait again

Any number of workers serve one registry. Each watches the heartbeats of all running jobs by its own
monotonic clock, so neither a machine whose clock is wrong nor a step of the clock makes a job look dead.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import structlog
from huey.consumer import BaseProcess, Consumer
from sqlalchemy import select

from registry.api import repeats
from registry.home import Home
from registry.jobs import service
from registry.jobs.models import Job
from registry.jobs.queue import Queue
from registry.jobs.running import execute
from registry.jobs.service import State

STALE_SECONDS = 60.0
"""A worker that was not heard of for so long is taken for dead; it beats every second."""
SWEEP_SECONDS = 1.0
UPKEEP_SECONDS = 60.0

log = structlog.get_logger(__name__)


class Watch:
    """When this process last saw each running job's heart beat."""

    def __init__(self, stale_seconds: float) -> None:
        self._stale = stale_seconds
        self._seen: dict[int, tuple[tuple[str | None, int | None], float]] = {}

    def look(self, home: Home) -> None:
        """Give up on the attempts whose heart has not beaten for too long."""
        now = time.monotonic()
        with home.database.read() as session:
            running = session.execute(select(Job).where(Job.state == State.RUNNING)).scalars().all()
        before, self._seen = self._seen, {}
        for job in running:
            beat, since = before.get(job.id, (None, now))
            if beat != (job.runner, job.beat_at):
                beat, since = (job.runner, job.beat_at), now
            self._seen[job.id] = beat, since
            if now - since >= self._stale:
                log.warning("worker vanished", job=job.job_id, attempt=job.attempts)
                with home.database.write() as session:
                    service.give_up_on(session, job)


class Upkeep:
    """What is looked after while a worker runs: the trust root, if there is one, and answers that are old."""

    def __init__(self, home: Home) -> None:
        self._home, self._next = home, 0.0

    def turn(self) -> None:
        """Do what is due, at most once in UPKEEP_SECONDS."""
        from registry.trust import service as trust

        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + UPKEEP_SECONDS
        repeats.forget_old(self._home)
        with self._home.database.read() as session:
            if not trust.exists(session):
                return
        if done := trust.keep_current(self._home):
            log.info("trust root kept current", done=done)


class Worker(Consumer):  # type: ignore[misc]
    """Runs the jobs of ``home`` in ``threads`` threads; ends with the process ``parent`` if one is named."""

    def __init__(
        self, home: Home, *, threads: int = 1, stale_seconds: float = STALE_SECONDS, parent: int | None = None
    ) -> None:
        self._parent, self._stopping = parent, threading.Event()
        self._queue = Queue.open(home, lambda job_id: execute(home, job_id, self._stopping))
        self._watch = Watch(stale_seconds)
        super().__init__(
            self._queue.huey, workers=threads, periodic=False, max_delay=1.0, graceful_signal="TERM"
        )

    def start(self) -> None:
        """Begin to take jobs."""
        super().start()
        log.info("worker ready", threads=self.workers, queue=type(self.huey.storage).__name__)

    def loop(self, health_check_ts: Any = None) -> Any:
        """One turn of the main thread."""
        if self._parent is not None and os.getppid() != self._parent:
            log.warning("parent process ended")
            self.stop_flag.set()
            self._stopping.set()
        return super().loop(health_check_ts)

    def stop(self, graceful: bool = False) -> None:  # noqa: ARG002  (Ctrl-C waits for the step to end, too)
        """Interrupt the running jobs between two steps, put them back and wait for that."""
        self._stopping.set()
        super().stop(graceful=True)

    def _create_scheduler(self) -> BaseProcess:
        return _Sweeper(self._queue, self._watch, self.stop_flag)


class _Sweeper(BaseProcess):  # type: ignore[misc]
    """Delivers waiting jobs to the queue and looks for workers that have vanished."""

    process_name = "Sweeper"

    def __init__(self, queue: Queue, watch: Watch, stop_flag: threading.Event) -> None:
        super().__init__(queue.huey, stop_flag)
        self._queue, self._watch, self._upkeep = queue, watch, Upkeep(queue.home)

    def loop(self, now: Any = None) -> None:  # noqa: ARG002
        for duty in (self._queue.deliver, lambda: self._watch.look(self._queue.home), self._upkeep.turn):
            try:
                duty()
            except Exception as error:  # noqa: BLE001  (database or queue away: asked again in a second)
                log.warning("sweep failed", error=str(error), kind=type(error).__name__)
        self.stop_flag.wait(SWEEP_SECONDS)
