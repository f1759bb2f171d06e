"""Small real diffusers folders of every layout, with random weights, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMPipeline,
    ModelMixin,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors.torch import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIXELS = 32


def autoencoder(**changes: Any) -> AutoencoderKL:
    """f = 8: images of 32 pixels, latents 4 x 4 x 4."""
    return AutoencoderKL(**{**_stage(4), "latent_channels": 4, "sample_size": PIXELS, **changes})


def quantised(**changes: Any) -> VQModel:
    """f = 4: images of 32 pixels, latents 3 x 8 x 8 out of 32 codes."""
    options = {**_stage(3), "latent_channels": 3, "sample_size": PIXELS, "num_vq_embeddings": 32, **changes}
    model = VQModel(**options)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


def _stage(stages: int) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * stages,
        "up_block_types": ("UpDecoderBlock2D",) * stages,
        "block_out_channels": (8,) * stages,
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }


def unconditional_unet(channels: int, side: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        attention_head_dim=8,
    )


def text_unet(**changes: Any) -> UNet2DConditionModel:
    options = {
        "sample_size": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**options, **changes})


def make_vq_pipeline(folder: Path) -> Path:
    """vqvae/ unet/ scheduler/: an unconditional ``LDMPipeline`` as CompVis published them."""
    torch.manual_seed(1)
    pipeline = LDMPipeline(quantised(), unconditional_unet(3, 8), DDIMScheduler(clip_sample=False))
    pipeline.save_pretrained(folder)
    return folder


def make_bare(folder: Path, **changes: Any) -> Path:
    """A first stage alone."""
    torch.manual_seed(2)
    autoencoder(**changes).save_pretrained(folder)
    return folder


def make_stable_diffusion(folder: Path) -> Path:
    """vae/ unet/ scheduler/ text_encoder/ tokenizer/, the vae's own ``sample_size`` being of no use."""
    torch.manual_seed(3)
    save(autoencoder(sample_size=512), folder / "vae")
    save(text_unet(), folder / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    (folder / "text_encoder").mkdir()
    write_json(folder / "text_encoder" / "config.json", {"architectures": ["CLIPTextModel"]})
    save_file({"text_model.embeddings": torch.randn(4, 4)}, folder / "text_encoder" / "model.safetensors")
    (folder / "tokenizer").mkdir()
    write_json(folder / "tokenizer" / "vocab.json", {"<|endoftext|>": 0})
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "vae": ["diffusers", "AutoencoderKL"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
        },
    )
    return folder


def save(model: ModelMixin, folder: Path, **options: Any) -> None:
    model.save_pretrained(folder, **options)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def edit_json(path: Path, **changes: Any) -> None:
    value = {**json.loads(path.read_text()), **changes}
    write_json(path, {name: entry for name, entry in value.items() if entry is not ...})


def edit_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors (``__`` in a name stands for a dot), or drop those that are ``None``."""
    named = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    tensors = {**load_file(path), **named}
    save_file({n: t.contiguous() for n, t in tensors.items() if t is not None}, path, {"format": "pt"})
