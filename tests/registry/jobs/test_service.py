from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from registry.accounts.permissions import Principal, Role
from registry.errors import InputError, NotFoundError, StateError
from registry.home import Home
from registry.jobs import service
from registry.jobs.running import execute
from registry.jobs.service import Snapshot, State
from registry.jobs.worker import Watch
from tests.registry.jobs.support import ORGANISATION, ask, job, log


def test_a_job_that_is_rolled_back_never_was(home: Home) -> None:
    def fails() -> None:
        with home.database.write() as session:
            service.enqueue(session, ORGANISATION, "count", {"file": "x", "to": 1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    with home.database.read() as session:
        assert session.execute(service.select_jobs()).all() == []


def test_who_asked_is_kept(home: Home) -> None:
    asker = Principal(ORGANISATION, Role.ADMIN, "token 0123456789ab")
    with home.database.write() as session:
        row = service.enqueue(session, ORGANISATION, "count", {"file": "x", "to": 1}, asker)
    assert job(home, row.job_id).requested_by == "token 0123456789ab"
    assert job(home, ask(home, "count", file="x", to=1)).requested_by == "command line"


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("nothing", {}), ("count", {"file": "x"}), ("count", {"file": "x", "to": "1"}), ("fail", {"why": "x"})],
)
def test_jobs_that_cannot_be_are_refused(sqlite_home: Home, kind: str, arguments: dict[str, object]) -> None:
    with pytest.raises(InputError), sqlite_home.database.write() as session:
        service.enqueue(session, ORGANISATION, kind, arguments)


def test_another_organisations_job_is_not_found(sqlite_home: Home) -> None:
    job_id = ask(sqlite_home, "count", file="x", to=1)
    with sqlite_home.database.read() as session, pytest.raises(NotFoundError):
        service.get_job(session, job_id, ORGANISATION + 1)


def test_one_of_many_claims_a_job(home: Home) -> None:
    job_id = ask(home, "count", file="x", to=1)
    found: list[service.Claimed | None] = []
    together = threading.Barrier(8)

    def claim() -> None:
        together.wait()
        found.append(service.claim(home.database, job_id))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert sum(claimed is not None for claimed in found) == 1


def test_only_the_attempt_that_has_the_job_writes(home: Home) -> None:
    job_id = ask(home, "count", file="x", to=1)
    first = service.claim(home.database, job_id)
    assert first is not None
    with home.database.write() as session:
        service.give_up_on(session, service.get_job(session, job_id))
    second = service.claim(home.database, job_id)
    assert second is not None
    assert not service.beat(home.database, first, Snapshot("late", 1, 2), ["too late"]).ours
    assert not service.finish(home.database, first, State.FAILED, error="too late")
    assert not service.release(home.database, first, "too late", counted=True)
    assert service.beat(home.database, second, Snapshot("now", 1, 2), ["in time"]).ours
    assert service.finish(home.database, second, State.DONE, result={"fine": 1})
    assert not service.finish(home.database, second, State.FAILED)
    ended = job(home, job_id)
    assert (ended.state, ended.stage, json.loads(ended.result or "")) == (State.DONE, "now", {"fine": 1})
    assert "too late" not in log(home, job_id)


def test_a_waiting_job_is_cancelled_at_once_and_can_be_tried_again(home: Home) -> None:
    job_id = ask(home, "count", file="x", to=1)
    with home.database.write() as session:
        service.cancel(session, service.get_job(session, job_id))
    assert job(home, job_id).state == State.CANCELLED
    assert service.claim(home.database, job_id) is None
    with home.database.write() as session, pytest.raises(StateError, match="cancelled"):
        service.cancel(session, service.get_job(session, job_id))
    with home.database.write() as session:
        service.retry(session, service.get_job(session, job_id))
    waiting = job(home, job_id)
    assert (waiting.state, waiting.cancel_at, waiting.ended_at) == (State.QUEUED, None, None)
    with home.database.write() as session, pytest.raises(StateError):
        service.retry(session, service.get_job(session, job_id))


def test_a_vanished_job_that_was_cancelled_is_not_tried_again(home: Home) -> None:
    job_id = ask(home, "count", file="x", to=1)
    assert service.claim(home.database, job_id) is not None
    with home.database.write() as session:
        service.cancel(session, service.get_job(session, job_id))
    assert service.describe(job(home, job_id))["cancelling"]
    with home.database.write() as session:
        service.give_up_on(session, service.get_job(session, job_id))
    assert job(home, job_id).state == State.CANCELLED


def test_a_watch_gives_up_on_hearts_that_stand_still_and_no_others(sqlite_home: Home) -> None:
    """With a threshold of nothing, every look but the first finds a heart that has not beaten since."""
    home = sqlite_home
    dead, alive = (ask(home, "count", file="x", to=1) for _ in range(2))
    assert service.claim(home.database, dead) is not None
    beating = service.claim(home.database, alive)
    assert beating is not None
    patient = Watch(stale_seconds=1e9)
    for _ in range(3):
        patient.look(home)
    assert job(home, dead).state == State.RUNNING
    service.beat(home.database, beating, Snapshot(), [])
    Watch(stale_seconds=0).look(home)
    assert job(home, dead).state == State.QUEUED


@pytest.mark.parametrize(
    ("how", "state", "shown"),
    [
        ("input", State.FAILED, "the model cannot be read. Give another."),
        ("bug", State.FAILED, "something went wrong here. Tell the operator the job's name."),
        ("unavailable", State.QUEUED, None),
        ("disk", State.QUEUED, None),
    ],
)
def test_failures(sqlite_home: Home, how: str, state: State, shown: str | None) -> None:
    job_id = ask(sqlite_home, "fail", how=how)
    execute(sqlite_home, job_id, threading.Event())
    ended = job(sqlite_home, job_id)
    assert (ended.state, ended.error, ended.attempts) == (state, shown, 1)
    said = " ".join(log(sqlite_home, job_id))
    assert not any(secret in said for secret in ("password", "/secret", "hm_"))


def test_what_fails_for_now_fails_for_good_in_the_end(sqlite_home: Home) -> None:
    job_id = ask(sqlite_home, "fail", how="disk")
    for _ in range(service.MOST_ATTEMPTS):
        execute(sqlite_home, job_id, threading.Event())
    assert job(sqlite_home, job_id).state == State.FAILED
    execute(sqlite_home, job_id, threading.Event())  # a message that comes late
    assert job(sqlite_home, job_id).attempts == service.MOST_ATTEMPTS


def test_arguments_of_another_version_fail_the_job_and_not_the_worker(sqlite_home: Home) -> None:
    job_id = ask(sqlite_home, "count", file="x", to=1)
    with sqlite_home.database.write() as session:
        service.get_job(session, job_id).arguments = '{"of": "another version"}'
    execute(sqlite_home, job_id, threading.Event())
    assert job(sqlite_home, job_id).state == State.FAILED


def test_counts(sqlite_home: Home) -> None:
    for _ in range(3):
        ask(sqlite_home, "count", file="x", to=1)
    with sqlite_home.database.read() as session:
        assert service.counts(session) == {
            "queued": 3, "running": 0, "done": 0, "failed": 0, "cancelled": 0
        }  # fmt: skip


def test_claims_are_compared_by_their_runner(sqlite_home: Home) -> None:
    job_id = ask(sqlite_home, "count", file="x", to=1)
    claimed = service.claim(sqlite_home.database, job_id)
    assert claimed is not None
    assert not service.finish(sqlite_home.database, replace(claimed, runner="forged"), State.DONE)
