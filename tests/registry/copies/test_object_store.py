"""Streaming a copy whose template is in an object store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import storage as storage_module
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.config import STORAGE_VARIABLE
from registry.copies import service
from registry.errors import UnavailableError
from registry.home import Home
from registry.keys.service import Issuer
from registry.verification import verify_ledger
from tests.registry.api.client import client
from tests.registry.object_store import ObjectStore
from tests.registry.support import MODEL, RECIPIENT, TinyModel, register
from verifier.inspect import copy_digest


@pytest.fixture
def home(s3: ObjectStore, tmp_path: Path, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv(STORAGE_VARIABLE, s3.bucket())
    monkeypatch.setattr(storage_module, "TRIES", 1)
    Home.create(tmp_path / "home")
    home = Home.open(tmp_path / "home")
    yield register(home, tiny)
    home.close()


def test_a_copy_is_streamed_through_an_outage_and_is_what_a_folder_holds(
    home: Home, s3: ObjectStore, tmp_path: Path
) -> None:
    issuer = client(create_app(home), home, Role.ISSUER)
    copy_id = Issuer.open(home, MODEL, RECIPIENT).issue(1)[0]["copy_id"]
    written = service.download(home, copy_id, tmp_path / "copy").receipt
    url = f"/copies/{copy_id}/archive"
    whole = issuer.get(url).get_data()
    broken = issuer.get(url)
    body = iter(broken.response)
    got = next(body) + next(body)
    with s3.outage(), pytest.raises(UnavailableError):
        got += b"".join(body)
    broken.close()
    with home.database.read() as session:
        assert service.downloads(session)[-1].state == service.ABORTED
    rest = issuer.get(url, headers={"Range": f"bytes={len(got)}-", "If-Range": broken.headers["ETag"]})
    assert got + rest.get_data() == whole
    with home.database.read() as session:
        assert [row.state for row in service.downloads(session)] == [service.DELIVERED] * 3
    files = {}
    for entry in issuer.get(f"/copies/{copy_id}").json["files"]:  # type: ignore[index]
        content = issuer.get(f"/copies/{copy_id}/files/{entry['path']}").get_data()
        assert content == (tmp_path / "copy" / entry["path"]).read_bytes()
        files[entry["path"]] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    assert copy_digest(files) == written["sha256"]
    assert verify_ledger(home).size == 6
