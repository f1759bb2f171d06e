"""Directions learned on a tiny decoder: the closed form, then the copy in plain diffusers."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.fingerprints import learned
from registry.fingerprints.basis import Basis
from registry.fingerprints.learned import best_directions, filters_of, learn_directions
from registry.generators.adapters import Generator, get_adapter
from tests.registry.support import TinyModel


@pytest.fixture(scope="module")
def generator(tiny: TinyModel) -> Generator:
    return get_adapter("latent-diffusion").load(tiny.weights)


@pytest.fixture(scope="module")
def latents(generator: Generator) -> torch.Tensor:
    return torch.randn((60, *generator.latent_shape), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learned")


@pytest.fixture(scope="module")
def basis(tiny: TinyModel, generator: Generator, latents: torch.Tensor, work: Path) -> Basis:
    target = functools.partial(get_adapter("latent-diffusion").target, tiny.weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "NOISE_IMAGES", 64)
        patch.setattr(learned, "PARAMETERS", 120)
        return learn_directions(generator, target, "sha256:" + "0" * 64, latents, 16, work)


def test_the_leading_directions_have_most_signal_for_their_cost() -> None:
    rng = torch.Generator().manual_seed(1)
    gain = torch.linspace(1, 10, 12)
    noise = torch.diag(torch.rand(12, generator=rng) + 0.5)
    directions, filters = best_directions(torch.diag(gain), noise, torch.eye(12), 3)
    worth = (gain.square() / noise.diagonal()).argsort(descending=True)[:3]
    assert directions.abs().argmax(0).tolist() == worth.tolist()
    assert filters.abs().argmax(0).tolist() == worth.tolist()
    gram = directions.T @ directions
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_all_targets_are_ordinary_tensors_of_the_decoder(tiny: TinyModel, basis: Basis, work: Path) -> None:
    assert (basis.scheme, basis.bits) == ("learned", 16)
    assert len(json.loads(safe_open(work / learned.FILTERS, "pt").metadata()["names"])) == len(
        basis.directions
    )
    for (file, name), directions in basis.directions.items():
        stored = load_file(tiny.weights / file)[name]
        assert directions.shape == (16, *stored.shape)
        assert name.endswith((".bias", ".weight"))


def test_a_copy_is_an_ordinary_autoencoder_and_renders_its_key(
    tiny: TinyModel, generator: Generator, latents: torch.Tensor, basis: Basis, tmp_path: Path
) -> None:
    basis = basis.with_strength(0.01, {})
    adapter = get_adapter("latent-diffusion")
    adapter.prepare(tiny.weights, tmp_path / "copy", basis)
    signs = np.where(np.arange(16) % 3, 1, -1).astype(np.int8)
    for (file, name), delta in basis.deltas(signs).items():
        tensors = load_file(tmp_path / "copy" / file)
        tensors[name] = tensors[name] + torch.from_numpy(delta).float()
        save_file(tensors, tmp_path / "copy" / file, {"format": "pt"})
    (folder,) = {Path(file).parent for file, _ in basis.directions}
    stage = AutoencoderKL.from_pretrained(tmp_path / "copy" / folder)
    assert type(stage) is AutoencoderKL
    with torch.no_grad():
        alone = ((stage.decode(latents[:2]).sample + 1) / 2).clamp(0, 1)
        together = generator.render(latents[:2], basis.offsets(torch.from_numpy(signs).expand(2, -1)))
    # Normalisation by groups of one channel amplifies rounding in an untrained decoder.
    torch.testing.assert_close(alone, together, atol=2e-3, rtol=0)
    assert float((alone - generator.render(latents[:2])).abs().max()) > 2.5e-3


def test_jacobians_are_found_again(
    tiny: TinyModel,
    generator: Generator,
    latents: torch.Tensor,
    basis: Basis,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learned, "NOISE_IMAGES", 64)
    monkeypatch.setattr(learned, "PARAMETERS", 120)
    monkeypatch.setattr(learned, "_columns", lambda *_: pytest.fail("computed again"))
    target = functools.partial(get_adapter("latent-diffusion").target, tiny.weights)
    again = learn_directions(generator, target, basis.model_digest, latents, 16, work)
    assert again.digest == basis.digest


def test_a_basis_from_elsewhere_is_its_own_filter(
    generator: Generator,
    latents: torch.Tensor,
    basis: Basis,
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learned, "NOISE_IMAGES", 64)
    found, known = (filters_of(generator, basis, latents, folder) for folder in (tmp_path, work))
    assert found.names == known.names
    assert found.filters.shape == known.filters.shape
    torch.testing.assert_close(found.mean, known.mean)


def test_more_bits_than_parameters_are_refused(
    tiny: TinyModel, generator: Generator, latents: torch.Tensor, tmp_path: Path
) -> None:
    target = functools.partial(get_adapter("latent-diffusion").target, tiny.weights)
    with pytest.raises(InputError, match="--bits 4096"):
        learn_directions(generator, target, "sha256:0", latents, 4096, tmp_path)
