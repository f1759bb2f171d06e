from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import InputError
from registry.home import Home
from registry.jobs import service
from registry.jobs.queue import Queue
from registry.jobs.service import State
from registry.operations import REDIS_VARIABLE
from tests.registry.jobs.support import ask, job, log, worker
from tests.servers import redis_server, wait_for


@pytest.fixture(params=["sqlite", "redis"])
def queued(request: pytest.FixtureRequest, sqlite_home: Home, tmp_path: Path) -> Iterator[Home]:
    """An empty registry whose queue is in the home, or on Redis."""
    if request.param == "sqlite":
        yield sqlite_home
        return
    patch = request.getfixturevalue("monkeypatch")
    with redis_server(tmp_path) as url:
        patch.setenv(REDIS_VARIABLE, url)
        yield sqlite_home


def counted(path: Path) -> list[tuple[int, int]]:
    """The numbers written so far and the processes that wrote them."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(process)) for number, process in (line.split() for line in lines)]


def test_jobs_run_in_the_order_they_were_asked_for(queued: Home, tmp_path: Path) -> None:
    asked = [ask(queued, "count", file=str(tmp_path / "numbers"), to=number) for number in (2, 3, 4)]
    with worker(queued):
        wait_for(lambda: job(queued, asked[-1]).state == State.DONE, "the last job's end")
    for job_id in asked:
        ended = job(queued, job_id)
        assert (ended.state, ended.attempts, ended.error) == (State.DONE, 1, None)
        assert ended.started_at is not None
        assert ended.ended_at is not None
    assert [number for number, _ in counted(tmp_path / "numbers")] == [0, 1, 2, 3]
    assert (job(queued, asked[-1]).done, job(queued, asked[-1]).total) == (4, 4)


def test_a_killed_workers_job_is_finished_by_the_next_one(queued: Home, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    job_id = ask(queued, "count", file=str(numbers), to=100, pause=0.05)
    with worker(queued) as first:
        wait_for(lambda: len(counted(numbers)) >= 10, "ten steps")
        first.kill()
        first.wait()
    assert job(queued, job_id).state == State.RUNNING  # nobody could say otherwise
    with worker(queued):
        wait_for(lambda: job(queued, job_id).state == State.DONE, "the end")
    assert job(queued, job_id).attempts == 2
    found = counted(numbers)
    assert [number for number, _ in found] == list(range(100))  # went on, did not begin again
    assert len({process for _, process in found}) == 2
    assert "its worker vanished; queued again" in log(queued, job_id)


def test_a_job_that_kills_its_workers_is_given_up(sqlite_home: Home, tmp_path: Path) -> None:
    job_id = ask(sqlite_home, "count", file=str(tmp_path / "numbers"), to=3, crash_at=1)
    for _ in range(service.MOST_ATTEMPTS):
        (tmp_path / "numbers").unlink(missing_ok=True)
        with worker(sqlite_home) as process:
            process.wait(60)
            assert process.returncode == 9
    with worker(sqlite_home):
        wait_for(lambda: job(sqlite_home, job_id).state == State.FAILED, "giving up")
    assert job(sqlite_home, job_id).error == "its workers vanished 3 times."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_end_puts_its_job_back(
    queued: Home, tmp_path: Path, number: signal.Signals
) -> None:
    numbers = tmp_path / "numbers"
    job_id = ask(queued, "count", file=str(numbers), to=60, pause=0.05)
    with worker(queued) as first:
        wait_for(lambda: len(counted(numbers)) >= 5, "five steps")
        first.send_signal(number)
        assert first.wait(30) == 0
    waiting = job(queued, job_id)
    assert (waiting.state, waiting.attempts, waiting.runner) == (State.QUEUED, 0, None)
    assert 5 <= len(counted(numbers)) < 60
    with worker(queued):
        wait_for(lambda: job(queued, job_id).state == State.DONE, "the end")
    assert [number for number, _ in counted(numbers)] == list(range(60))


def test_cancelling_stops_between_steps_and_retrying_goes_on(queued: Home, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    job_id = ask(queued, "count", file=str(numbers), to=200, pause=0.05)
    with worker(queued):
        wait_for(lambda: len(counted(numbers)) >= 5, "five steps")
        with queued.database.write() as session:
            service.cancel(session, service.get_job(session, job_id))
        wait_for(lambda: job(queued, job_id).state == State.CANCELLED, "cancelling")
        kept = len(counted(numbers))
        assert kept < 200
        # The worker lives and does other work.
        other = ask(queued, "count", file=str(tmp_path / "other"), to=1)
        wait_for(lambda: job(queued, other).state == State.DONE, "another job")
        assert len(counted(numbers)) == kept
        with queued.database.write() as session:
            service.retry(session, service.get_job(session, job_id))
        wait_for(lambda: len(counted(numbers)) > kept, "going on")
    assert [number for number, _ in counted(numbers)][:kept] == list(range(kept))


def test_many_workers_do_each_job_once(ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both databases, with Redis: 2 processes of 3 threads."""
    with redis_server(tmp_path) as url:
        monkeypatch.setenv(REDIS_VARIABLE, url)
        asked = [ask(ready, "count", file=str(tmp_path / f"{i}"), to=3) for i in range(30)]
        with (
            worker(ready, "--threads", "2"),
            worker(ready, "--threads", "2"),
            worker(ready, "--threads", "2"),
        ):
            wait_for(lambda: all(job(ready, job_id).state == State.DONE for job_id in asked), "all jobs")
    assert [job(ready, job_id).attempts for job_id in asked] == [1] * 30
    assert all(len(counted(tmp_path / f"{i}")) == 3 for i in range(30))


def test_jobs_asked_for_while_redis_is_away_run_when_it_is_back(
    sqlite_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server(tmp_path) as url:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
    monkeypatch.setenv(REDIS_VARIABLE, url)
    with worker(sqlite_home) as process:
        job_id = ask(sqlite_home, "count", file=str(tmp_path / "numbers"), to=1)
        wait_for(
            lambda: "sweep failed" in (sqlite_home.settings.home / "worker.log").read_text(), "an attempt"
        )
        assert process.poll() is None
        assert job(sqlite_home, job_id).delivered_at is None
        with redis_server(tmp_path, port):
            wait_for(lambda: job(sqlite_home, job_id).state == State.DONE, "the job's end")


def test_messages_that_the_queue_lost_are_sent_again(queued: Home, tmp_path: Path) -> None:
    asked = [ask(queued, "count", file=str(tmp_path / "numbers"), to=1) for _ in range(2)]
    queue = Queue.open(queued, lambda _: None)
    assert queue.deliver() == 2
    assert queue.deliver() == 0  # they are in the queue
    queue.huey.storage.flush_queue()
    with worker(queued):
        wait_for(lambda: job(queued, asked[1]).state == State.DONE, "the jobs' end")
    assert job(queued, asked[0]).state == State.DONE


def test_what_others_put_into_the_queue_runs_nothing(queued: Home, tmp_path: Path) -> None:
    """Neither a pickle, nor another task, nor a job that there is not."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    queue = Queue.open(queued, lambda _: None)
    for message in (pickle.dumps(Evil()), b'["1", "os.system"]', b"{}", b"\xff"):
        queue.huey.storage.enqueue(message)
    queue._put("job-000000000000000000000000")
    job_id = ask(queued, "count", file=str(tmp_path / "numbers"), to=1)
    with worker(queued):
        wait_for(lambda: job(queued, job_id).state == State.DONE, "the real job's end")
    assert not (tmp_path / "owned").exists()


def test_a_queue_that_cannot_be_is_explained(sqlite_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_VARIABLE, "redis://127.0.0.1:port/0")
    with pytest.raises(InputError, match=r"URL cannot be used"):
        Queue.open(sqlite_home, lambda _: None)
    monkeypatch.setenv(REDIS_VARIABLE, "redis://127.0.0.1/0")
    monkeypatch.setattr("huey.storage.Redis", None)
    with pytest.raises(InputError, match="not installed"):
        Queue.open(sqlite_home, lambda _: None)
