import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from registry.attribution.removal import (
    averaged,
    fine_tune,
    forge,
    innocents,
    interleaved,
    pruned,
    regenerate,
    residual,
    suppress,
    to_half,
    to_int8,
)
from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter
from registry.generators.latent_diffusion import LatentDiffusion
from tests.registry.support import BITS, SIDE, TinyModel

RNG = torch.Generator().manual_seed(0)


@pytest.fixture
def generator(tiny: TinyModel) -> LatentDiffusion:
    loaded = get_adapter("latent-diffusion").load(tiny.weights)
    assert isinstance(loaded, LatentDiffusion)
    return loaded


@pytest.fixture(scope="module")
def basis(tiny: TinyModel) -> Basis:
    return Basis.load(tiny.basis)


@pytest.fixture(scope="module")
def several(basis: Basis) -> Basis:
    """A basis over three tensors."""
    rng = np.random.default_rng(0)
    directions = {("file", name): rng.standard_normal((BITS, 5)).astype(np.float32) for name in "abc"}
    return Basis("learned", 0.1, 0, "sha256:0", directions)


@pytest.fixture(scope="module")
def state(tiny: TinyModel) -> dict[str, torch.Tensor]:
    return load_file(tiny.weights / "vqvae" / "diffusion_pytorch_model.safetensors")


def keys(n: int) -> list[torch.Tensor]:
    return [torch.randint(0, 2, (1, BITS), generator=RNG).float() * 2 - 1 for _ in range(n)]


def test_regeneration_goes_through_the_autoencoder_at_its_own_size(generator: LatentDiffusion) -> None:
    images = torch.rand((3, 3, 2 * SIDE, 2 * SIDE), generator=RNG)
    once = regenerate(images, generator.first_stage)
    assert once.shape == images.shape
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.equal(once, regenerate(images, generator.first_stage))
    assert not torch.equal(once, regenerate(images, generator.first_stage, noise=0.5))


def test_one_image_with_its_base_gives_a_mark_that_does_not_depend_on_content_away() -> None:
    base, mark = torch.rand((4, 3, 8, 8), generator=RNG) * 0.5 + 0.2, torch.randn((3, 8, 8)) * 0.02
    assert torch.allclose(residual(base[:1] + mark, base[:1]), mark, atol=1e-6)
    estimated = residual(base[:2] + mark, base[2:])
    assert (estimated - mark).square().mean() > mark.square().mean(), "two others' content drowns it"
    others = torch.full((2, 3, 8, 8), 0.5)
    assert torch.allclose(forge(others, mark) - others, mark.expand(2, -1, -1, -1), atol=1e-6)
    assert forge(others, mark, gain=100).max() <= 1


def test_suppression_keeps_its_distance_and_turns_the_reading() -> None:
    weight = torch.randn((3 * 8 * 8, 16), generator=RNG)

    def network(images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5).flatten(1) @ weight

    images = 0.5 + 0.05 * torch.randn((4, 3, 8, 8), generator=RNG).clamp(-3, 3)
    before = network(images)
    for psnr in (40.0, 20.0):
        cleaned = suppress(network, images, psnr)
        error = (cleaned - images).square().flatten(1).mean(1).sqrt()
        assert (error <= 10 ** (-psnr / 20) * 1.001).all()
        assert cleaned.min() >= 0
        assert cleaned.max() <= 1
    assert ((network(cleaned) * before.sign()).sum(1) < 0).all(), "20 dB is room enough to turn it round"


def test_rounded_weights_are_near_and_on_the_grid(state: dict[str, torch.Tensor]) -> None:
    half, eight = to_half(state), to_int8(state)
    for name, tensor in state.items():
        assert half[name].dtype == eight[name].dtype == tensor.dtype
        assert torch.equal(half[name], tensor.half().float())
        rows = eight[name].flatten(1) if tensor.dim() > 1 else eight[name][None]
        assert all(len(row.unique()) <= 255 for row in rows)
        largest = tensor.abs().max()
        assert (eight[name] - tensor).abs().max() <= largest / 127


def test_pruning_removes_the_smallest_share(state: dict[str, torch.Tensor]) -> None:
    name = max(state, key=lambda name: state[name].numel())
    before, after = state[name], pruned(state, 0.3)[name]
    assert (after == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    assert before[~kept].abs().max() <= before[kept].abs().min()


def test_averaged_copies_are_the_copy_of_the_average(generator: LatentDiffusion, basis: Basis) -> None:
    signs = keys(3)
    (mixed,) = averaged(signs, basis).values()
    alone = [next(iter(basis.offsets(each).values())) for each in signs]
    torch.testing.assert_close(mixed, torch.stack(alone).mean(0))
    latents = torch.zeros((1, *generator.latent_shape))
    assert generator.render(latents, averaged(signs, basis)).shape == (1, 3, SIDE, SIDE)


def test_interleaved_copies_take_each_tensor_from_one_colluder(several: Basis) -> None:
    signs = keys(2)
    sources = set()
    for seed in range(10):
        mixed = interleaved(signs, several, torch.Generator().manual_seed(seed))
        for target, value in mixed.items():
            alone = [torch.equal(value, several.offsets(each)[target]) for each in signs]
            assert sum(alone) == 1
            sources.add((target, alone.index(True)))
    assert len(sources) == 6


def test_a_lone_tensor_is_interleaved_value_by_value(basis: Basis) -> None:
    signs = keys(2)
    (mixed,) = interleaved(signs, basis, torch.Generator().manual_seed(0)).values()
    first, second = (next(iter(basis.offsets(each).values())) for each in signs)
    assert ((mixed == first) | (mixed == second)).all()
    assert 0.2 < (mixed == first).float().mean() < 0.8


def test_fine_tuning_moves_the_decoder_and_lowers_its_error(generator: LatentDiffusion) -> None:
    stage = generator.first_stage
    photographs = torch.randint(0, 256, (20, 3, SIDE, SIDE), generator=RNG, dtype=torch.uint8)
    encoder = {name: value.clone() for name, value in stage.state_dict().items() if "encoder" in name}
    images = photographs.float() / 127.5 - 1
    latents = stage.encode(images).latent_dist.mean

    def error() -> float:
        return float((stage.decode(latents).sample - images).abs().mean())

    before = error()
    fine_tune(stage, photographs, steps=30, lr=3e-3, batch=8)
    assert error() < before
    assert all(torch.equal(value, stage.state_dict()[name]) for name, value in encoder.items())
    assert not any(parameter.requires_grad for parameter in stage.parameters())


def test_innocent_keys_are_fresh_signs() -> None:
    found = innocents(BITS, 1000)
    assert found.shape == (1000, BITS)
    assert set(np.unique(found)) == {-1, 1}
    assert abs(found.mean()) < 0.05
