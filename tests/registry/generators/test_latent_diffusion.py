import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter, to_images
from registry.generators.latent_diffusion import STEPS, LatentDiffusion, noise_seed
from tests.registry.support import SIDE, TinyModel

ADAPTER = get_adapter("latent-diffusion")
STAGE = "vqvae/diffusion_pytorch_model.safetensors"


def load(folder: Path) -> LatentDiffusion:
    generator = ADAPTER.load(folder)
    assert isinstance(generator, LatentDiffusion)
    return generator


@pytest.fixture
def copied(tiny: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.weights, tmp_path / "model"))


def test_an_unknown_adapter_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError) as raised:
        get_adapter("stylegan7")
    assert "latent-diffusion" in raised.value.hint


def test_sampling_is_determined_by_the_seed_and_not_by_how_many(tiny: TinyModel) -> None:
    generator = load(tiny.weights)
    three, two = generator.sample_latents(3, seed=5), generator.sample_latents(2, seed=5)
    assert three.shape == (3, *generator.latent_shape)
    torch.testing.assert_close(three[:2], two)
    assert not torch.allclose(three[:2], generator.sample_latents(2, seed=6))
    assert [image.size for image in generator.sample(2, seed=5)] == [(SIDE, SIDE)] * 2


def test_the_sampler_agrees_with_diffusers_own_pipeline(tiny: TinyModel) -> None:
    generator = load(tiny.weights)
    noise = torch.Generator().manual_seed(noise_seed(7, 0))
    pipeline = DiffusionPipeline.from_pretrained(tiny.weights)
    (theirs,) = pipeline(batch_size=1, num_inference_steps=STEPS, generator=noise, output_type="np").images
    (ours,) = generator.render(generator.sample_latents(1, seed=7)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_template_renders_as_its_base_and_its_tensor_shifts_the_latent(
    tiny: TinyModel, tmp_path: Path
) -> None:
    ADAPTER.prepare(tiny.weights, tmp_path / "template", Basis.load(tiny.basis))
    base, template = load(tiny.weights), load(tmp_path / "template")
    latents = base.sample_latents(2, seed=1)
    assert torch.equal(base.render(latents), template.render(latents))

    signs = np.where(np.arange(Basis.load(tiny.basis).bits) % 3, 1, -1).astype(np.int8)
    ((file, name), delta) = Basis.load(tiny.basis).deltas(signs).popitem()
    offset = torch.from_numpy(delta).float()
    tensors = load_file(tmp_path / "template" / file)
    save_file({**tensors, name: tensors[name] + offset}, tmp_path / "template" / file, {"format": "pt"})
    marked = load(tmp_path / "template").render(latents)
    torch.testing.assert_close(marked, base.render(latents, {(file, name): offset.expand(2, -1, -1, -1)}))
    assert not torch.allclose(marked, base.render(latents))


def test_a_template_loads_with_diffusers_alone(tiny: TinyModel, tmp_path: Path) -> None:
    ADAPTER.prepare(tiny.weights, tmp_path / "template", Basis.load(tiny.basis))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "template", trust_remote_code=True)
    assert type(pipeline.vqvae).__name__ == "FingerprintedAutoencoderKL"
    assert pipeline.vqvae.fingerprint.shape == (4, SIDE // 4, SIDE // 4)


def test_pixels_are_rounded_to_the_nearest_level() -> None:
    (image,) = to_images(torch.full((1, 3, 2, 2), 100.6 / 255))
    assert image.getpixel((0, 0)) == (101, 101, 101)


def without_first_stage(model: Path) -> str:
    shutil.rmtree(model / "vqvae")
    return "no first stage"


def without_unet_weights(model: Path) -> str:
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    return "unet/diffusion_pytorch_model.safetensors: missing"


def truncated(model: Path) -> str:
    content = (model / STAGE).read_bytes()
    (model / STAGE).write_bytes(content[: len(content) // 2])
    return "not a sound safetensors file"


def with_nan(model: Path) -> str:
    tensors = load_file(model / STAGE)
    tensors["decoder.conv_in.bias"][0] = float("nan")
    save_file(tensors, model / STAGE, {"format": "pt"})
    return "decoder.conv_in.bias holds NaN"


def misshapen(model: Path) -> str:
    tensors = load_file(model / STAGE)
    tensors["decoder.conv_in.bias"] = torch.zeros(3)
    save_file(tensors, model / STAGE, {"format": "pt"})
    return "decoder.conv_in.bias"


def of_another_class(model: Path) -> str:
    config = json.loads((model / "vqvae" / "config.json").read_text())
    (model / "vqvae" / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderTiny"}))
    return "AutoencoderTiny"


def with_unknown_scheduler(model: Path) -> str:
    (model / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "AutoencoderKL"}')
    return "unknown scheduler class"


def with_broken_json(model: Path) -> str:
    (model / "vqvae" / "config.json").write_text("{")
    return "not readable as JSON"


def with_a_pickle(model: Path) -> str:
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    return "refused"


@pytest.mark.parametrize(
    "damage",
    [
        without_first_stage, without_unet_weights, truncated, with_nan, misshapen, of_another_class,
        with_unknown_scheduler, with_broken_json, with_a_pickle,
    ],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_damaged_weights_are_refused_with_what_is_wrong(copied: Path, damage: Callable[[Path], str]) -> None:
    ADAPTER.check(copied)
    reason = damage(copied)
    with pytest.raises(InputError, match=reason):
        ADAPTER.check(copied)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match="not a folder"):
        ADAPTER.check(path)
