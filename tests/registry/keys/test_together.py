from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.home import Home
from registry.keys import service
from registry.keys.models import UserKey
from registry.keys.together import Together
from registry.ledger.models import LedgerCheckpoint
from registry.verification import verify_ledger
from tests.registry.support import MODEL, RECIPIENT


def _stored(home: Home) -> set[bytes]:
    with home.database.read() as session:
        return set(session.execute(select(UserKey.key_id)).scalars())


def test_batches_that_wait_share_a_transaction(ready: Home) -> None:
    issuer, line = service.Issuer.open(ready, MODEL, RECIPIENT), Together(ready)
    first_is_inside, rest_may_come = threading.Event(), threading.Event()

    def hold(_session: Session) -> None:
        first_is_inside.set()
        assert rest_may_come.wait(20)

    first = replace(issuer.draw(1), also=hold)
    others = [issuer.draw(2) for _ in range(9)]
    with ready.database.read() as session:
        before = len(session.execute(select(LedgerCheckpoint.size)).all())
    with ThreadPoolExecutor(10) as pool:
        running = [pool.submit(line.commit, first)]
        assert first_is_inside.wait(20)
        running += [pool.submit(line.commit, batch) for batch in others]
        while len(line._line) < len(others):
            pass
        rest_may_come.set()
        for future in running:
            future.result()
    with ready.database.read() as session:
        after = len(session.execute(select(LedgerCheckpoint.size)).all())
    assert after - before == 2  # the first alone, all others together
    assert len(_stored(ready)) == 19
    verify_ledger(ready)


def test_one_that_fails_fails_alone(ready: Home) -> None:
    issuer, line = service.Issuer.open(ready, MODEL, RECIPIENT), Together(ready)

    def refuse(_session: Session) -> None:
        raise ZeroDivisionError

    batches = [issuer.draw(1) for _ in range(12)]
    broken = {3, 7}
    batches = [replace(b, also=refuse) if i in broken else b for i, b in enumerate(batches)]
    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(line.commit, batch) for batch in batches]
        failed = {i for i, future in enumerate(running) if future.exception() is not None}
    assert failed == broken
    wanted = {batch.rows[0]["key_id"] for i, batch in enumerate(batches) if i not in broken}
    assert _stored(ready) == wanted
    verify_ledger(ready)


def test_a_committer_that_is_stopped_leaves_nobody_waiting(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, line = service.Issuer.open(sqlite_ready, MODEL, RECIPIENT), Together(sqlite_ready)

    def stop(*_: object) -> None:
        raise SystemExit

    batch = issuer.draw(1)
    with monkeypatch.context() as patch:
        patch.setattr("registry.keys.together.commit", stop)
        with pytest.raises(SystemExit):
            line.commit(batch)
    line.commit(batch)
    assert _stored(sqlite_ready) == {batch.rows[0]["key_id"]}
