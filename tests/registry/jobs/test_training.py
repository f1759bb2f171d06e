"""Real training as a job: interrupted between two steps, finished from its checkpoint by the next attempt."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from registry.attribution import service as attribution
from registry.attribution.folders import training_folder
from registry.generators import service as generators
from registry.home import Home
from registry.jobs import running
from registry.jobs.running import execute
from registry.jobs.service import State
from registry.training import Training
from tests.registry.jobs.support import ask, job, log
from tests.registry.support import MODEL

STEPS = 6


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few latents: enough to train on, not to tell anything from."""
    monkeypatch.setattr(attribution, "LATENTS", 30)
    monkeypatch.setattr(attribution, "HELD_OUT", 20)
    monkeypatch.setattr(attribution, "CHUNK", 25)
    monkeypatch.setattr(running, "BEAT_SECONDS", 0.05)


def checkpoint_step(folder: Path) -> int:
    import torch

    (found,) = folder.rglob("*.pt")
    return int(torch.load(found, weights_only=True)["step"])


@pytest.mark.timeout(900)  # half a minute of computing, which a busy machine stretches
@pytest.mark.usefixtures("small")
def test_training_goes_on_where_it_was_interrupted(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, descend = threading.Event(), Training._descend

    def stop_after_three(self: Training, loss: object) -> None:  # type: ignore[type-arg]
        descend(self, loss)  # type: ignore[arg-type]
        if self.step == 3:
            stopping.set()

    monkeypatch.setattr(Training, "_descend", stop_after_three)
    job_id = ask(sqlite_ready, "train-model", model=MODEL, steps=STEPS)
    execute(sqlite_ready, job_id, stopping)
    waiting = job(sqlite_ready, job_id)
    assert (waiting.state, waiting.attempts) == (State.QUEUED, 0)
    work = sqlite_ready.settings.home / "training" / "1" / f"{MODEL}@1"
    assert checkpoint_step(work) == 3
    latents = {path.name: path.stat().st_mtime_ns for path in work.glob("latents-*")}
    assert len(latents) == 2

    stopping.clear()
    execute(sqlite_ready, job_id, stopping)
    ended = job(sqlite_ready, job_id)
    assert ended.state == State.DONE, ended.error
    assert json.loads(ended.result or "")["network"] == 2
    assert {path.name: path.stat().st_mtime_ns for path in work.glob("latents-*")} == latents
    assert "attribution network" in log(sqlite_ready, job_id)
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, MODEL)
        assert [network.version for network in generators.networks(session, model)] == [1, 2]


def test_a_model_is_trained_by_one_at_a_time(sqlite_ready: Home) -> None:
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, MODEL)
    job_id = ask(sqlite_ready, "train-model", model=MODEL, steps=1)
    with training_folder(sqlite_ready, model):
        execute(sqlite_ready, job_id, threading.Event())
    ended = job(sqlite_ready, job_id)
    assert ended.state == State.FAILED
    assert "already" in (ended.error or "")
