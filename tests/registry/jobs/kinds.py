"""Kinds of jobs that tests can watch: real work in small steps, with a checkpoint that outlives its process.

python -m tests.registry.jobs.kinds worker --home DIR       # `registry worker` that knows them
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from registry.accounts.permissions import Permission
from registry.api.schemas import Body
from registry.errors import InputError, UnavailableError
from registry.interrupts import between_steps
from registry.jobs.kinds import job
from registry.jobs.running import Run
from registry.progress import progress


class Count(Body):
    """Count to ``to``, a line of ``file`` for each number, ``pause`` seconds apart; die at ``crash_at``."""

    file: str
    to: int
    pause: float = 0.0
    crash_at: int | None = None


@job("count", Count, Permission.WRITE_MODELS)
def count(run: Run, wanted: Count) -> dict[str, Any]:
    """Go on from the lines that are there."""
    path = Path(wanted.file)
    done = len(path.read_text().splitlines()) if path.exists() else 0
    run.log(f"from {done}")
    with progress("counting", wanted.to, done) as bar, between_steps() as check:
        for number in range(done, wanted.to):
            check()
            with path.open("a") as file:
                file.write(f"{number} {os.getpid()}\n")
            bar.update(number + 1)
            if number + 1 == wanted.crash_at:
                os._exit(9)
            time.sleep(wanted.pause)
    return {"counted": wanted.to}


class Fail(Body):
    """Fail with an exception of this kind."""

    how: str


@job("fail", Fail, Permission.WRITE_MODELS)
def fail(run: Run, wanted: Fail) -> dict[str, Any]:
    """Every way to fail."""
    raise {
        "input": InputError("the model cannot be read.", "Give another."),
        "unavailable": UnavailableError("the storage is away at s3://user:password@host."),
        "disk": OSError(28, "No space left on device", "/secret/path"),
        "bug": ZeroDivisionError("hm_0123456789ab_secret"),
    }[wanted.how]


if __name__ == "__main__":
    from registry.cli import main

    sys.modules.setdefault("tests.registry.jobs.kinds", sys.modules["__main__"])
    main()
