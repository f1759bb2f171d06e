"""Small StyleGAN2 generators for tests: 32 pixels, a latent of 32 numbers, random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from registry.generators.stylegan2.checkpoints import save_model
from registry.generators.stylegan2.network import Layout, Synthesis

STYLE_DIM = 32
LAYOUT = Layout(STYLE_DIM, 2, (16, 12, 10, 8))


def make_state(layout: Layout = LAYOUT, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in which no tensor is zero, the noise's strengths and the biases included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = Synthesis(layout).state_dict()
        for name, tensor in state.items():
            if name.endswith(("bias", "noise.weight")):
                tensor.add_(0.1 * torch.randn(tensor.shape))
    return state


def make_model(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A model folder of :func:`make_state`."""
    save_model({name: tensor.to(dtype) for name, tensor in make_state(seed=seed).items()}, folder)
    return folder


def orthonormal_rows(bits: int, dimensions: int = STYLE_DIM, seed: int = 0) -> np.ndarray:
    """Random orthonormal rows float32 (bits, dimensions)."""
    square = np.random.default_rng(seed).standard_normal((dimensions, dimensions))
    return np.linalg.qr(square)[0][:bits].astype(np.float32)
