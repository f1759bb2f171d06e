from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import select

from registry import cli
from registry.config import CONFIG_NAME, HOME_VARIABLE
from registry.home import Home
from registry.identity import SigningKey
from registry.signing_keys import PASSPHRASE_VARIABLE, is_encrypted
from tests.registry.test_signing_keys import KMS


@pytest.fixture
def home(sqlite_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_home.settings.home))
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    return sqlite_home


def configure(home: Home, text: str) -> None:
    path = home.settings.home / CONFIG_NAME
    path.write_text(f"{path.read_text()}\n[signing.registry]\n{text}")


def sealed(home: Home) -> bytes:
    with home.database.read() as session:
        return session.execute(select(SigningKey.sealed)).scalar_one()


def test_an_escrow_copy_is_written_and_recognised(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "escrow.key"
    assert cli.run(["master-key", "escrow", "--out", str(copy)]) == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    assert cli.run(["master-key", "check", str(copy)]) == 0
    assert cli.run(["master-key", "escrow", "--out", str(copy)]) == 2
    Home.create(tmp_path / "other")
    assert cli.run(["master-key", "check", str(tmp_path / "other" / "master.key")]) == 3
    assert "is not the master key" in capsys.readouterr().err
    assert cli.run(["master-key", "check", str(tmp_path / "none")]) == 2


def test_the_signing_key_moves_into_a_folder(home: Home) -> None:
    assert cli.run(["signing-key", "move"]) == 2, "the configuration says the database"
    configure(home, 'keep = "folder"\nfolder = "keys"\n')
    assert cli.run(["signing-key", "move"]) == 0
    assert sealed(home) == b""
    (file,) = (home.settings.home / "keys").iterdir()
    assert is_encrypted(file)
    again = Home.open(home.settings.home)
    assert again.identity.registry == home.identity.registry
    again.close()
    assert cli.run(["ledger", "verify"]) == 0
    assert cli.run(["signing-key", "move"]) == 2, "it has moved already"
    assert cli.run(["signing-key", "export", "--out", str(file.with_name("out.pem"))]) == 2


def test_the_signing_key_moves_to_a_service_that_has_it(home: Home, tmp_path: Path) -> None:
    (tmp_path / "kms.py").write_text(KMS)
    (tmp_path / "kms").mkdir()
    command = [sys.executable, str(tmp_path / "kms.py"), str(tmp_path / "kms")]
    exported = tmp_path / "key.pem"
    assert cli.run(["signing-key", "export", "--out", str(exported)]) == 0
    configure(home, f'keep = "command"\ncommand = {command!r}\n')
    assert cli.run(["signing-key", "move"]) == 3, "the service signs with a key of its own"
    assert sealed(home) != b""
    private = load_pem_private_key(exported.read_bytes(), b"correct horse")
    (tmp_path / "kms" / "signing-key").write_bytes(private.private_bytes_raw())  # type: ignore[union-attr]
    assert cli.run(["signing-key", "move"]) == 0
    assert sealed(home) == b""
    assert cli.run(["ledger", "verify"]) == 0
