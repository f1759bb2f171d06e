from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from registry import cli
from registry.home import Home
from registry.jobs.running import execute
from tests.registry.jobs.support import ask


def run(home: Home, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.run(["job", *arguments, "--home", str(home.settings.home)]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_a_jobs_life_on_the_command_line(
    sqlite_home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job_id = ask(sqlite_home, "count", file=str(tmp_path / "numbers"), to=2)
    assert run(sqlite_home, capsys, "list") == f"{job_id}  count  queued\n"
    assert "cancelled" in run(sqlite_home, capsys, "cancel", job_id)
    assert "has ended" in run(sqlite_home, capsys, "cancel", job_id, code=2)
    assert run(sqlite_home, capsys, "list", "--state", "queued") == ""
    assert "queued" in run(sqlite_home, capsys, "retry", job_id)
    execute(sqlite_home, job_id, threading.Event())
    assert run(sqlite_home, capsys, "list") == f"{job_id}  count  done  counting 2/2\n"
    shown = json.loads(run(sqlite_home, capsys, "show", job_id, "--json"))
    assert shown["result"] == {"counted": 2}
    texts = [line["text"] for line in shown["log"]]
    assert texts == ["cancelled", "queued again", "attempt 1 begins", "from 0", "counting", "done"]
    assert "counting 2/2" in run(sqlite_home, capsys, "show", job_id)
    assert "there is no job" in run(sqlite_home, capsys, "show", "job-x", code=2)
