"""What the zoo's networks have in common: see :mod:`registry.generators.small`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn


class SmallNetwork(nn.Module, ABC):
    """A network that turns normal latents into images; ``layout`` holds its sizes."""

    in_half: ClassVar[bool] = True
    """Whether training and sampling may run in bfloat16."""
    layout: Any

    @abstractmethod
    def decode(self, z: torch.Tensor, **options: Any) -> torch.Tensor:
        """Images (n, 3, size, size), about [-1, 1], of latents (n, ...)."""

    def loss(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """What training makes small, on images (n, 3, size, size) in [-1, 1]; a GAN has none of its own."""
        raise NotImplementedError
