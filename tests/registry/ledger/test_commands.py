from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from registry import cli
from registry.config import HOME_VARIABLE
from registry.home import Home
from registry.ledger import service
from verifier import proof
from verifier.merkle import Checkpoint


@pytest.fixture
def filled(sqlite_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_home.settings.home))
    for count in (5, 20):
        with sqlite_home.database.write() as session:
            records = [hashlib.sha256(b"%d %d" % (count, i)).digest() for i in range(count)]
            service.append(session, sqlite_home.identity, service.CERTIFICATE, records)
    return sqlite_home


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["ledger", *arguments]) == 0
    return capsys.readouterr().out


def test_the_checkpoint_is_printed_or_written(
    filled: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    note = run(capsys, "checkpoint")
    assert Checkpoint.open(note, filled.identity.public).size == 25
    assert run(capsys, "checkpoint", "--out", str(tmp_path / "note")) == ""
    assert (tmp_path / "note").read_text() == note


def test_an_entry_is_proved_by_number_and_by_digest(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    by_number: dict[str, Any] = json.loads(run(capsys, "prove", "7"))
    assert json.loads(run(capsys, "prove", by_number["digest"])) == by_number
    assert proof.check_inclusion(by_number, filled.identity.registry) == 7
    assert json.loads(run(capsys, "prove", "3", "--size", "5"))["size"] == 5


def test_growth_is_proved(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with filled.database.read() as session:
        seen = service.checkpoint_of(session, 5)
    assert seen is not None
    growth = json.loads(run(capsys, "consistency", "5"))
    assert proof.check_consistency(growth, filled.identity.registry, seen).size == 25
    assert json.loads(run(capsys, "consistency", "5", "25")) == growth


@pytest.mark.parametrize(
    "arguments",
    [("prove", "25"), ("prove", "x"), ("prove", "0" * 64), ("consistency", "26"), ("consistency", "0")],
)
def test_what_is_not_there_is_refused(
    filled: Home, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert cli.run(["ledger", *arguments]) == 2
    assert capsys.readouterr().err.startswith("registry: ")
