"""The main story on a registry whose files are in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import storage as storage_module
from registry.accounts import service as accounts
from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.config import STORAGE_VARIABLE
from registry.copies import service as copies
from registry.errors import UnavailableError
from registry.home import Home
from registry.keys.service import Issuer
from registry.storage import folder_manifest, manifest_digest
from registry.verification import verify_ledger
from tests.registry.object_store import ObjectStore
from tests.registry.support import MODEL, RECIPIENT, TinyModel, register


@pytest.fixture
def home(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv(STORAGE_VARIABLE, s3.bucket())
    monkeypatch.setattr(storage_module, "TRIES", 1)
    Home.create(tmp_path / "home")
    home = Home.open(tmp_path / "home")
    yield home
    home.close()


def test_models_are_added_keys_issued_and_copies_delivered(
    home: Home, tiny: TinyModel, tmp_path: Path
) -> None:
    register(home, tiny)
    assert not (home.settings.home / "storage").exists()
    (certificate,) = Issuer.open(home, MODEL, RECIPIENT).issue(1)
    first = copies.download(home, certificate["key_id"], tmp_path / "first")
    again = copies.download(home, certificate["key_id"], tmp_path / "again")
    assert first.receipt["sha256"] == again.receipt["sha256"]
    content = folder_manifest(tmp_path / "first")
    assert content == folder_manifest(tmp_path / "again")
    del content["hallmark.json"], content["model.sig"]
    assert manifest_digest(content) == first.receipt["sha256"]
    assert verify_ledger(home).size == 4


def test_an_outage_refuses_what_needs_files_and_loses_nothing(
    home: Home, tiny: TinyModel, tmp_path: Path, s3: ObjectStore
) -> None:
    register(home, tiny)
    (certificate,) = Issuer.open(home, MODEL, RECIPIENT).issue(1)
    with s3.outage(), pytest.raises(UnavailableError):
        copies.download(home, certificate["key_id"], tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with home.database.read() as session:
        assert [delivery.state for delivery in copies.downloads(session)] == [copies.ABORTED]
    copies.download(home, certificate["key_id"], tmp_path / "copy")
    assert verify_ledger(home).size == 3


def test_an_outage_is_no_fault_of_the_client(home: Home, tiny: TinyModel, s3: ObjectStore) -> None:
    register(home, tiny)
    with home.database.write() as session:
        _, token = tokens.create(session, accounts.owner(session, None), "test", Role.ADMIN)
    client = create_app(home).test_client()
    request = {"model": MODEL, "recipient": RECIPIENT}
    with s3.outage():
        refused = client.post("/api/v1/keys", json=request, headers={"Authorization": f"Bearer {token}"})
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "2"
    assert refused.get_json()["detail"] == "the storage is not available."
    answer = client.post("/api/v1/keys", json=request, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 201
