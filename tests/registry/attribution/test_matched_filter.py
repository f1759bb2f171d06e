"""The written-out backward pass equals automatic differentiation, and the network exports as it computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from registry.attribution.export import write_package
from registry.attribution.matched_filter import (
    Filters,
    MatchedFilterNetwork,
    Pullback,
    high_pass,
    read_parameters,
    statistics,
)
from registry.generators.per_sample import per_sample
from registry.generators.train_latent_diffusion import new_autoencoder
from verifier.network import Network

SIZE = 16


@pytest.fixture(scope="module")
def stage() -> AutoencoderKL:
    torch.manual_seed(0)
    return new_autoencoder(SIZE, (8, 16, 16)).eval().requires_grad_(False)


def pixels(n: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, SIZE, SIZE, 3), generator=rng, dtype=torch.uint8)


def test_statistics_are_the_gradients_of_every_parameter(stage: AutoencoderKL) -> None:
    rng = torch.Generator().manual_seed(2)
    z = torch.randn(3, 4, 4, 4, generator=rng)
    pullback = Pullback(stage.decoder)
    image = pullback.forward(stage.post_quant_conv(z))
    torch.testing.assert_close(image, stage.decode(z).sample)
    cotangent = torch.randn(image.shape, generator=rng)
    found = pullback.backward(cotangent)
    offsets = {n: torch.zeros(3, *stage.get_parameter(n).shape, requires_grad=True) for n in found}
    with per_sample(stage, offsets):
        objective = (stage.decode(z).sample * cotangent).sum()
    expected = torch.autograd.grad(objective, list(offsets.values()))
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for name, gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=1e-3)


def test_parameters_are_taken_from_the_output_on(stage: AutoencoderKL) -> None:
    names = read_parameters(stage, 40)
    assert names[0] == "decoder.conv_out.bias"
    assert sum(stage.get_parameter(name).numel() for name in names) <= 40
    assert len(read_parameters(stage, 10_000)) > len(names)


def test_a_filter_passes_edges_and_stops_planes() -> None:
    plane = torch.full((1, 3, 8, 8), 0.7)
    assert float(high_pass(plane).abs().max()) < 1e-6
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    torch.testing.assert_close(high_pass(checkers), checkers)


def test_statistics_do_not_depend_on_the_residuals_size(stage: AutoencoderKL) -> None:
    names = read_parameters(stage, 10_000)
    doubled = statistics(stage, names, pixels(2), lambda _, residual: 2 * high_pass(residual))
    torch.testing.assert_close(doubled, statistics(stage, names, pixels(2)), atol=1e-5, rtol=1e-3)


def test_the_exported_network_reads_the_same(stage: AutoencoderKL, tmp_path: Path) -> None:
    names = tuple(read_parameters(stage, 10_000))
    found = statistics(stage, names, pixels(8))
    directions = torch.randn(found.shape[1], 8, generator=torch.Generator().manual_seed(3))
    spread = found.std(0).clamp_min(1e-2 * float(found.std()))
    network = MatchedFilterNetwork(stage, Filters(names, found.mean(0), spread, directions), SIZE)
    network.eval()
    write_package(network, tmp_path, "ab" * 32, {})
    with torch.no_grad():
        expected = network(pixels(4)).numpy()
    package = Network.load(tmp_path, device="cpu")
    np.testing.assert_allclose(package.logits(pixels(4).numpy()), expected, atol=2e-3)


def test_training_leaves_the_autoencoder_alone(stage: AutoencoderKL) -> None:
    names = tuple(read_parameters(stage, 10_000))
    found = statistics(stage, names, pixels(4))
    filters = Filters(names, found.mean(0), torch.ones(found.shape[1]), torch.zeros(found.shape[1], 8))
    network = MatchedFilterNetwork(stage, filters, SIZE).train()
    network(pixels(2)).sum().backward()
    assert all(p.grad is None for p in network.first_stage.parameters())
    assert network.head.weight.grad is not None
    assert not network.first_stage.training
