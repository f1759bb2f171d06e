"""Ctrl-C in the middle: exit code 130, one line, nothing half-written, nothing lost."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import SCRIPTS, Done, World, command, command_environment, folder_bytes
from tests.registry.support import make_tiny_model

INTERRUPTED = 130
ATTEMPTS = 10


def interrupt(home: Path, begun: Callable[[], bool], *arguments: str | Path) -> Done:
    """Start ``registry ARGUMENTS`` and press Ctrl-C as soon as ``begun`` is true."""
    process = subprocess.Popen(
        [str(SCRIPTS / "registry"), *map(str, arguments)],
        env=command_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and not begun():
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return Done(process.returncode, out, err)


def last_line(done: Done) -> str:
    assert "Traceback" not in done.err, done.err
    return done.err.strip().splitlines()[-1]


@pytest.fixture
def own_home(world: World, tmp_path: Path) -> Path:
    """The registry of the world, copied, to be changed at will."""
    home = tmp_path / "home"
    shutil.copytree(world.home, home)
    return home


def test_a_download(world: World, own_home: Path, tmp_path: Path) -> None:
    """The copy is written in a moment, so a late Ctrl-C may find it complete: then it is tried again."""
    copy_id = world.certificates["ada"]["copy_id"]
    for attempt in range(ATTEMPTS):
        folder = tmp_path / f"attempt-{attempt}"
        folder.mkdir()
        written = partial(holds_something, folder)
        done = interrupt(own_home, written, "download", copy_id, "--out", folder / "ada")
        if done.code == INTERRUPTED:
            break
        assert done.code == 0, done.err
        assert folder_bytes(folder / "ada") == folder_bytes(world.copy)
    assert done.code == INTERRUPTED
    assert "interrupted" in last_line(done)
    assert list(folder.iterdir()) == []

    assert command(own_home, "registry", "ledger", "verify").code == 0
    again = command(own_home, "registry", "download", copy_id, "--out", folder / "ada")
    assert again.code == 0, again.err
    assert folder_bytes(folder / "ada") == folder_bytes(world.copy)


def holds_something(folder: Path) -> bool:
    return any(folder.iterdir())


def test_a_bulk_issue(own_home: Path) -> None:
    """What was committed counts, and the ledger agrees with it."""
    before = keys(own_home)
    issue = ("issue", "--model", "flowers", "--to", "bruno@example.com", "--count", "200000")
    done = interrupt(own_home, lambda: keys(own_home) > before, *issue)
    assert done.code == INTERRUPTED, done.err
    assert "interrupted" in last_line(done)
    issued = keys(own_home) - before
    assert 0 < issued < 200_000
    assert f"{issued} of 200000 keys were issued" in done.err
    assert command(own_home, "registry", "ledger", "verify").code == 0


def keys(home: Path) -> int:
    connection = sqlite3.connect(f"file:{home / 'registry.db'}?mode=ro", uri=True, timeout=30)
    try:
        (count,) = connection.execute("SELECT count(*) FROM user_key").fetchone()
    finally:
        connection.close()
    return int(count)


def test_a_training(tmp_path: Path) -> None:
    """The finished stages stay, the model is not changed, and the same command goes on from there."""
    home, weights = tmp_path / "home", make_tiny_model(tmp_path / "tiny").weights
    assert command(home, "registry", "init").code == 0
    add = ("model", "add", "tiny", "--adapter", "latent-diffusion", "--weights", weights, "--bits", "32")
    assert command(home, "registry", *add).code == 0

    def saved() -> list[Path]:
        return sorted((home / "training").rglob("latents-*.safetensors"))

    done = interrupt(home, lambda: len(saved()) >= 2, "model", "train", "tiny", "--steps", "50")
    assert done.code == INTERRUPTED, done.err
    assert "interrupted" in last_line(done)
    kept = {path: path.stat().st_mtime_ns for path in saved()}
    assert not list((home / "training").rglob("*.partial"))
    assert "not trained" in command(home, "registry", "model", "list").out

    done = interrupt(home, lambda: len(saved()) > len(kept), "model", "train", "tiny", "--steps", "50")
    assert done.code == INTERRUPTED, done.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
