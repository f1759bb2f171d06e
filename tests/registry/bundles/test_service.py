"""Bundles are checked with the verifier's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from registry.accounts import service as accounts
from registry.bundles.service import BundleOptions, export
from registry.cli import cli
from registry.copies.service import download
from registry.errors import InputError, StateError
from registry.generators import service as generators
from registry.home import Home
from registry.keys.service import Issuer, derive, get_key, revoke
from tests.registry.support import BITS, MODEL, RECIPIENT, TinyModel
from verifier import sealed
from verifier.bundle import Bundle
from verifier.errors import VerifierError
from verifier.phi import commitment


def test_the_verifier_accepts_every_certificate_of_a_full_bundle(ready: Home, tmp_path: Path) -> None:
    with ready.database.write() as session:
        accounts.add_recipient(session, "bob@example.org")
    first = Issuer.open(ready, MODEL, RECIPIENT).issue(300)
    (bobs,) = Issuer.open(ready, MODEL, "bob@example.org").issue(1, expires_days=10)
    receipt = download(ready, bobs["copy_id"], tmp_path / "copy").receipt
    revoke(ready, first[0]["key_id"], "leaked")
    path = tmp_path / "full.bundle"
    export(ready, path, BundleOptions(with_keys=True, with_recipients=True))
    assert path.stat().st_mode & 0o777 == 0o600

    bundle = Bundle.open(path, trust=ready.identity.registry)
    bundle.verify()
    (model,) = bundle.models
    assert (model.name, model.bits, model.keys_issued) == (MODEL, BITS, 301)
    assert (model.screening_q, model.screening_images) == ("1e-5", 20)
    assert bundle.checkpoint.size == 304
    assert bundle.revocations[first[0]["key_id"]].reason == "leaked"
    records = bundle.records(model)
    for record in (*records[:3], *records[-3:]):
        bundle.certificate(model, record)
    assert bundle.certificate(model, records[300]).key_id == bobs["key_id"]
    assert bundle.recipient(model, records[300]) == "bob@example.org"
    assert bundle.recipient(model, records[0]) == RECIPIENT
    assert records[300]["copy_sha256"].tobytes().hex() == receipt["sha256"]
    assert not records[0]["copy_sha256"].any()

    with ready.database.read() as session:
        key = get_key(session, ready.identity.registry, bobs["key_id"])
        secret = generators.model_secret(ready.master, key.model)
    phi = bundle.phi(model)
    np.testing.assert_array_equal(phi[300], derive(ready, key))
    blinder = secret.blinders([key.row.key_id], [key.row.redraws])[0].tobytes()
    assert commitment(phi[300].tobytes(), blinder) == bobs["commitment"]


def test_a_public_bundle_has_no_keys(ready: Home, tmp_path: Path) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(2)
    path = tmp_path / "public.bundle"
    export(ready, path, BundleOptions())
    bundle = Bundle.open(path)
    bundle.verify()
    (model,) = bundle.models
    assert model.keys_issued == 2
    assert not bundle.has_keys(model)
    assert RECIPIENT.encode() not in path.read_bytes()


def test_recipients_are_disclosed_only_when_asked(ready: Home, tmp_path: Path) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(1)
    path = tmp_path / "keys.bundle"
    export(ready, path, BundleOptions(with_keys=True))
    bundle = Bundle.open(path)
    assert bundle.recipient(bundle.models[0], bundle.records(bundle.models[0])[0]) is None
    assert RECIPIENT.encode() not in path.read_bytes()


def test_one_model_of_several(ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    options = generators.SchemeOptions(bits=BITS)
    other = generators.add_model(ready, MODEL, "latent-diffusion", str(tiny.weights), options)
    path = tmp_path / "bundle"
    export(ready, path, BundleOptions())  # the second version is not trained yet
    assert [model.version for model in Bundle.open(path).models] == [1]
    with pytest.raises(StateError, match="tiny@2 has no attribution network"):
        export(ready, path, BundleOptions(model=MODEL))
    with ready.database.write() as session:
        generators.install_basis(session, ready.storage, other, tiny.basis)
        generators.install_network(session, ready.storage, other, tiny.network)
    Issuer.open(ready, MODEL, RECIPIENT).issue(3)
    Issuer.open(ready, "tiny@1", RECIPIENT).issue(2)
    export(ready, path, BundleOptions(with_keys=True))
    bundle = Bundle.open(path)
    assert [(model.version, model.keys_issued) for model in bundle.models] == [(1, 2), (2, 3)]
    for model in bundle.models:
        for record in bundle.records(model):
            bundle.certificate(model, record)
    export(ready, path, BundleOptions(model="tiny@1"))
    assert [model.version for model in Bundle.open(path).models] == [1]


def test_a_bundle_for_an_auditor_from_the_command_line(sqlite_ready: Home, tmp_path: Path) -> None:
    Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(3)
    public = sealed.new_key(tmp_path / "auditor")
    path, home = tmp_path / "bundle", str(sqlite_ready.settings.home)
    exported = [
        "bundle",
        "export",
        "--home",
        home,
        "--out",
        str(path),
        "--for",
        str(tmp_path / "auditor.pub"),
    ]
    assert CliRunner().invoke(cli, exported).exit_code != 0, "--for needs --with-keys"
    made = CliRunner().invoke(cli, [*exported, "--with-keys"])
    assert made.exit_code == 0, made.output
    assert f"Only the holders of {sealed.key_id(public)} can read its key table" in made.output
    bundle = Bundle.open(path, auditor=sealed.load_private(tmp_path / "auditor"))
    (model,) = bundle.models
    for record in bundle.records(model):
        bundle.certificate(model, record)
    closed = Bundle.open(path)
    with pytest.raises(VerifierError, match="encrypted to an auditor"):
        closed.phi(closed.models[0])


def test_bad_requests_write_nothing(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for options, said in (
        (BundleOptions(with_recipients=True), "needs --with-keys"),
        (BundleOptions(expires_days=0), "--expires-days 0"),
        (BundleOptions(model="none"), "no model none"),
    ):
        with pytest.raises(InputError, match=said):
            export(home, path, options)
    with pytest.raises(StateError, match="no model has an attribution network"):
        export(home, path, BundleOptions())
    with pytest.raises(InputError, match="is a folder"):
        export(home, tmp_path, BundleOptions())
    with pytest.raises(InputError, match="no such folder"):
        export(home, tmp_path / "none" / "bundle", BundleOptions())
    assert not path.exists()
