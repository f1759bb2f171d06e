"""Text-to-image pipelines, with a text encoder of some hundred parameters."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline

from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.generators.latent_diffusion import STEPS, LatentDiffusionAdapter, noise_seed
from registry.generators.latent_diffusion.samplers import read_prompts
from tests.registry.generators import diffusers_folders as folders

ADAPTER = LatentDiffusionAdapter()
PROMPTS = ["a", "b"]
VOCABULARY = ("<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b")


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion layout that diffusers can run."""
    work = tmp_path_factory.mktemp("text")
    folder = folders.make_stable_diffusion(work / "model")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    (work / "tokens").mkdir()
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    (work / "tokens" / "vocab.json").write_text(json.dumps(vocabulary))
    (work / "tokens" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(work / "tokens", model_max_length=8)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder


def test_sampling_agrees_with_diffusers_own_pipeline(stable: Path) -> None:
    ADAPTER.check(stable)
    generator = ADAPTER.load(stable)
    assert generator.sampling_obstacle() is None
    assert generator.slow_sampling
    latents = generator.sample_latents(2, seed=1)
    for index, ours in enumerate(generator.render(latents)):
        seed = noise_seed(1, index)
        (theirs,) = DiffusionPipeline.from_pretrained(stable)(
            prompt=PROMPTS[seed % 2], generator=torch.Generator().manual_seed(seed), height=32, width=32,
            num_inference_steps=STEPS, output_type="np",
        ).images  # fmt: skip
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), theirs, atol=1e-4)


def test_a_copy_draws_the_latents_of_its_base(stable: Path, tmp_path: Path) -> None:
    rows = np.eye(64, dtype=np.float32)[:16].reshape(16, 4, 4, 4)
    basis = Basis("pca", 1.0, 0, "sha256:0", ADAPTER.fold(stable, rows))
    ADAPTER.prepare(stable, tmp_path / "template", basis)
    drawn = [ADAPTER.load(folder).sample_latents(1, seed=1) for folder in (stable, tmp_path / "template")]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-4, atol=1e-3)


def test_half_precision_alone_is_sampled(stable: Path, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(stable).to(torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16")
    ADAPTER.check(tmp_path)
    assert ADAPTER.load(tmp_path).sample_latents(1, seed=1).shape == (1, 4, 4, 4)


def test_without_transformers_the_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders.make_stable_diffusion(tmp_path / "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    generator = ADAPTER.load(folder)
    obstacle = generator.sampling_obstacle()
    assert obstacle is not None
    assert "hallmark[text]" in obstacle.hint
    assert "--data PHOTOS" in obstacle.hint
    with pytest.raises(InputError, match="needs transformers"):
        generator.sample(1, seed=0)


def test_prompts_are_lines(tmp_path: Path) -> None:
    assert read_prompts(tmp_path) == [""]
    (tmp_path / "prompts.txt").write_text(" a rose\n\nein Gänseblümchen \n", encoding="utf-8")
    assert read_prompts(tmp_path) == ["a rose", "ein Gänseblümchen"]
    (tmp_path / "prompts.txt").write_text("\n")
    with pytest.raises(InputError, match=r"prompts.txt: no prompt in it"):
        read_prompts(tmp_path)
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not readable as UTF-8"):
        read_prompts(tmp_path)
