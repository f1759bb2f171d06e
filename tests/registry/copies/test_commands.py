from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry import cli
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.config import HOME_VARIABLE
from registry.copies import service
from registry.home import Home
from registry.keys.service import Issuer, revoke
from tests.registry.api.client import client
from tests.registry.support import MODEL, RECIPIENT


@pytest.fixture
def at_home(sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_ready.settings.home))
    return sqlite_ready


def issue(home: Home) -> str:
    return str(Issuer.open(home, MODEL, RECIPIENT).issue(1)[0]["copy_id"])


def test_a_link_from_the_command_line_opens(at_home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    copy_id = issue(at_home)
    assert cli.run(["link", copy_id, "--url", "https://registry.example/", "--hours", "2"]) == 0
    address = capsys.readouterr().out.strip()
    assert address.startswith("https://registry.example/d/")
    recipient = create_app(at_home).test_client()
    offer = recipient.get(address.removeprefix("https://registry.example")).json
    assert offer is not None
    assert offer["copy_id"] == copy_id
    with (at_home.settings.home / "config.toml").open("a") as file:
        file.write('\n[serving]\nurl = "https://configured.example"\n')
    assert cli.run(["link", copy_id, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["url"].startswith("https://configured.example/d/")
    revoke(at_home, copy_id, "leaked")
    assert cli.run(["link", copy_id]) == 2
    assert "is revoked" in capsys.readouterr().err


def test_deliveries_of_all_kinds_are_listed(
    at_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_id = issue(at_home)
    service.download(at_home, copy_id, tmp_path / "copy")
    issuer = client(create_app(at_home), at_home, Role.ISSUER)
    broken = issuer.get(f"/copies/{copy_id}/archive", headers={"User-Agent": "curl/8"})
    next(iter(broken.response))
    broken.close()
    capsys.readouterr()
    assert cli.run(["downloads", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(entry["state"], entry["form"]) for entry in found] == [
        ("aborted", "archive"),
        ("delivered", "folder"),
    ]
    assert (found[0]["user_agent"], found[1]["bytes_sent"]) == ("curl/8", None)
    assert cli.run(["downloads", "--copy", copy_id, "-n", "1"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if copy_id in line)
    assert "aborted" in line
    assert cli.run(["downloads", "--copy", "copy-" + "0" * 24]) == 2
