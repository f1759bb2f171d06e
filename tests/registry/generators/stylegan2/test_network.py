import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.generators.per_sample import per_sample
from registry.generators.stylegan2.adapter import StyleGAN2Adapter
from registry.generators.stylegan2.network import Layout, Synthesis
from tests.registry.generators.stylegan2.support import LAYOUT, make_state

GOLDEN = Path(__file__).parents[3] / "interop" / "stylegan2"
"""What rosinality's public implementation computes, for weights that are generated from their names."""


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def golden_state() -> dict[str, torch.Tensor]:
    shapes = json.loads((GOLDEN / "golden32.json").read_text())["state_dict"]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    state = {}
    for name, shape in shapes.items():
        if name.endswith("kernel"):
            state[name] = torch.outer(taps, taps) / 64 * 4
            continue
        tensor = fill(name, tuple(shape))
        if name.endswith("modulation.bias"):
            tensor = 0.1 * tensor + 1
        elif name.endswith("noise.weight") or (name.endswith("bias") and "modulation" not in name):
            tensor = 0.1 * tensor
        state[name] = 100 * tensor if name.startswith("style.") else tensor
    return state


def test_a_checkpoint_of_the_public_implementation_gives_its_latents_and_images(tmp_path: Path) -> None:
    golden = np.load(GOLDEN / "golden32.npz")
    torch.save({"g_ema": golden_state(), "latent_avg": torch.zeros(512)}, tmp_path / "golden32.pt")
    adapter = StyleGAN2Adapter()
    folder = adapter.import_weights(tmp_path / "golden32.pt", tmp_path)
    adapter.check(folder)
    generator = adapter.load(folder)
    assert (generator.size, generator.latent_shape) == (32, (512,))
    z = fill("golden.z.32", (4, 512))
    np.testing.assert_array_equal(z, golden["z"])
    w = generator.network.mapping(z)
    np.testing.assert_allclose(w, golden["w"], atol=1e-4)
    np.testing.assert_allclose(generator.network(w), golden["image"], atol=1e-4)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("size", [32, 256, 1024])
def test_published_configurations_are_read_off_their_tensors(size: int, multiplier: int) -> None:
    layout = Layout.config_f(size, multiplier)
    with torch.device("meta"):
        state = Synthesis(layout).state_dict()
    assert Layout.of(state) == layout
    assert layout.size == size
    assert len([name for name in state if name.startswith("noises.")]) == 2 * len(layout.channels) - 1


def test_parameters_of_the_published_configuration_at_1024_pixels() -> None:
    with torch.device("meta"):
        network = Synthesis(Layout.config_f(1024))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sum(count.values()) == 30_370_060  # as rosinality's Generator(1024, 512, 8) counts them
    assert count["style"] == 8 * (512 * 512 + 512)


def test_one_latent_for_each_layer_may_be_given() -> None:
    network = Synthesis(LAYOUT)
    network.load_state_dict(make_state())
    w = network.mapping(torch.randn((2, LAYOUT.style_dim), generator=torch.Generator().manual_seed(0)))
    layers = 2 * len(LAYOUT.channels)
    each = w[:, None].expand(-1, layers, -1).clone()
    torch.testing.assert_close(network(each), network(w))
    each[:, -1] = 0
    assert not torch.allclose(network(each), network(w))


CARRIERS = [
    "input.input",
    "conv1.activate.bias",
    "convs.3.activate.bias",
    "to_rgb1.bias",
    "to_rgbs.2.bias",
    "convs.0.conv.modulation.bias",
]


@pytest.mark.parametrize("names", [[name] for name in CARRIERS] + [CARRIERS])
def test_each_sample_sees_its_own_weights(names: list[str]) -> None:
    rng = torch.Generator().manual_seed(1)
    state = make_state()
    network = Synthesis(LAYOUT).requires_grad_(False)
    network.load_state_dict(state)
    w = network.mapping(torch.randn((3, LAYOUT.style_dim), generator=rng))
    offsets = {name: 0.3 * torch.randn((3, *state[name].shape), generator=rng) for name in names}
    leaves = {name: offset.clone().requires_grad_() for name, offset in offsets.items()}
    with per_sample(network, leaves):
        together = network(w)
    for number in range(3):
        alone = Synthesis(LAYOUT).requires_grad_(False)
        alone.load_state_dict({**state, **{name: state[name] + offsets[name][number] for name in names}})
        torch.testing.assert_close(
            together[number : number + 1], alone(w[number : number + 1]), atol=2e-5, rtol=1e-4
        )
    assert not torch.allclose(together, network(w)), "the hooks are gone afterwards"
    together.square().sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.abs().amax() > 0, name
