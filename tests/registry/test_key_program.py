"""The program that docs/keys.md shows works as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.home import Home
from registry.ledger import service as ledger
from registry.trust import service as trust
from tests.absent import absent
from verifier.merkle import Checkpoint

DOCUMENT = Path(__file__).parents[2] / "docs" / "keys.md"


def test_the_documented_program_keeps_every_key(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        absent("no openssl")
    found = re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    program = tmp_path / "hallmark-keys"
    program.write_text(found[1])
    program.chmod(0o755)
    (tmp_path / "keys").mkdir()
    command = [str(program), str(tmp_path / "keys")]
    text = '[database]\nurl = "sqlite:///registry.db"\n[storage]\nurl = "storage"\n'
    for table in ("signing.registry", "signing.timestamp", "master"):
        text += f'[{table}]\nkeep = "command"\ncommand = {command!r}\n'
    (tmp_path / "config.toml").write_text(text)

    Home.create(tmp_path / "home", tmp_path / "config.toml")
    home = Home.open(tmp_path / "home")
    trust.create(home, [Ed25519PrivateKey.generate()])
    with home.database.read() as session:
        assert Checkpoint.open(ledger.checkpoint(session), home.identity.public).size == 0
    home.close()
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {
        "signing-key.pem", "trust-timestamp.pem", "wrapping"
    }  # fmt: skip
    with pytest.raises(Exception, match="hallmark-keys"):
        (tmp_path / "keys" / "wrapping").unlink()
        Home.open(tmp_path / "home")
