"""Sixteen processes issue at once, some are killed: no gap, and nothing that was acknowledged is lost."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import select

from registry.home import Home
from registry.keys.models import UserKey
from registry.ledger.models import LedgerEntry
from registry.verification import verify_ledger
from tests.registry.ledger.issuers import issue

PROCESSES, KILLED = 16, 5
TRANSACTIONS, ENDLESS = 6, 1_000_000
STARTING_SECONDS = 120


def test_parallel_issuers_and_killed_ones_leave_no_gap(ready: Home, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.registry.ledger.issuers"])
    files = [tmp_path / f"acknowledged-{i}" for i in range(PROCESSES)]
    database = ready.settings.database_url
    started = [
        context.Process(
            target=issue,
            args=(ready.settings.home, database, file, ENDLESS if i < KILLED else TRANSACTIONS, 1 + i % 3),
            daemon=True,
        )
        for i, file in enumerate(files)
    ]
    for process in started:
        process.start()
    rng = random.Random(0)
    for process, file in zip(started[:KILLED], files, strict=False):
        _wait_for(process, file)
        time.sleep(rng.random() / 5)
        process.kill()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [-9] * KILLED + [0] * (PROCESSES - KILLED)

    acknowledged = [line for file in files for line in file.read_text().split()]
    with ready.database.read() as session:
        stored = {key_id.hex() for key_id in session.execute(select(UserKey.key_id)).scalars()}
        numbers = list(session.execute(select(LedgerEntry.index).order_by(LedgerEntry.index)).scalars())
    assert len(acknowledged) == len(set(acknowledged))
    assert set(acknowledged) <= stored, "no acknowledged key is lost"
    assert len(stored) - len(acknowledged) <= 3 * KILLED, "at most one transaction of each killed process"
    assert numbers == list(range(len(stored) + 1)), "and the model's own entry"
    assert verify_ledger(ready).size == len(stored) + 1


def _wait_for(process: BaseProcess, file: Path) -> None:
    """Until a process has acknowledged something."""
    waited_until = time.monotonic() + STARTING_SECONDS
    while not (file.exists() and file.stat().st_size):
        assert process.is_alive()
        assert time.monotonic() < waited_until, "the process never issued anything"
        time.sleep(0.01)
