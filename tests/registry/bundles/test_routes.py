from __future__ import annotations

import base64
from pathlib import Path

from registry.accounts.permissions import Role
from registry.api.document import Api
from registry.home import Home
from registry.keys.service import Issuer
from tests.registry.api.client import Client, client
from tests.registry.support import MODEL, RECIPIENT
from verifier import sealed
from verifier.bundle import Bundle


def _opened(content: bytes, folder: Path) -> Bundle:
    path = folder / "received.bundle"
    path.write_bytes(content)
    path.chmod(0o600)
    return Bundle.open(path)


def test_a_bundle_without_keys_reads_and_names_nobody(admin: Client, ready: Home, tmp_path: Path) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(3)
    sent = admin.post("/bundles", json={}, buffered=True)
    assert sent.status_code == 200
    assert int(sent.headers["Content-Length"]) == len(sent.get_data())
    assert RECIPIENT.encode() not in sent.get_data()
    bundle = _opened(sent.get_data(), tmp_path)
    (model,) = bundle.models
    assert (model.name, model.keys_issued) == (MODEL, 3)


def test_handing_out_keys_is_logged(admin: Client, ready: Home) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(3)
    sent = admin.post("/bundles", json={"model": "tiny@1", "keys": "with-recipients"}, buffered=True)
    assert sent.status_code == 200
    events = admin.get("/security-events").json["items"]
    assert "bundle.keys-exported" in {event["kind"] for event in events}


def test_only_administrators_take_bundles_and_only_of_their_own_models(app: Api, ready: Home) -> None:
    assert client(app, ready, Role.ISSUER).post("/bundles", json={"keys": "pseudonymous"}).status_code == 403
    other = client(app, ready, organisation="other")
    assert other.post("/bundles", json={"model": "tiny"}).status_code == 404
    assert other.post("/bundles", json={}).status_code == 409  # it has no trained model


def test_addresses_go_out_only_where_they_are_asked_for(admin: Client, ready: Home) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(3)
    sent = {
        keys: admin.post("/bundles", json={"keys": keys}, buffered=True).get_data()
        for keys in ("pseudonymous", "with-recipients")
    }
    assert RECIPIENT.encode() not in sent["pseudonymous"]
    assert RECIPIENT.encode() in sent["with-recipients"]


def test_keys_for_an_auditor_are_read_by_him_alone(admin: Client, ready: Home, tmp_path: Path) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(3)
    sealed.new_key(tmp_path / "auditor")
    public = base64.b64encode(sealed.load_public(tmp_path / "auditor.pub").public_bytes_raw()).decode()
    sent = admin.post("/bundles", json={"keys": "with-recipients", "auditors": [public]}, buffered=True)
    assert sent.status_code == 200
    assert RECIPIENT.encode() not in sent.get_data()
    (tmp_path / "bundle").write_bytes(sent.get_data())
    bundle = Bundle.open(tmp_path / "bundle", auditor=sealed.load_private(tmp_path / "auditor"))
    (model,) = bundle.models
    assert bundle.recipient(model, bundle.records(model)[0]) == RECIPIENT
    nobody = base64.b64encode(bytes(32)).decode()  # a point of low order
    for auditor, keys, status in (
        (public, "none", 409),
        (nobody, "pseudonymous", 409),
        ("no key", "pseudonymous", 422),
    ):
        assert admin.post("/bundles", json={"keys": keys, "auditors": [auditor]}).status_code == status
