import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from registry.errors import InputError
from registry.fingerprints import learned_stylegan2
from registry.fingerprints.basis import Basis
from registry.fingerprints.learned_stylegan2 import best_patterns, carriers, learn_stylegan2
from registry.fingerprints.quality import choose_strength, random_signs
from registry.generators.adapters import get_adapter
from registry.generators.stylegan2.adapter import StyleGAN2
from registry.generators.stylegan2.checkpoints import WEIGHTS, save_model
from registry.generators.stylegan2.network import Layout, Synthesis
from tests.registry.generators.stylegan2.support import LAYOUT, make_state
from tests.registry.support import interrupt

ADAPTER = get_adapter("stylegan2")
BITS = 8
PSNR_DB = 30.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Styles at a tenth: with random weights the content would otherwise cover every pattern."""
    state = make_state()
    for name in state:
        if name.endswith("modulation.weight"):
            state[name] *= 0.1
    folder = tmp_path_factory.mktemp("stylegan2") / "model"
    save_model(state, folder)
    return folder


@pytest.fixture(scope="module")
def generator(model: Path) -> StyleGAN2:
    generator = ADAPTER.load(model)
    assert isinstance(generator, StyleGAN2)
    return generator


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def basis(model: Path, generator: StyleGAN2, work: Path) -> Basis:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_stylegan2, "FEW", 2)
        patch.setattr(learned_stylegan2, "MANY", 6)
        patch.setattr(learned_stylegan2, "CONTENT_IMAGES", 64)
        patch.setattr(learned_stylegan2, "JOINT_STEPS", 2)
        latents = generator.sample_latents(200, seed=1)
        directions = ADAPTER.learn(model, generator, latents, "sha256:0", BITS, PSNR_DB, work)
    return choose_strength(generator, directions, generator.sample_latents(32, seed=2), PSNR_DB)


def test_directions_solve_the_generalised_eigenproblem() -> None:
    rng = torch.Generator().manual_seed(0)
    pattern = torch.randn((6, 40), generator=rng)
    jacobian = torch.randn((6, 50), generator=rng)
    content = torch.randn((30, 40), generator=rng)
    content -= content.mean(0)
    distortion = jacobian @ jacobian.T
    covariance = content.T @ content / 30 + learned_stylegan2.NOISE_FLOOR**2 * torch.eye(40)
    signal = (pattern.double() @ torch.linalg.solve(covariance.double(), pattern.T.double())).numpy()
    metric = (distortion + 0.5 * distortion.diagonal().diag()).double().numpy() / 1.5
    values = np.linalg.eigvals(np.linalg.solve(metric, signal)).real
    found = best_patterns(pattern, distortion, content, 4, ridge=0.5).double().numpy()
    np.testing.assert_allclose(found.T @ metric @ found, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(
        found.T @ signal @ found, np.diag(np.sort(values)[::-1][:4]), rtol=1e-4, atol=1e-4 * values.max()
    )


def evidence_per_cost(generator: StyleGAN2, basis: Basis) -> np.ndarray:
    """For each bit, on latents the basis has not seen: squared distance that its pattern stands out of the
    content's spread, by squared error of the image.
    """
    latents = generator.sample_latents(300, seed=3)
    with torch.no_grad():
        base = generator.render(latents).flatten(1).double()
        spread = torch.cov(base.T) + 0.02**2 * torch.eye(base.shape[1], dtype=torch.float64)
        found = []
        for bit in range(basis.bits):
            offsets = {
                target: basis.strength * torch.from_numpy(values[bit]).expand(40, *values.shape[1:])
                for target, values in basis.directions.items()
            }
            moved = generator.render(latents[:40], offsets).flatten(1).double() - base[:40]
            pattern = moved.mean(0)
            distance = pattern @ torch.linalg.solve(spread, pattern)
            found.append(float(distance / moved.square().sum(1).mean()))
    return np.array(found)


def test_they_stand_out_more_than_random_directions_of_the_same_tensors(
    generator: StyleGAN2, basis: Basis
) -> None:
    rng = np.random.default_rng(0)
    drawn = {
        target: rng.standard_normal(values.shape).astype(np.float32)
        for target, values in basis.directions.items()
    }
    random = Basis("learned", 0.01, 0, "sha256:0", drawn)
    random = choose_strength(generator, random, generator.sample_latents(32, seed=2), PSNR_DB)
    ours, theirs = evidence_per_cost(generator, basis), evidence_per_cost(generator, random)
    assert ours.min() > theirs.max(), (ours, theirs)
    assert np.median(ours) > 2 * np.median(theirs), (ours, theirs)


def test_its_bits_are_read_from_images_of_unseen_latents_and_keys(generator: StyleGAN2, basis: Basis) -> None:
    latents, signs = generator.sample_latents(500, seed=3), random_signs(500, BITS, seed=4)
    with torch.no_grad():
        images = generator.render(latents, basis.offsets(signs)).flatten(1).double()
    seen, target = images[:300] - images[:300].mean(0), signs[:300].double()
    gram = seen @ seen.T + 300 * 0.02**2 * torch.eye(300, dtype=torch.float64)
    guessed = (images[300:] - images[:300].mean(0)) @ seen.T @ torch.linalg.solve(gram, target)
    assert float(((guessed > 0) == (signs[300:] > 0)).double().mean()) > 0.95


def test_every_bit_costs_what_was_promised(generator: StyleGAN2, basis: Basis) -> None:
    latents = generator.sample_latents(64, seed=5)
    pixels = 3 * generator.size**2
    expected = math.sqrt(pixels * 10 ** (-PSNR_DB / 10) / BITS)
    with torch.no_grad():
        base = generator.render(latents)
        for bit in range(BITS):
            offsets = {
                target: basis.strength * torch.from_numpy(values[bit]).expand(64, *values.shape[1:])
                for target, values in basis.directions.items()
            }
            moved = (generator.render(latents, offsets) - base).flatten(1)
            assert float(moved.square().sum(1).mean().sqrt()) == pytest.approx(expected, rel=0.4)


def test_a_copy_is_an_ordinary_checkpoint_that_differs_in_biases_and_the_constant_input(
    model: Path, generator: StyleGAN2, basis: Basis, tmp_path: Path
) -> None:
    ADAPTER.prepare(model, tmp_path / "template", basis)
    state = load_file(tmp_path / "template" / WEIGHTS)
    signs = np.where(random_signs(1, BITS, 6)[0].numpy() > 0, 1, -1).astype(np.int8)
    for (file, name), delta in basis.deltas(signs).items():
        assert file == WEIGHTS
        assert name == "input.input" or (name.endswith(".bias") and not name.startswith("style."))
        state[name] = (state[name].double() + torch.from_numpy(delta)).float()
    ordinary = Synthesis(LAYOUT).requires_grad_(False)
    ordinary.load_state_dict(state, strict=True)
    w = generator.sample_latents(3, seed=7)
    offsets = basis.offsets(torch.from_numpy(signs).expand(3, -1))
    theirs = generator.render(w, offsets)
    torch.testing.assert_close(((ordinary(w) + 1) / 2).clamp(0, 1), theirs, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(theirs, generator.render(w), atol=1e-2)


def test_an_interrupted_run_continues_to_the_same_basis(
    generator: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_stylegan2, "PARAMETERS", 64)
    monkeypatch.setattr(learned_stylegan2, "MANY", 4)
    monkeypatch.setattr(learned_stylegan2, "CONTENT_IMAGES", 16)
    monkeypatch.setattr(learned_stylegan2, "JOINT_STEPS", 2)
    latents = generator.sample_latents(40, seed=1)

    def learn(work: Path) -> Basis:
        work.mkdir(exist_ok=True)
        return learn_stylegan2(generator, WEIGHTS, "sha256:0", latents, 8, PSNR_DB, work)

    whole = learn(tmp_path / "whole")
    seen = interrupt(monkeypatch, learned_stylegan2, "_difference", 6)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "stopped")
    assert learn(tmp_path / "stopped").digest == whole.digest
    assert len(seen) == 4 + 4 + 1, "what was done is not done again"


def test_carriers_stay_within_their_number() -> None:
    with torch.device("meta"):
        network = Synthesis(Layout.config_f(1024))
    found = dict(carriers(network, 4096))
    assert found["input.input"] == (1, 128, 4, 4)
    assert sum(shape.numel() for shape in found.values()) <= 4096
    assert "conv1.activate.bias" in found
    small = Synthesis(LAYOUT)
    every = dict(carriers(small, 4096))
    known = {name for name in make_state() if name.endswith(".bias") and not name.startswith("style.")}
    assert set(every) == known | {"input.input"}
    assert every["input.input"] == small.input.input.shape


def test_large_images_are_reduced_and_part_of_the_constant_input_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PARAMETERS": 96, "FEW": 1, "MANY": 1, "CONTENT_IMAGES": 4, "JOINT_STEPS": 1}.items():
        monkeypatch.setattr(learned_stylegan2, name, value)
    network = Synthesis(Layout(16, 1, (8, 6, 6, 4, 4, 4))).requires_grad_(False)
    large = StyleGAN2(network)
    found = learn_stylegan2(large, WEIGHTS, "sha256:0", large.sample_latents(8, seed=0), 8, PSNR_DB, tmp_path)
    constant = found.directions[WEIGHTS, "input.input"]
    assert constant.shape == (8, 1, 8, 4, 4)
    assert (constant[:, :, 3:] == 0).all()
    assert (constant[:, :, :3] != 0).any()
    assert large.size == 128
    assert load_file(tmp_path / "learned-few.safetensors")["J"].shape[1] == 3 * 64 * 64


def test_more_bits_than_carriers_are_refused(generator: StyleGAN2, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--bits 4096"):
        learn_stylegan2(
            generator, WEIGHTS, "sha256:0", generator.sample_latents(2, seed=0), 4096, PSNR_DB, tmp_path
        )
