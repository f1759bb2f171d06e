from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from registry.bundles.service import BundleOptions, export
from registry.copies import deliveries, service
from registry.errors import InputError, IntegrityError, StateError
from registry.fingerprints.basis import Basis
from registry.generators import service as generators
from registry.generators.sampling import adapter_of, sample_to_folder
from registry.home import Home
from registry.keys.service import Issuer, derive, get_key, revoke
from registry.storage import folder_manifest, manifest_digest
from registry.verification import verify_ledger
from tests.registry.support import MODEL, RECIPIENT, TinyModel, altered
from verifier import signing
from verifier.bundle import Bundle
from verifier.errors import TrustError
from verifier.inspect import inspect_copy
from verifier.phi import unpack

CARRIER = "vqvae/diffusion_pytorch_model.safetensors"


def issue(home: Home) -> signing.Document:
    return Issuer.open(home, MODEL, RECIPIENT).issue(1)[0]


def without_statement(folder: Path) -> dict[str, dict[str, object]]:
    about = ("hallmark.json", "model.sig")
    return {path: entry for path, entry in folder_manifest(folder).items() if path not in about}


def test_a_copy_is_the_template_with_the_key_in_it(ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    certificate = issue(ready)
    delivery = service.download(ready, certificate["copy_id"], tmp_path / "copy")
    with ready.database.read() as session:
        key = get_key(session, ready.identity.registry, certificate["key_id"])
    delta = Basis.load(tiny.basis).deltas(unpack(derive(ready, key)))[CARRIER, "fingerprint"]
    with (
        safe_open(tmp_path / "copy" / CARRIER, "np") as copy,
        safe_open(tiny.weights / CARRIER, "np") as base,
    ):
        np.testing.assert_array_equal(copy.get_tensor("fingerprint"), delta.astype(np.float32))
        assert set(copy.keys()) == {*base.keys(), "fingerprint"}
        for name in base.keys():
            np.testing.assert_array_equal(copy.get_tensor(name), base.get_tensor(name))
        metadata = copy.metadata()
    assert json.loads(metadata["hallmark.certificate"]) == certificate
    assert metadata["hallmark.public_key"] == ready.identity.public_text
    statement = json.loads((tmp_path / "copy" / "hallmark.json").read_text())
    body = signing.verify(statement, ready.identity.public, "hallmark/copy/1")
    assert body["certificate"] == certificate
    assert body["files"] == without_statement(tmp_path / "copy")
    receipt = signing.verify(delivery.receipt, ready.identity.public, "hallmark/receipt/1")
    assert receipt["sha256"] == manifest_digest(body["files"])
    assert receipt["bytes"] == sum(entry["size"] for entry in body["files"].values())
    assert receipt["recipient"] == certificate["recipient"]
    assert json.loads((tmp_path / "copy.receipt.json").read_text()) == delivery.receipt


def test_the_verifier_accepts_the_copy_and_no_altered_byte_of_it(ready: Home, tmp_path: Path) -> None:
    certificate = issue(ready)
    receipt = service.download(ready, certificate["copy_id"], tmp_path / "copy").receipt
    path = tmp_path / "bundle"
    export(ready, path, BundleOptions(with_keys=True))
    found = inspect_copy(tmp_path / "copy", bundle=Bundle.open(path))
    assert (found.digest, found.delivered, found.revoked) == (receipt["sha256"], True, False)
    assert found.certificate.document() == {k: v for k, v in certificate.items() if k != "signature"}
    alone = inspect_copy(tmp_path / "copy" / CARRIER, trust=ready.identity.registry)
    assert alone.certificate == found.certificate
    for name in ("hallmark.json", CARRIER, "unet/config.json"):
        content = bytearray((tmp_path / "copy" / name).read_bytes())
        content[len(content) // 2] ^= 1
        changed = altered(tmp_path / "copy", tmp_path / "changed", name, bytes(content))
        with pytest.raises(TrustError):
            inspect_copy(changed)
        shutil.rmtree(changed)


def test_a_copy_rebuilt_twice_has_the_same_bytes(ready: Home, tmp_path: Path) -> None:
    copy_id = issue(ready)["copy_id"]
    first = service.download(ready, copy_id, tmp_path / "first").receipt
    second = service.download(ready, copy_id, tmp_path / "second").receipt
    assert folder_manifest(tmp_path / "first") == folder_manifest(tmp_path / "second")
    assert first["sha256"] == second["sha256"]
    assert first["download_id"] != second["download_id"]
    other = service.download(ready, issue(ready)["copy_id"], tmp_path / "other").receipt
    assert other["sha256"] != first["sha256"]
    assert verify_ledger(ready).size == 6


def test_the_copy_samples_other_images_than_the_base(
    sqlite_ready: Home, tiny: TinyModel, tmp_path: Path
) -> None:
    service.download(sqlite_ready, issue(sqlite_ready)["copy_id"], tmp_path / "copy")
    paths = sample_to_folder(tmp_path / "copy", 2, 7, tmp_path / "images")
    again = sample_to_folder(tmp_path / "copy", 2, 7, tmp_path / "again")
    base = sample_to_folder(tiny.weights, 2, 7, tmp_path / "base")
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    pixels = [[np.asarray(Image.open(path)) for path in group] for group in (paths, again, base)]
    assert pixels[0][0].shape == (16, 16, 3)
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert (pixels[0][0] != pixels[2][0]).any()


def test_an_interrupted_delivery_leaves_nothing_and_is_recorded(ready: Home, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done > 1000:
            raise KeyboardInterrupt

    copy_id = issue(ready)["copy_id"]
    with pytest.raises(KeyboardInterrupt):
        service.download(ready, copy_id, tmp_path / "out" / "copy", progress=lambda _: interrupt)
    assert not any((tmp_path / "out").iterdir())
    with ready.database.read() as session:
        (row,) = service.downloads(session)
        assert (row.state, row.ledger_index, row.sha256) == (service.ABORTED, None, None)
        assert service.copy_digests(session, generators.get_model(session, MODEL)) == {}
    assert verify_ledger(ready).size == 2
    service.download(ready, copy_id, tmp_path / "out" / "copy")
    with ready.database.read() as session:
        assert [row.state for row in service.downloads(session)] == [service.ABORTED, service.DELIVERED]


def test_a_delivery_that_cannot_be_recorded_is_taken_back(
    ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk full")

    copy_id = issue(ready)["copy_id"]
    monkeypatch.setattr(service, "finish", fails)
    with pytest.raises(OSError, match="disk full"):
        service.download(ready, copy_id, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.receipt.json").exists()


def test_a_template_that_changed_is_not_delivered_again(sqlite_ready: Home, tmp_path: Path) -> None:
    copy_id = issue(sqlite_ready)["copy_id"]
    service.download(sqlite_ready, copy_id, tmp_path / "first")
    (template,) = (sqlite_ready.settings.home / "storage" / "templates").iterdir()
    content = bytearray((template / CARRIER).read_bytes())
    content[-1] ^= 1
    (template / CARRIER).write_bytes(content)
    with pytest.raises(IntegrityError, match="nothing was delivered"):
        service.download(sqlite_ready, copy_id, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_basis_that_changed_is_refused(sqlite_ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    copy_id = issue(sqlite_ready)["copy_id"]
    (path,) = (sqlite_ready.settings.home / "storage" / "bases").iterdir()
    Basis.load(tiny.basis).with_strength(0.6, {}).save(path)
    with pytest.raises(IntegrityError, match="does not have its digest"):
        service.download(sqlite_ready, copy_id, tmp_path / "copy")


def test_a_revoked_copy_is_no_longer_delivered(ready: Home, tmp_path: Path) -> None:
    certificate = issue(ready)
    revoke(ready, certificate["key_id"], "leaked")
    with pytest.raises(StateError, match="is revoked"):
        service.download(ready, certificate["copy_id"], tmp_path / "copy")
    assert list(tmp_path.glob("copy*")) == []


def test_an_expired_certificate_is_no_longer_delivered(
    sqlite_ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (certificate,) = Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(1, expires_days=1)
    now = deliveries.unix_now()
    monkeypatch.setattr(deliveries, "unix_now", lambda: now + 2 * 86_400)
    with pytest.raises(StateError, match="expired at"):
        service.download(sqlite_ready, certificate["copy_id"], tmp_path / "copy")


def test_nothing_of_the_user_is_overwritten(sqlite_ready: Home, tmp_path: Path) -> None:
    copy_id = issue(sqlite_ready)["copy_id"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(InputError, match="already exists"):
        service.download(sqlite_ready, copy_id, tmp_path / "mine")
    with pytest.raises(InputError, match="already exists"):
        service.download(sqlite_ready, copy_id, tmp_path / "new", tmp_path / "mine" / "letter.txt")
    with pytest.raises(InputError, match="no such folder"):
        service.download(sqlite_ready, copy_id, tmp_path / "new", tmp_path / "nowhere" / "receipt.json")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    with sqlite_ready.database.read() as session:
        assert service.downloads(session) == []


def test_an_unknown_copy_is_refused(sqlite_ready: Home, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="issued no key"):
        service.download(sqlite_ready, "copy-" + "0" * 24, tmp_path / "copy")


def test_a_folder_that_is_no_copy_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        adapter_of(tmp_path / "none")
    with pytest.raises(InputError, match="neither a copy"):
        adapter_of(tmp_path)
    (tmp_path / "hallmark.json").write_text("{}")
    with pytest.raises(InputError, match=r"hallmark\.json: unreadable"):
        adapter_of(tmp_path)
