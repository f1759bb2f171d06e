from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.errors import StateError
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

    def hold(_session: Session, _claims: Sequence[None]) -> list[None]:
        first_is_inside.set()
        assert rest_may_come.wait(20)
        return [None]

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

    def refuse(_session: Session, _claims: Sequence[None]) -> list[None]:
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


def test_one_that_is_refused_costs_the_others_nothing(ready: Home) -> None:
    issuer, line = service.Issuer.open(ready, MODEL, RECIPIENT), Together(ready)
    drawn = threading.Barrier(8)

    def refuse(_session: Session, claims: Sequence[int]) -> list[StateError | None]:
        assert sorted(claims) == [3, 5]
        return [StateError("it was issued before.") if claim == 3 else None for claim in claims]

    def draw(number: int) -> service.Batch:
        batch = issuer.draw(1)
        drawn.wait(20)  # all are known to be coming before the first joins the line
        return replace(batch, also=refuse, claim=number) if number in (3, 5) else batch

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(line.issue, partial(draw, number)) for number in range(8)]
        errors = [future.exception() for future in running]
    assert [i for i, error in enumerate(errors) if error is not None] == [3]
    assert isinstance(errors[3], StateError)
    assert len(_stored(ready)) == 7
    verify_ledger(ready)


def test_nobody_waits_for_a_batch_that_is_never_drawn(sqlite_ready: Home) -> None:
    issuer, line = service.Issuer.open(sqlite_ready, MODEL, RECIPIENT), Together(sqlite_ready)

    def fail() -> service.Batch:
        raise StateError("no such model.")

    with pytest.raises(StateError, match="no such model"):
        line.issue(fail)
    line.issue(lambda: issuer.draw(1))
    assert len(_stored(sqlite_ready)) == 1


def test_a_committer_that_is_stopped_leaves_nobody_waiting(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, line = service.Issuer.open(sqlite_ready, MODEL, RECIPIENT), Together(sqlite_ready)

    def stop(*_: object) -> None:
        raise SystemExit

    batch = issuer.draw(1)
    with monkeypatch.context() as patch:
        patch.setattr("registry.keys.together.commit_each", stop)
        with pytest.raises(SystemExit):
            line.commit(batch)
    line.commit(batch)
    assert _stored(sqlite_ready) == {batch.rows[0]["key_id"]}
