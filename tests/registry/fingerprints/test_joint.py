"""Directions trained together with their network: better read at the same quality, and resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from registry.attribution.pixel_network import PixelNetwork
from registry.attribution.training import READER, RenderedImages, new_network, read, whole
from registry.fingerprints import joint
from registry.fingerprints.basis import Basis
from registry.fingerprints.joint import train_jointly
from registry.fingerprints.quality import choose_strength, copy_psnr
from registry.generators.stylegan2.adapter import StyleGAN2
from registry.generators.stylegan2.checkpoints import WEIGHTS
from registry.generators.stylegan2.network import Layout, Synthesis
from tests.registry.support import interrupt

BITS, PSNR_DB = 8, 30.0


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    """Styles at a tenth: with random weights the content would otherwise cover every pattern."""
    torch.manual_seed(0)
    network = Synthesis(Layout(16, 2, (8, 8, 8))).requires_grad_(False)
    for name, values in network.named_parameters():
        if name.endswith("modulation.weight"):
            values.mul_(0.1)
    return StyleGAN2(network)


@pytest.fixture(scope="module")
def begin(generator: StyleGAN2) -> Basis:
    """Random directions of the constant input and of a bias."""
    rng = np.random.default_rng(0)
    shapes = {"input.input": (1, 8, 4, 4), "conv1.activate.bias": (8,)}
    directions = {
        (WEIGHTS, name): rng.standard_normal((BITS, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    basis = Basis("learned", 0.05, 0, "sha256:0", directions)
    return choose_strength(generator, basis, generator.sample_latents(64, seed=1), PSNR_DB)


@pytest.fixture(scope="module")
def trained(
    generator: StyleGAN2, begin: Basis, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Basis, Path]:
    work = tmp_path_factory.mktemp("joint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint, "SETTLING", 5)
        patch.setattr(joint, "PIXELS", 16 * generator.size**2)
        latents = generator.sample_latents(300, seed=2)
        return train_jointly(generator, begin, latents, PSNR_DB, 60, work), work


def test_the_quality_is_held(generator: StyleGAN2, trained: tuple[Basis, Path]) -> None:
    reached = copy_psnr(generator, trained[0], generator.sample_latents(64, seed=3)).mean()
    assert float(reached) == pytest.approx(PSNR_DB, abs=1.5)


def test_all_directions_have_moved_and_stay_in_their_tensors(
    begin: Basis, trained: tuple[Basis, Path]
) -> None:
    basis, _ = trained
    assert list(basis.directions) == list(begin.directions)
    assert basis.strength == begin.strength
    for target, values in basis.directions.items():
        assert values.shape == begin.directions[target].shape
        assert (np.abs(values - begin.directions[target]).reshape(BITS, -1).max(1) > 0).all()


def test_the_network_that_follows_begins_as_the_one_trained_with_the_directions(
    generator: StyleGAN2, trained: tuple[Basis, Path]
) -> None:
    basis, work = trained
    source = RenderedImages(generator, basis, generator.sample_latents(100, seed=4))
    network = new_network(source, work, most=1).eval()
    assert isinstance(network, PixelNetwork)
    for name, values in load_file(work / READER).items():
        torch.testing.assert_close(network.state_dict()[name], values)
    images, bits = source.draw(100, torch.Generator().manual_seed(1))
    logits = read(network, np.stack([whole(image, network.size) for image in images]))
    assert ((logits > 0) == (bits > 0)).float().mean() > 0.8


def test_an_interrupted_run_goes_on(
    generator: StyleGAN2, begin: Basis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "SETTLING", 1)
    monkeypatch.setattr(joint, "PIXELS", 8 * generator.size**2)
    latents = generator.sample_latents(40, seed=5)
    seen = interrupt(monkeypatch, joint, "attack", 3)
    with pytest.raises(KeyboardInterrupt):
        train_jointly(generator, begin, latents, PSNR_DB, 4, tmp_path)
    found = train_jointly(generator, begin, latents, PSNR_DB, 4, tmp_path)
    assert len(seen) == 3 + 2, "two steps were done before"
    assert found.digest != begin.digest
    assert train_jointly(generator, begin, latents, PSNR_DB, 4, tmp_path).digest == found.digest
