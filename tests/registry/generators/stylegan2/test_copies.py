"""A StyleGAN2 model through the registry: registered, fingerprinted, issued, delivered, trained."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from registry.accounts import service as accounts
from registry.attribution import service as attribution
from registry.copies.service import download
from registry.errors import InputError
from registry.fingerprints import pca
from registry.fingerprints.basis import Basis
from registry.fingerprints.quality import psnr_db
from registry.generators import service as generators
from registry.generators.adapters import get_adapter
from registry.generators.models import Model
from registry.generators.sampling import sample_to_folder
from registry.generators.service import SchemeOptions
from registry.generators.stylegan2.checkpoints import WEIGHTS
from registry.generators.stylegan2.network import Synthesis
from registry.home import Home
from registry.keys.service import Issuer, derive, get_key
from tests.registry.generators.stylegan2.support import (
    LAYOUT,
    STYLE_DIM,
    make_model,
    make_state,
    orthonormal_rows,
)
from tests.registry.support import MODEL, RECIPIENT, write_network
from verifier.inspect import CERTIFICATE_METADATA, MANIFEST, MODEL_SIGNATURE
from verifier.phi import unpack

ADAPTER = get_adapter("stylegan2")
BITS = 16
STRENGTH = 0.3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stylegan2") / "550000.pt"
    torch.save({"g_ema": make_state()}, path)
    return path


def ready(home: Home, checkpoint: Path, work: Path, scheme: str) -> tuple[Model, Basis]:
    """Register the checkpoint with a basis of random rows and a network package."""
    model = generators.add_model(home, MODEL, "stylegan2", str(checkpoint), SchemeOptions(scheme))
    rows = orthonormal_rows(BITS)
    with home.storage.local(generators.base_name(model)) as folder:
        mean = ADAPTER.load(folder).sample_latents(500, seed=9).mean(0).numpy()
        replaced = ADAPTER.project(folder, rows, mean) if scheme == "pca-projected" else {}
        directions = ADAPTER.fold(folder, rows)
    basis = Basis(scheme, STRENGTH, 0, model.digest_text, directions, replaced=replaced)
    basis.save(work / "basis.safetensors")
    foreign = np.random.default_rng(0).integers(-128, 129, (20, BITS)).astype(np.int16)
    write_network(work / "network", basis.digest, foreign)
    with home.database.write() as session:
        generators.install_basis(session, home.storage, model, work / "basis.safetensors")
        generators.install_network(session, home.storage, model, work / "network")
        accounts.add_recipient(session, RECIPIENT)
    return model, basis


def deliver(home: Home, folder: Path) -> torch.Tensor:
    """Issue a copy and download it into ``folder``; the signs of its key (k,)."""
    (certificate,) = Issuer.open(home, MODEL, RECIPIENT).issue(1)
    download(home, certificate["copy_id"], folder)
    with home.database.read() as session:
        key = get_key(session, home.identity.registry, certificate["key_id"])
    return torch.from_numpy(unpack(derive(home, key))).float()


@pytest.mark.parametrize("scheme", ["pca", "pca-projected"])
def test_a_delivered_copy_is_an_ordinary_checkpoint_that_renders_the_edited_latents(
    sqlite_home: Home, checkpoint: Path, tmp_path: Path, scheme: str
) -> None:
    ready(sqlite_home, checkpoint, tmp_path, scheme)
    signs = deliver(sqlite_home, tmp_path / "copy")
    base = ADAPTER.load(make_model(tmp_path / "base"))
    w, V = base.sample_latents(4, seed=1), torch.from_numpy(orthonormal_rows(BITS))
    mean = base.sample_latents(500, seed=9).mean(0)
    kept = w - (w - mean) @ V.T @ V if scheme == "pca-projected" else w
    edited = base.render(kept + STRENGTH * signs @ V)

    ordinary = Synthesis(LAYOUT)
    ordinary.load_state_dict(load_file(tmp_path / "copy" / WEIGHTS), strict=True)
    with torch.no_grad():
        rendered = ((ordinary(w) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(rendered, edited, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(rendered, base.render(w), atol=0.01)

    ADAPTER.check(tmp_path / "copy")
    paths = sample_to_folder(tmp_path / "copy", 2, 1, tmp_path / "images")
    assert len(paths) == 2
    with pytest.raises(InputError, match="this is a copy"):
        generators.add_model(sqlite_home, "stolen", "stylegan2", str(tmp_path / "copy"))
    with pytest.raises(InputError, match="this is a copy"):
        generators.add_model(sqlite_home, "stolen", "stylegan2", str(tmp_path / "copy" / WEIGHTS))


def parts(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Metadata and the bytes of each tensor of a safetensors file, nothing between them left out."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata, data = header.pop("__metadata__"), content[8 + length :]
    assert sum(end - start for start, end in (entry["data_offsets"] for entry in header.values())) == len(
        data
    )
    return metadata, {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}


@pytest.mark.parametrize("scheme", ["pca", "pca-projected"])
def test_two_copies_differ_in_their_style_biases_and_certificates_only(
    sqlite_home: Home, checkpoint: Path, tmp_path: Path, scheme: str
) -> None:
    ready(sqlite_home, checkpoint, tmp_path, scheme)
    for name in ("ada", "bob"):
        deliver(sqlite_home, tmp_path / name)
    files = [sorted(path.name for path in (tmp_path / name).rglob("*")) for name in ("ada", "bob")]
    assert files == [sorted([WEIGHTS, MANIFEST, MODEL_SIGNATURE])] * 2
    (ada_metadata, ada), (bob_metadata, bob) = (parts(tmp_path / name / WEIGHTS) for name in ("ada", "bob"))
    differing = {name for name in ada if ada[name] != bob[name]}
    assert differing == {name for name in ada if name.endswith("modulation.bias")}
    assert {key for key in ada_metadata if ada_metadata[key] != bob_metadata[key]} == {CERTIFICATE_METADATA}
    _, base = parts(make_model(tmp_path / "base") / WEIGHTS)
    shared = {name for name in ada if ada[name] != base[name]} - differing
    projected = {name for name in ada if name.endswith("modulation.weight")}
    assert shared == (projected if scheme == "pca-projected" else set())


# What cannot work is refused when the model is added, not after hours of training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SchemeOptions("pca", bits=40), "the latent has 32 dimensions only"),
        (SchemeOptions("pca-projected", bits=40), "the latent has 32 dimensions only"),
        (SchemeOptions(bits=40), "the latent has 32 dimensions only"),
        (SchemeOptions(bits=16, shift=17), "the latent has 32 dimensions only"),
        (SchemeOptions(shift=8), "the latent has 32 dimensions only"),
        (SchemeOptions("fourier"), "--scheme fourier"),
    ],
)
def test_rows_that_the_latent_does_not_have_are_refused_at_once(
    sqlite_home: Home, checkpoint: Path, options: SchemeOptions, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        generators.add_model(sqlite_home, MODEL, "stylegan2", str(checkpoint), options)
    with sqlite_home.database.read() as session:
        assert generators.models(session) == []


def test_default_rows_are_the_last_ones_that_the_latent_has() -> None:
    assert pca.chosen_rows(512, None, None, ADAPTER.bits) == (64, 448)
    assert pca.chosen_rows(STYLE_DIM, None, None, ADAPTER.bits) == (32, 0)
    assert pca.chosen_rows(1024, None, None, get_adapter("latent-diffusion").bits) == (256, 768)
    assert pca.chosen_rows(512, 64, 100, 8) == (64, 100)
    with pytest.raises(InputError, match="too many for a PCA"):
        pca.chosen_rows(4 * 64 * 64, 64, None, 256)


def test_the_projected_scheme_is_refused_where_the_latent_is_no_style(
    sqlite_home: Home, request: pytest.FixtureRequest
) -> None:
    weights = request.getfixturevalue("tiny").weights
    with pytest.raises(InputError, match="pca-projected: not possible with this latent-diffusion"):
        generators.add_model(
            sqlite_home, MODEL, "latent-diffusion", str(weights), SchemeOptions("pca-projected")
        )


# Training


@pytest.fixture
def little_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer latents and images than a figure worth stating needs."""
    small = {"LATENTS": 300, "HELD_OUT": 100, "FIGURE_IMAGES": 8, "OWN_IMAGES": 4, "CALIBRATION_VIEWS": 1}
    for name, value in small.items():
        monkeypatch.setattr(attribution, name, value)


def add_and_train(home: Home, checkpoint: Path, work: Path, options: SchemeOptions) -> Model:
    model = generators.add_model(home, MODEL, "stylegan2", str(checkpoint), options)
    attribution.train(home.database, home.storage, model, data=None, steps=2, work=work)
    with home.database.write() as session:
        accounts.add_recipient(session, RECIPIENT)
        return generators.get_model(session, MODEL)


@pytest.mark.usefixtures("little_training")
def test_a_projected_model_is_trained_on_what_its_copies_render(
    sqlite_home: Home, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        attribution,
        "train_network",
        lambda source, *rest: seen.append(source) or train_network(source, *rest),
    )
    model = add_and_train(
        sqlite_home, checkpoint, tmp_path / "work", SchemeOptions("pca-projected", bits=8, psnr=22.0)
    )
    with sqlite_home.storage.local(generators.basis_name(model)) as path:
        basis = Basis.load(path)
    assert (basis.scheme, basis.bits, basis.shift) == ("pca-projected", 8, STYLE_DIM - 8)
    assert basis.quality["psnr_db"] == pytest.approx(22.0, abs=0.02)

    signs = deliver(sqlite_home, tmp_path / "copy")
    with sqlite_home.storage.local(generators.base_name(model)) as folder:
        base = ADAPTER.load(folder)
    copy, w = ADAPTER.load(tmp_path / "copy"), base.sample_latents(64, seed=77)
    assert float(psnr_db(copy.render(w), base.render(w)).mean()) == pytest.approx(22.0, abs=1.5)
    (source,) = seen
    trained_on = source.generator.render(w, source.basis.offsets(signs.expand(64, -1)))
    torch.testing.assert_close(trained_on, copy.render(w), atol=2e-5, rtol=1e-4)


train_network = attribution.train_network


@pytest.mark.usefixtures("little_training")
def test_a_quality_that_the_projection_alone_spoils_is_refused_before_training(
    sqlite_home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    options = SchemeOptions("pca-projected", bits=8, psnr=70.0)
    with pytest.raises(InputError, match="no strength gives 70"):
        add_and_train(sqlite_home, checkpoint, tmp_path / "work", options)
    assert not (tmp_path / "work" / "network.pt").exists()
