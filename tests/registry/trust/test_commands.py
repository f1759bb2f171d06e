from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry import cli
from registry.config import HOME_VARIABLE
from registry.errors import StateError
from registry.home import Home
from registry.jobs.worker import Upkeep
from registry.keys.service import Issuer, revoke
from registry.signing_keys import is_encrypted
from registry.trust import service
from registry.trust.commands import PASSPHRASE_VARIABLE
from tests.registry.support import MODEL, RECIPIENT
from tests.registry.trust.clients import Verifier, served


@pytest.fixture
def root(
    sqlite_ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The path of an encrypted root key; the trust root is there."""
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_ready.settings.home))
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    path = str(tmp_path / "root.pem")
    assert cli.run(["trust", "init", "--root-key", path]) == 0
    said = capsys.readouterr().out
    assert "Its first root has SHA-256" in said
    assert f"{path} belongs offline" in said
    return path


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.run(["trust", "status", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {**{role["role"]: role for role in found["roles"]}, "models": found["models"]}


def test_init_writes_an_encrypted_root_key(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_encrypted(Path(root))
    assert cli.run(["trust", "init", "--root-key", root]) == 2
    assert "already" in capsys.readouterr().err


def test_a_day_in_the_life_of_a_trust_root(
    root: str, sqlite_ready: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["trust", "publish", "--model", MODEL]) == 0
    assert f"published: {MODEL}@1" in capsys.readouterr().out
    assert cli.run(["trust", "root", "--out", str(tmp_path / "root.json")]) == 0
    with served(sqlite_ready) as (url, _):
        verifier = Verifier(tmp_path / "verifier", url, (tmp_path / "root.json").read_bytes())
        verifier.update()
        for role in ("timestamp", "snapshot", "targets"):
            assert cli.run(["trust", "rotate", role, "--root-key", root]) == 0
        new = str(tmp_path / "new.pem")
        assert cli.run(["trust", "rotate", "root", "--root-key", root, "--new-root-key", new]) == 0
        assert cli.run(["trust", "renew", "--root-key", new]) == 0
        assert cli.run(["trust", "refresh"]) == 0
        assert cli.run(["trust", "publish", "--withdraw", MODEL]) == 0
        verifier.update()
        assert verifier.versions() == {row.role: row.version for row in service.status(sqlite_ready)}
        assert verifier.versions()["root"] == 6
    with sqlite_ready.database.read() as session:
        assert service.published_models(session) == []
    assert cli.run(["trust", "rotate", "timestamp", "--root-key", root]) == 2, "the old root key has ended"
    assert "is no root key" in capsys.readouterr().err


def test_what_is_due_is_done(root: str, sqlite_ready: Home, capsys: pytest.CaptureFixture[str]) -> None:
    hour, day = 3_600, 86_400
    assert cli.run(["trust", "refresh", "--if-due"]) == 0
    assert "Nothing is due" in capsys.readouterr().err
    published = service.status(sqlite_ready)[1].created_at
    key_id = Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(1)[0]["key_id"]
    assert service.keep_current(sqlite_ready, published + hour - 1) == "", "records may wait for an hour"
    assert service.keep_current(sqlite_ready, published + hour) == "published"
    revoke(sqlite_ready, key_id, "leaked")
    assert service.keep_current(sqlite_ready, published + hour) == "published", "revocations may not"
    assert service.keep_current(sqlite_ready, published + hour) == ""
    assert service.keep_current(sqlite_ready, published + hour + day) == "published"


def test_a_worker_keeps_the_trust_root_current(
    root: str, sqlite_ready: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    before = status(capsys)["targets"]["version"]
    upkeep = Upkeep(sqlite_ready)
    upkeep.turn()
    assert status(capsys)["targets"]["version"] == before
    key_id = Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(1)[0]["key_id"]
    revoke(sqlite_ready, key_id, "leaked")
    upkeep.turn()
    assert status(capsys)["targets"]["version"] == before, "not more than once a minute"
    Upkeep(sqlite_ready).turn()
    assert status(capsys)["targets"]["version"] == before + 1


def test_warnings_say_what_to_run(sqlite_ready: Home, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    day = 86_400
    published = service.status(sqlite_ready)[0].created_at
    for days, role, said in (
        (1.5, "timestamp", "expires soon; run `registry trust refresh`"),
        (3, "timestamp", "has expired: verifiers refuse it; run `registry trust refresh`"),
        (10, "snapshot", "expires soon; run `registry trust publish`"),
        (250, "root", "expires soon; run `registry trust renew --root-key FILE`"),
    ):
        warnings = {s.role: s.warning for s in service.status(sqlite_ready, published + int(days * day))}
        assert warnings[role] == said
    assert not any(s.warning for s in service.status(sqlite_ready))
    with pytest.raises(StateError, match="root metadata has expired"):
        service.keep_current(sqlite_ready, published + 366 * day)


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "--model", "none"),
        ("publish", "--withdraw", MODEL),
        ("rotate", "root", "--root-key", "{root}"),
        ("rotate", "timestamp", "--root-key", "{root}", "--new-root-key", "x"),
        ("rotate", "timestamp", "--root-key", "none.pem"),
        ("rotate", "mirrors", "--root-key", "{root}"),
        ("rotate", "root", "--root-key", "{root}", "--retire", "00"),
        ("renew",),
    ],
)
def test_bad_requests_change_nothing(
    root: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    before = status(capsys)
    assert cli.run(["trust", *(part.format(root=root) for part in arguments)]) == 2
    assert capsys.readouterr().err.startswith("registry: ")
    assert status(capsys) == before


def test_a_wrong_passphrase_opens_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong")
    assert cli.run(["trust", "renew", "--root-key", root]) == 2


def test_an_unencrypted_root_key_is_warned_of(
    sqlite_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_home.settings.home))
    keys = [tmp_path / name for name in ("a.pem", "b.pem")]
    named = [part for key in keys for part in ("--root-key", str(key))]
    assert cli.run(["trust", "status"]) == 2
    assert "no trust root yet" in capsys.readouterr().err
    assert cli.run(["trust", "init", *named, "--threshold", "3", "--unencrypted"]) == 2
    assert cli.run(["trust", "init", *named, "--threshold", "2", "--unencrypted"]) == 0
    assert "is not encrypted" in capsys.readouterr().err
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600, 0o600]
    assert cli.run(["trust", "renew", *named[:2]]) == 2
    assert "2 of its 2 keys; 1 signed" in capsys.readouterr().err
    assert cli.run(["trust", "renew", *named]) == 0


def test_lifetimes_are_configured(root: str, sqlite_ready: Home, capsys: pytest.CaptureFixture[str]) -> None:
    config = sqlite_ready.settings.home / "config.toml"
    text = config.read_text()
    config.write_text(text + "\n[trust]\ntimestamp_days = 7\n")
    assert cli.run(["trust", "refresh"]) == 0
    row = service.status(sqlite_ready)[-1]
    assert row.expires_at - row.created_at == 7 * 86_400
    for wrong in ("timestamp_days = 0", 'timestamp_days = "7"', "days = 7"):
        config.write_text(f"{text}\n[trust]\n{wrong}\n")
        assert cli.run(["trust", "refresh"]) == 2
        assert "[trust]" in capsys.readouterr().err
