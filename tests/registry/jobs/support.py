"""Workers in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.home import Home
from registry.jobs import service
from registry.jobs.models import Job
from tests.registry.jobs import kinds  # noqa: F401  (registers the kinds)
from tests.servers import running

ROOT = Path(__file__).resolve().parents[3]
ORGANISATION = 1
STALE_SECONDS = 2


@contextmanager
def worker(home: Home, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`registry worker` on ``home``, which also knows the kinds of jobs of the tests."""
    folder = home.settings.home
    command = [sys.executable, "-m", "tests.registry.jobs.kinds", "worker", "--home", str(folder)]
    command += ["--stale-seconds", str(STALE_SECONDS), *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with running(command, folder / "worker.log", cwd=ROOT, env=env) as process:
        yield process


def ask(home: Home, kind: str, **arguments: Any) -> str:
    """Enqueue a job; its name."""
    with home.database.write() as session:
        return service.enqueue(session, ORGANISATION, kind, arguments).job_id


def job(home: Home, job_id: str) -> Job:
    with home.database.read() as session:
        return service.get_job(session, job_id)


def log(home: Home, job_id: str) -> list[str]:
    with home.database.read() as session:
        return [line.text for line in service.lines(session, service.get_job(session, job_id))]
