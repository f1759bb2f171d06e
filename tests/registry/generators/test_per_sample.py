"""A batch under keys of its own equals one module for each key."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from registry.errors import InputError
from registry.generators.per_sample import per_sample
from registry.generators.train_latent_diffusion import new_autoencoder

NAMES = [
    "decoder.conv_in.bias",
    "decoder.conv_in.weight",
    "decoder.conv_out.weight",
    "decoder.up_blocks.1.resnets.0.norm1.weight",
    "decoder.up_blocks.1.resnets.0.norm1.bias",
    "decoder.mid_block.attentions.0.to_v.bias",
    "decoder.mid_block.attentions.0.to_out.0.weight",
    "post_quant_conv.bias",
]


@pytest.fixture(scope="module")
def stage() -> AutoencoderKL:
    torch.manual_seed(0)
    return new_autoencoder(16, (8, 16)).eval().requires_grad_(False)


@pytest.mark.parametrize("names", [[name] for name in NAMES] + [NAMES])
def test_each_sample_sees_its_own_weights(stage: AutoencoderKL, names: list[str]) -> None:
    rng = torch.Generator().manual_seed(1)
    state = stage.state_dict()
    z = torch.randn(3, 4, 8, 8, generator=rng)
    offsets = {name: 0.3 * torch.randn(3, *state[name].shape, generator=rng) for name in names}
    with per_sample(stage, offsets):
        together = stage.decode(z).sample
    for number in range(3):
        alone = copy.deepcopy(stage)
        changed = {name: state[name] + offsets[name][number] for name in names}
        alone.load_state_dict({**state, **changed})
        torch.testing.assert_close(
            together[number : number + 1], alone.decode(z[number : number + 1]).sample, atol=2e-5, rtol=1e-4
        )
    assert not torch.allclose(together, stage.decode(z).sample), "the hooks are gone afterwards"


def test_gradients_reach_the_offsets(stage: AutoencoderKL) -> None:
    offsets = torch.zeros(2, 16, requires_grad=True)
    with per_sample(stage, {"decoder.conv_in.bias": offsets}):
        stage.decode(torch.randn(2, 4, 8, 8)).sample.sum().backward()
    assert offsets.grad is not None
    assert offsets.grad.abs().sum() > 0


def test_unknown_parameters_and_layers_are_named(stage: AutoencoderKL) -> None:
    with (
        pytest.raises(InputError, match=r"nowhere\.bias"),
        per_sample(stage, {"nowhere.bias": torch.zeros(1, 3)}),
    ):
        pass
    norm = nn.Sequential(nn.LayerNorm(3))
    with (
        pytest.raises(InputError, match="LayerNorm"),
        per_sample(norm, {"0.weight": torch.zeros(1, 3)}),
    ):
        norm(torch.zeros(1, 3))
