"""The model signature, checked with the command line of the OpenSSF package itself."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from registry.accounts.permissions import Role
from registry.app import create_app
from registry.copies import openssf, service
from registry.home import Home
from registry.keys.service import Issuer
from tests.registry.api.client import client
from tests.registry.support import MODEL, RECIPIENT
from verifier.inspect import inspect_copy


@pytest.fixture
def downloaded(ready: Home, tmp_path: Path) -> Path:
    """A copy as a recipient unpacks it, and the registry's published key beside it."""
    app = create_app(ready)
    issuer = client(app, ready, Role.ISSUER)
    copy_id = Issuer.open(ready, MODEL, RECIPIENT).issue(1)[0]["copy_id"]
    content = issuer.get(f"/copies/{copy_id}/archive").get_data()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(tmp_path, filter="data")
    published = app.test_client().get("/api/v1/model-signing-key")
    (tmp_path / "key.pem").write_bytes(published.get_data())
    return tmp_path / copy_id


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        Path(sys.executable).parent / "model_signing", "verify", "key", folder,
        "--signature", folder / "model.sig", "--public_key", folder.parent / "key.pem",
    ]  # fmt: skip
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_the_package_s_own_command_accepts_the_folder_and_no_change_of_it(downloaded: Path) -> None:
    done = verify(downloaded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert inspect_copy(downloaded).complete
    for name in ("hallmark.json", "unet/config.json"):
        original = (downloaded / name).read_bytes()
        (downloaded / name).write_bytes(original + b"\n")
        assert verify(downloaded).returncode != 0
        (downloaded / name).write_bytes(original)
    (downloaded / "extra.txt").write_text("not signed")
    assert verify(downloaded).returncode != 0


def test_the_signature_is_the_same_at_every_rebuild(sqlite_ready: Home, tmp_path: Path) -> None:
    copy_id = Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(1)[0]["copy_id"]
    service.download(sqlite_ready, copy_id, tmp_path / "first")
    registry, home = Path(sys.executable).parent / "registry", sqlite_ready.settings.home
    command = [registry, "--home", home, "download", copy_id, "--out", tmp_path / "second"]
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / name / "model.sig").read_bytes() for name in ("first", "second"))
    assert first == second
    sealed = openssf.public_key(sqlite_ready)
    assert sealed == openssf.public_key(sqlite_ready)
    assert sealed.startswith(b"-----BEGIN PUBLIC KEY-----")
