from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from registry.errors import InputError, IntegrityError, StateError
from registry.fingerprints.basis import Basis
from registry.generators import service
from registry.generators.export import export_model
from registry.home import Home
from registry.keys.service import Issuer
from registry.ledger import service as ledger
from tests.registry.support import BITS, MODEL, RECIPIENT, TinyModel, altered, write_network
from verifier import signing
from verifier.certificate import leaf
from verifier.merkle import leaf_hash

ADAPTER = "latent-diffusion"


def test_a_model_is_stored_committed_and_logged(home: Home, tiny: TinyModel) -> None:
    model = service.add_model(home, MODEL, ADAPTER, str(tiny.weights))
    assert model.label == "tiny@1"
    assert "unet/config.json" in home.storage.files(service.base_name(model))
    secret = service.model_secret(home.master, model)
    assert secret.commitment() == model.secret_commitment.hex()
    with home.database.read() as session:
        ((index, document),) = service.records(session, home.identity.registry)
        assert ledger.size(session) == 1
        stored = ledger.level_hashes(session, 0)
    assert index == model.ledger_index == 0
    body = signing.verify(document, home.identity.public, "hallmark/model/1")
    assert body["secret_commitment"] == secret.commitment()
    assert body["digest"] == model.digest_text
    assert stored == leaf_hash(leaf(document))


def test_the_same_model_is_refused_and_another_becomes_a_version(
    home: Home, tiny: TinyModel, tmp_path: Path
) -> None:
    service.add_model(home, MODEL, ADAPTER, str(tiny.weights))
    with pytest.raises(StateError, match="already registered as tiny@1"):
        service.add_model(home, MODEL, ADAPTER, str(tiny.weights))
    other = altered(tiny.weights, tmp_path / "other", "note.txt", b"retrained")
    assert service.add_model(home, MODEL, ADAPTER, str(other)).version == 2
    options = service.SchemeOptions(bits=64)
    assert service.add_model(home, MODEL, ADAPTER, str(tiny.weights), options).version == 3
    with home.database.read() as session:
        assert service.get_model(session, MODEL).version == 3
        assert service.get_model(session, "tiny@2").version == 2
        with pytest.raises(InputError, match="no model tiny@4"):
            service.get_model(session, "tiny@4")
        assert ledger.size(session) == 3


@pytest.mark.parametrize("name", ["", "Tiny", "a/b", "../x", "a@1", "-x", "x" * 64])
def test_bad_names_are_refused(sqlite_home: Home, tiny: TinyModel, name: str) -> None:
    with pytest.raises(InputError, match="no model name"):
        service.add_model(sqlite_home, name, ADAPTER, str(tiny.weights))


@pytest.mark.parametrize(
    "options",
    [
        service.SchemeOptions(bits=12),
        service.SchemeOptions(bits=0),
        service.SchemeOptions(bits=4096),
        service.SchemeOptions(strength=0.0),
        service.SchemeOptions(strength=float("nan")),
        service.SchemeOptions(psnr=300.0),
        service.SchemeOptions(psnr=34.0, strength=1.0),
        service.SchemeOptions(shift=-1),
    ],
)
def test_bad_options_are_refused(sqlite_home: Home, tiny: TinyModel, options: service.SchemeOptions) -> None:
    with pytest.raises(InputError):
        service.add_model(sqlite_home, MODEL, ADAPTER, str(tiny.weights), options)


def test_unusable_weights_leave_nothing(sqlite_home: Home, tiny: TinyModel, tmp_path: Path) -> None:
    file = "unet/diffusion_pytorch_model.safetensors"
    broken = altered(tiny.weights, tmp_path / "broken", file, b"\x08\0\0\0\0\0\0\0broken!!")
    for weights, said in (
        (broken, "safetensors"),
        (tmp_path / "none", "no such file"),
        (tmp_path, "first stage"),
    ):
        with pytest.raises(InputError, match=said):
            service.add_model(sqlite_home, MODEL, ADAPTER, str(weights))
    with pytest.raises(InputError, match="unknown adapter"):
        service.add_model(sqlite_home, MODEL, "nonsense", str(tiny.weights))
    with pytest.raises(InputError, match="unknown builtin"):
        service.add_model(sqlite_home, MODEL, ADAPTER, "builtin:nonsense@1")
    with sqlite_home.database.read() as session:
        assert list(service.models(session)) == []
    assert not sqlite_home.storage.exists("models")


def test_a_copy_is_no_base_model(sqlite_home: Home, tiny: TinyModel, tmp_path: Path) -> None:
    copy = altered(tiny.weights, tmp_path / "copy", "hallmark.json", b"{}")
    with pytest.raises(InputError, match="this is a copy"):
        service.add_model(sqlite_home, MODEL, ADAPTER, str(copy))


def test_a_basis_of_another_model_is_refused(home: Home, tiny: TinyModel, tmp_path: Path) -> None:
    other = altered(tiny.weights, tmp_path / "other", "note.txt", b"retrained")
    model = service.add_model(home, MODEL, ADAPTER, str(other))
    with home.database.write() as session, pytest.raises(InputError, match="another model"):
        service.install_basis(session, home.storage, model, tiny.basis)


def test_a_basis_is_final_once_a_key_was_issued(ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    stronger = Basis.load(tiny.basis).with_strength(2.0, {})
    stronger.save(tmp_path / "stronger.safetensors")
    weaker = Basis.load(tiny.basis).with_strength(0.1, {})
    weaker.save(tmp_path / "weaker.safetensors")
    with ready.database.write() as session:
        model = service.get_model(session, MODEL)
        service.install_basis(session, ready.storage, model, tmp_path / "stronger.safetensors")
        assert model.basis is not None
        assert model.basis.hex() == stronger.digest
        service.install_basis(session, ready.storage, model, tiny.basis)
    Issuer.open(ready, MODEL, RECIPIENT).issue(1)
    with ready.database.write() as session:
        model = service.get_model(session, MODEL)
        service.install_basis(session, ready.storage, model, tiny.basis)  # the same one: nothing to do
        with pytest.raises(StateError, match="therefore final"):
            service.install_basis(session, ready.storage, model, tmp_path / "weaker.safetensors")


def test_a_detached_model_can_be_trained(home: Home, tiny: TinyModel) -> None:
    """Training holds no transaction for hours: it installs into a session of its own."""
    model = service.add_model(home, MODEL, ADAPTER, str(tiny.weights))
    with home.database.write() as session:
        service.install_basis(session, home.storage, model, tiny.basis)
    with home.database.write() as session:
        service.install_network(session, home.storage, model, tiny.network)
    with home.database.read() as session:
        found = service.get_model(session, MODEL)
        assert found.basis_bits == BITS
        assert service.newest_network(session, found).foreign_images == 20


def test_networks_are_versioned_and_kept_once(ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    basis = Basis.load(tiny.basis).digest
    write_network(tmp_path / "better", basis, np.zeros((3, BITS), np.int16), seed=1)
    with ready.database.write() as session:
        model = service.get_model(session, MODEL)
        assert service.install_network(session, ready.storage, model, tiny.network).version == 1
        assert service.install_network(session, ready.storage, model, tmp_path / "better").version == 2
        assert [n.version for n in service.networks(session, model)] == [1, 2]
        assert service.newest_network(session, model).foreign_images == 3
        assert service.describe(session, model)["networks"][1]["foreign_images"] == 3


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("network.json", b"{", "not readable"),
        ("network.json", b'{"bits": 32, "basis": "00"}', "made for basis 00"),
        ("foreign.npz", b"junk", "foreign.npz"),
    ],
)
def test_a_damaged_package_is_refused(
    sqlite_ready: Home, tiny: TinyModel, tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    package = altered(tiny.network, tmp_path / "package", file, content)
    with sqlite_ready.database.write() as session, pytest.raises(InputError, match=said):
        service.install_network(session, sqlite_ready.storage, service.get_model(session, MODEL), package)


def test_a_missing_file_of_a_package_is_named(sqlite_ready: Home, tiny: TinyModel, tmp_path: Path) -> None:
    package = shutil.copytree(tiny.network, tmp_path / "package")
    (package / "network.onnx").unlink()
    with sqlite_ready.database.write() as session, pytest.raises(InputError, match=r"network\.onnx: missing"):
        service.install_network(session, sqlite_ready.storage, service.get_model(session, MODEL), package)


def test_a_swapped_secret_is_noticed(ready: Home) -> None:
    with ready.database.write() as session:
        model = service.get_model(session, MODEL)
        model.sealed_secret = ready.master.seal(bytes(32), "model-secret/tiny/1")
        with pytest.raises(IntegrityError, match="does not fit its commitment"):
            service.model_secret(ready.master, model)
        session.rollback()


def test_the_secret_is_nowhere_in_the_clear(sqlite_ready: Home) -> None:
    with sqlite_ready.database.read() as session:
        model = service.get_model(session, MODEL)
    secret = sqlite_ready.master.open(model.sealed_secret, "model-secret/tiny/1")
    for path in sqlite_ready.settings.home.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_export_writes_network_and_card(ready: Home, tmp_path: Path) -> None:
    export_model(ready, MODEL, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "network.json",
        "network.onnx",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "tiny@1" in card
    assert "| none | 0.750 | 5.0 | 6.2 |" in card


def test_an_untrained_model_says_what_to_do(home: Home, tiny: TinyModel, tmp_path: Path) -> None:
    service.add_model(home, MODEL, ADAPTER, str(tiny.weights))
    with pytest.raises(StateError) as caught:
        export_model(home, MODEL, tmp_path / "out")
    assert "registry model train tiny@1" in caught.value.diagnostics()
