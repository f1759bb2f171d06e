from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.demo.commands import Commands, json_objects
from registry.errors import StateError


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("", []),
        ("no objects\n", []),
        ('{"a": 1}\n', [{"a": 1}]),
        ('{"a": 1}\n{"b": {"c": 2}}\n', [{"a": 1}, {"b": {"c": 2}}]),
        ('{\n  "a": "}{"\n}\n{"b": 2}', [{"a": "}{"}, {"b": 2}]),
    ],
)
def test_json_objects(text: str, objects: list[dict[str, object]]) -> None:
    assert json_objects(text) == objects


def test_a_failed_command_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"`registry ledger verify` ended with 2: .*registry init"):
        Commands(tmp_path / "nowhere").registry("ledger", "verify")


def test_commands_work_on_their_own_home_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / "of-the-user"))
    monkeypatch.setenv("HALLMARK_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    Commands(tmp_path / "own").registry("init")
    assert (tmp_path / "own" / "registry.db").is_file()
    assert not (tmp_path / "of-the-user").exists()
    assert os.environ["HALLMARK_HOME"] == str(tmp_path / "of-the-user")
