"""StyleGAN2 checkpoints: rosinality's ``.pt`` files, and our folder of one safetensors file.

state = read_checkpoint(Path("550000.pt"))       # tensors by name, checked
save_model(state, folder)                        # folder/generator.safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

WEIGHTS = "generator.safetensors"
CARD = "hallmark.stylegan2"


def save_model(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the new model folder ``folder``."""
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"}
    )
