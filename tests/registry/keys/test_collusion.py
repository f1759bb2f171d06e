"""A collusion-resistant model: biased keys from issuing to the verdict, and what stays secret."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from registry.bundles.service import BundleOptions, export
from registry.cli import cli
from registry.errors import StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as keys
from registry.keys.service import Issuer
from registry.resolve import deciding
from registry.resolve.tables import KeyTables
from tests.registry.support import BITS, MODEL, RECIPIENT, TinyModel
from verifier import evidence, phi, sealed
from verifier.bundle import Bundle
from verifier.check import Verifier
from verifier.errors import TrustError
from verifier.network import Pose, Reading

NAME = "guarded"
QUANTA = 128


@pytest.fixture
def guarded(ready: Home, tiny: TinyModel) -> Model:
    options = generators.SchemeOptions(collusion_resistant=True)
    model = generators.add_model(ready, NAME, "latent-diffusion", str(tiny.weights), options)
    with ready.database.write() as session:
        generators.install_basis(session, ready.storage, model, tiny.basis)
        generators.install_network(session, ready.storage, model, tiny.network)
    return model


def named(home: Home, model: Model, logits: np.ndarray, alpha: float) -> list[int]:
    with home.database.read() as session:
        table = KeyTables().of(home, model, keys.count(session, model))
    reading = Reading(logits.astype(np.int32), Pose(0, 0, 1, 1), 1.0)
    plus = keys.probabilities(home.master, model)
    tests = deciding.weighted_tests([[reading]])
    return deciding.attributed(table, tests, alpha, 1.0, None, plus).named


def test_keys_are_biased_committed_to_and_found(ready: Home, guarded: Model) -> None:
    documents = Issuer.open(ready, NAME, RECIPIENT).issue(40)
    assert {document["scheme"] for document in documents} == {phi.BIASED}
    assert Issuer.open(ready, MODEL, RECIPIENT).issue(1)[0]["scheme"] == phi.SCHEME
    secret = generators.model_secret(ready.master, guarded)
    plus = keys.probabilities(ready.master, guarded)
    assert plus is not None
    with ready.database.read() as session:
        found = [keys.get_key(session, ready.identity.registry, document["key_id"]) for document in documents]
        for key, document in zip(found, documents, strict=True):
            bits, blinder = keys.derive(ready, key), secret.blinders([key.row.key_id], [key.row.redraws])[0]
            assert phi.commitment(bits.tobytes(), blinder.tobytes()) == document["commitment"]
    signs = phi.unpack(np.stack([keys.derive(ready, key) for key in found])).astype(np.int64)
    towards = np.where(plus > 0.5, 1, -1)
    assert (signs * towards).mean() > 0.4  # 0.577 on average
    assert named(ready, guarded, QUANTA * signs[7], 1e-3) == [found[7].row.id]
    # A reading of nothing but the biases points to every key a little, and accuses nobody.
    assert named(ready, guarded, QUANTA * towards, 1e-3) == []
    uniform = evidence.log10_tail(QUANTA * towards, int(QUANTA * (signs @ towards).max()))
    assert evidence.log10_tail(QUANTA * towards, int(QUANTA * (signs @ towards).max()), plus) > uniform + 1


def test_thresholds_of_the_screening_are_those_of_biased_keys_and_secret(ready: Home, guarded: Model) -> None:
    issuer = Issuer.open(ready, NAME, RECIPIENT)
    plus = keys.probabilities(ready.master, guarded)
    expected = evidence.score_at(issuer._screen.logits, -5.0, plus)
    assert issuer._screen.thresholds.tolist() == np.asarray(expected).tolist()
    keys._load_biased_screen.cache_clear()
    assert Issuer.open(ready, NAME, RECIPIENT)._screen.thresholds.tolist() == np.asarray(expected).tolist()
    with ready.database.read() as session:
        network = generators.network_name(generators.newest_network(session, guarded)).rpartition("/")[2]
    stored = ready.storage.read(f"screens/{network}-{keys.Q_TEXT}-{guarded.id}.sealed")
    assert issuer._screen.thresholds.tobytes()[:16] not in stored


@pytest.mark.usefixtures("guarded")
def test_a_bundle_tells_the_biases_to_whoever_has_the_keys(ready: Home, tmp_path: Path) -> None:
    Issuer.open(ready, NAME, RECIPIENT).issue(3)
    public = sealed.new_key(tmp_path / "auditor")
    path = tmp_path / "bundle"
    export(ready, path, BundleOptions(with_keys=True, model=NAME, auditors=[public]))
    with ready.database.read() as session:
        model = generators.get_model(session, NAME)
    biases = keys.biases(ready.master, model)
    assert biases is not None
    assert biases.tobytes() not in path.read_bytes()
    verifier = Verifier.from_bundle(path, auditor=sealed.load_private(tmp_path / "auditor"), device="cpu")
    plus = verifier._models[0].plus
    assert plus is not None
    assert (plus * 65536 == biases).all()
    logits = np.arange(BITS, dtype=np.int64)
    score = int(logits.sum()) - 20
    assert verifier._models[0].log10_p(logits, score) == pytest.approx(
        evidence.log10_tail(logits, score, plus) - np.log10(verifier._models[0].entry.acceptance)
    )
    export(ready, path, BundleOptions(model=NAME))
    with pytest.raises(TrustError, match="cannot be judged here"):
        Bundle.open(path).probabilities(Bundle.open(path).models[0])


def test_the_option_makes_a_version_of_its_own(sqlite_ready: Home, tiny: TinyModel) -> None:
    home = ["--home", str(sqlite_ready.settings.home)]
    arguments = ["model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", str(tiny.weights)]
    done = CliRunner().invoke(cli, [*arguments, "--collusion-resistant", "--json", *home])
    assert done.exit_code == 0, done.output
    assert '"collusion_resistant": true' in done.output
    again = CliRunner().invoke(cli, [*arguments, "--collusion-resistant", *home])
    assert isinstance(again.exception, StateError)
