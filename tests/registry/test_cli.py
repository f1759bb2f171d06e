"""The command line as scripts and people use it; whole processes where a signal is part of the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from registry import cli
from registry.config import DATABASE_VARIABLE, HOME_VARIABLE
from registry.copies import service as copies
from registry.generators import service as generators
from registry.home import Home
from registry.ledger import service as ledger
from tests.registry.support import MODEL, RECIPIENT, TinyModel, register
from verifier import signing
from verifier.bundle import Bundle
from verifier.certificate import Certificate

KEYS_TO_KILL = 200_000


class Registry:
    """Runs commands in this process and keeps what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Standard output of a command that must end with ``code``; an error must be one line."""
        self._capsys.readouterr()
        found = cli.run([str(argument) for argument in arguments])
        out, self.error = self._capsys.readouterr()
        assert found == code, f"{arguments}: exit code {found}\n{out}\n{self.error}"
        if code:
            lines = [line for line in self.error.splitlines() if line.startswith("registry: ")]
            assert len(lines) == 1
            assert "Traceback" not in self.error
        return out

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments))


@pytest.fixture
def registry(capsys: pytest.CaptureFixture[str]) -> Registry:
    return Registry(capsys)


@pytest.fixture
def at_home(sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The ready registry as the one of the environment."""
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_ready.settings.home))
    return sqlite_ready


def process(*arguments: object, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, HOME_VARIABLE: str(home)}
    environment.pop(DATABASE_VARIABLE, None)
    return subprocess.Popen(
        [sys.executable, "-m", "registry.cli", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_from_an_empty_folder_to_a_bundle(
    registry: Registry, database_kind: str, tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    identity = registry.json("init", "--json")["registry"]
    added = registry.json(
        "model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", tiny.weights, "--json"
    )
    assert added["networks"] == []
    opened = Home.open(home)
    with opened.database.write() as session:
        model = generators.get_model(session, MODEL)
        generators.install_basis(session, opened.storage, model, tiny.basis)
        generators.install_network(session, opened.storage, model, tiny.network)
    key = opened.identity.public
    opened.close()

    registry("recipient", "add", "Ada@Example.org")
    assert [entry["email"] for entry in registry.json("recipient", "list", "--json")] == ["ada@example.org"]
    certificate = registry.json("issue", "--model", MODEL, "--to", RECIPIENT, "--expires-days", 90)
    assert Certificate.parse(certificate, key).registry == identity
    summary = registry.json("issue", "--model", MODEL, "--to", RECIPIENT, "--count", 40)
    assert summary["issued"] == 40
    receipt = registry.json("download", certificate["copy_id"], "--out", tmp_path / "copy", "--json")
    assert signing.verify(receipt, key, "hallmark/receipt/1")["key_id"] == certificate["key_id"]
    assert "SHA-256 " + receipt["sha256"] in registry(
        "download", certificate["key_id"], "--out", tmp_path / "two"
    )
    sampling = ("sample", "--copy", tmp_path / "copy", "-n", 2, "--out", tmp_path / "images", "--seed", 1)
    images = registry.json(*sampling, "--json")
    for path in images["images"]:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")
    revocation = registry.json("revoke", certificate["copy_id"], "--reason", "test")
    assert signing.verify(revocation, key, "hallmark/revocation/1")["key_id"] == certificate["key_id"]
    registry("bundle", "export", "--out", tmp_path / "b", "--with-keys", "--with-recipients")
    assert Bundle.open(tmp_path / "b", trust=identity).models[0].keys_issued == 41
    assert registry.json("ledger", "verify", "--json")["size"] == 45
    assert "The ledger holds: 45 entries" in registry("ledger", "verify")
    assert f"{MODEL}@1  32 bits  41 keys" in registry("model", "list")
    assert registry.json("model", "show", MODEL, "--json") == registry.json("model", "list", "--json")[0]
    assert "41" in registry("model", "show", MODEL)
    registry("model", "export", MODEL, "--out", tmp_path / "network")
    assert (tmp_path / "network" / "network.onnx").is_file()


def test_home_is_accepted_before_and_after_the_command(registry: Registry, tmp_path: Path) -> None:
    registry("init", "--home", tmp_path / "a")
    registry("--home", tmp_path / "b", "init")
    registry("--home", tmp_path / "a", "recipient", "add", RECIPIENT)
    registry("recipient", "list", "--home", tmp_path / "b")
    assert json.loads(registry("recipient", "list", "--json", "--home", tmp_path / "b")) == []
    assert len(json.loads(registry("recipient", "list", "--json", "--home", tmp_path / "a"))) == 1
    registry("init", "--home", tmp_path / "a", code=2)
    assert "already holds a registry; nothing was changed" in registry.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["issue"], "Missing option"),
        (["issue", "--model", "none", "--to", RECIPIENT], "no model none is registered"),
        (["issue", "--model", MODEL, "--to", "eve@example.org"], "registry recipient add eve@example.org"),
        (["issue", "--model", MODEL, "--to", RECIPIENT, "--count", "0"], "--count"),
        (["issue", "--model", MODEL, "--to", RECIPIENT, "--expires-days", "0"], "--expires-days 0"),
        (["download", "copy-12", "--out", "x"], "no key id"),
        (["download", "0" * 24, "--out", "x"], "issued no key"),
        (["revoke", "0" * 24, "--reason", "x"], "issued no key"),
        (["recipient", "add", "nobody"], "no e-mail address"),
        (["recipient", "add", "a@b.org", "--public-key", "none"], "none: cannot be read"),
        (["model", "add", "m", "--adapter", "none", "--weights", "."], "unknown adapter"),
        (
            ["model", "add", "m", "--adapter", "latent-diffusion", "--weights", "none"],
            "no such file or folder",
        ),
        (["model", "add", "m", "--adapter", "latent-diffusion", "--weights", ".", "--bits", "7"], "--bits 7"),
        (
            ["model", "add", "m", "--adapter", "latent-diffusion", "--weights", ".", "--scheme", "x"],
            "--scheme x: unknown",
        ),
        (["model", "train", "none"], "no model none"),
        (["model", "train", MODEL, "--data", "none"], "none: no such file"),
        (["model", "export", "none", "--out", "x"], "no model none"),
        (["bundle", "export", "--out", "none/x"], "no such folder"),
        (["bundle", "export", "--out", "x", "--with-recipients"], "needs --with-keys"),
        (["sample", "--copy", "none", "--out", "x"], "no such folder"),
    ],
)
def test_bad_requests_end_with_one_line_and_code_2(
    registry: Registry,
    at_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    registry(*arguments, code=2)
    assert said in registry.error
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_home_that_is_none_is_named(registry: Registry, tmp_path: Path) -> None:
    registry("ledger", "verify", "--home", tmp_path / "none", code=2)
    assert f"Run `registry init --home {tmp_path / 'none'}`" in registry.error


def test_tampering_ends_with_code_3(registry: Registry, at_home: Home) -> None:
    registry("issue", "--model", MODEL, "--to", RECIPIENT)
    with sqlite3.connect(at_home.settings.home / "registry.db") as connection:
        connection.execute("UPDATE user_key SET issued_at = issued_at + 1")
    connection.close()
    registry("ledger", "verify", code=3)
    assert "ledger entry 1 (certificate) does not match its record" in registry.error


def test_a_database_that_is_none_is_explained(
    registry: Registry, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql+psycopg://nobody:secret@127.0.0.1:1/none")
    registry("recipient", "list", code=2)
    assert "Check HALLMARK_DATABASE_URL" in registry.error
    assert "secret" not in registry.error
    monkeypatch.delenv(DATABASE_VARIABLE)
    at_home.close()
    (at_home.settings.home / "registry.db").write_bytes(b"no database at all" * 100)
    registry("recipient", "list", code=2)
    assert "restore it from a backup" in registry.error


def test_a_package_that_is_not_installed_is_named() -> None:
    missing = "import sys; sys.modules['sqlalchemy'] = None; from registry.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", missing, "init"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'hallmark[registry]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_explained(registry: Registry, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "storage/x")

    monkeypatch.setattr(ledger, "append", full)
    registry("issue", "--model", MODEL, "--to", RECIPIENT, code=2)
    assert "storage/x: No space left on device" in registry.error


def test_a_defect_is_one_line_unless_debugging(
    registry: Registry, at_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero\nand more")

    monkeypatch.setattr(ledger, "append", broken)
    registry("issue", "--model", MODEL, "--to", RECIPIENT, code=4)
    assert "internal error: ZeroDivisionError: by zero." in registry.error
    monkeypatch.setenv("HALLMARK_DEBUG", "1")
    assert cli.run(["issue", "--model", MODEL, "--to", RECIPIENT]) == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["", "init", "model", "model add", "model list", "model show", "model train", "model export", "recipient",
     "recipient add", "recipient list", "issue", "download", "sample", "revoke", "bundle", "bundle export",
     "ledger", "ledger verify"],
)  # fmt: skip
def test_every_command_explains_itself(registry: Registry, command: str) -> None:
    text = registry(*command.split(), "--help")
    assert "Usage: registry" in text
    assert len(text.splitlines()) > 5


def test_commands_that_need_no_torch_do_not_load_it(at_home: Home) -> None:
    probe = (
        "import sys; from registry import cli;"
        "code = cli.run(sys.argv[1:]);"
        "heavy = sorted({'torch', 'diffusers', 'onnxruntime', 'alembic'} & set(sys.modules));"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    for arguments in (
        ["issue", "--model", MODEL, "--to", RECIPIENT],
        ["bundle", "export", "--out", str(at_home.settings.home.parent / "b"), "--with-keys"],
        ["ledger", "verify"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", probe, *arguments],
            env={**os.environ, HOME_VARIABLE: str(at_home.settings.home)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_killed_in_the_middle_of_a_bulk_issue_the_ledger_holds(registry: Registry, at_home: Home) -> None:
    home = at_home.settings.home
    for wait in (0, 2):
        before = _keys(home)
        running = process("issue", "--model", MODEL, "--to", RECIPIENT, "--count", KEYS_TO_KILL, home=home)
        deadline = time.monotonic() + 120
        while _keys(home) == before and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3 * wait)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert running.returncode == -signal.SIGKILL
        issued = _keys(home) - before
        assert 0 < issued < KEYS_TO_KILL
        assert issued % 10_000 == 0
    report = registry.json("ledger", "verify", "--json")
    assert report["size"] == _keys(home) + 1
    registry("issue", "--model", MODEL, "--to", RECIPIENT)
    assert registry.json("ledger", "verify", "--json")["size"] == report["size"] + 1


def test_ctrl_c_in_a_bulk_issue_says_how_far_it_came(registry: Registry, at_home: Home) -> None:
    home = at_home.settings.home
    running = process("issue", "--model", MODEL, "--to", RECIPIENT, "--count", KEYS_TO_KILL, home=home)
    while _keys(home) == 0 and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, error = running.communicate()
    assert running.returncode == 130
    assert out == ""
    assert f"{_keys(home)} of {KEYS_TO_KILL} keys were issued." in error
    assert "Traceback" not in error
    assert registry.json("ledger", "verify", "--json")["size"] == _keys(home) + 1


def test_parallel_processes_issue_without_gaps(registry: Registry, at_home: Home) -> None:
    home = at_home.settings.home
    running = [
        process("issue", "--model", MODEL, "--to", RECIPIENT, "--count", 50 + i, home=home) for i in range(3)
    ]
    for started in running:
        _, error = started.communicate()
        assert started.returncode == 0, error
    assert registry.json("ledger", "verify", "--json")["size"] == 1 + 50 + 51 + 52


def test_ctrl_c_in_a_download_leaves_nothing(
    registry: Registry, at_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = registry.json("issue", "--model", MODEL, "--to", RECIPIENT)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copies, "manifest_digest", interrupted)
        registry("download", certificate["copy_id"], "--out", tmp_path / "out" / "copy", code=130)
    assert "interrupted" in registry.error
    assert list((tmp_path / "out").iterdir()) == []
    with sqlite3.connect(at_home.settings.home / "registry.db") as connection:
        assert connection.execute("SELECT state FROM download").fetchall() == [("aborted",)]
    connection.close()


def test_a_copied_home_works_elsewhere(
    registry: Registry, sqlite_home: Home, tiny: TinyModel, tmp_path: Path
) -> None:
    """A backup is the folder; nothing in it names its old place."""
    register(sqlite_home, tiny)
    sqlite_home.close()
    moved = shutil.copytree(sqlite_home.settings.home, tmp_path / "moved")
    shutil.rmtree(sqlite_home.settings.home)
    certificate = registry.json("issue", "--model", MODEL, "--to", RECIPIENT, "--home", moved)
    registry("download", certificate["copy_id"], "--out", tmp_path / "copy", "--home", moved)
    registry("ledger", "verify", "--home", moved)


def _keys(home: Path) -> int:
    connection = sqlite3.connect(f"file:{home / 'registry.db'}?mode=ro", uri=True, timeout=30)
    try:
        return int(connection.execute("SELECT count(*) FROM user_key").fetchone()[0])
    finally:
        connection.close()
