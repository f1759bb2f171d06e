from __future__ import annotations

import json

import pytest

from registry.cli import run
from registry.home import Home
from tests.registry.resolve.support import issue


def test_an_index_is_built_and_shown(sqlite_ready: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(sqlite_ready.settings.home)]
    issue(sqlite_ready, 50)
    assert run(["index", "show", *home]) == 0
    assert "tiny@1  0 of 50 keys in 0 files, 0 bytes" in capsys.readouterr().out
    assert run(["index", "build", "tiny", "--json", *home]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["bytes"] > 0
    assert {**built, "bytes": 0} == {
        "model": "tiny@1", "added": 50, "keys": 50, "issued": 50, "files": 1, "bytes": 0,
    }  # fmt: skip
    issue(sqlite_ready, 2)
    assert run(["index", "build", "tiny", *home]) == 0
    assert "2 keys were added: the index of tiny@1 has 52." in capsys.readouterr().out
    assert run(["index", "build", "tiny", "--again", *home]) == 0
    assert "52 keys were added" in capsys.readouterr().out
    assert run(["index", "show", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)[0]["keys"] == 52


def test_an_unknown_model_is_said(sqlite_ready: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "build", "nothing", "--home", str(sqlite_ready.settings.home)]) == 2
    assert "no model nothing" in capsys.readouterr().err
