"""A small DCGAN (Radford et al. 2016) with a spectrally normalised critic (Miyato et al. 2018).

network = Generator(Layout(latent=64, channels=(96, 64, 48, 32)))
images = network.decode(z)                 # z (n, latent) -> (n, 3, size, size), [-1, 1]
logits = Critic(layout.channels)(images)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from registry.generators.small_network import SmallNetwork

SLOPE = 0.2


@dataclass(frozen=True)
class Layout:
    """Sizes: ``channels[i]`` at resolution ``4 * 2**i``, the last one the images'; latent numbers."""

    latent: int
    channels: tuple[int, ...]

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return 4 << (len(self.channels) - 1)


class Generator(SmallNetwork):
    """Transposed convolutions from a latent vector to an image."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        channels = layout.channels
        layers: list[nn.Module] = [
            nn.Linear(layout.latent, 16 * channels[0]),
            nn.Unflatten(1, (channels[0], 4, 4)),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        for inputs, outputs in itertools.pairwise(channels):
            up = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
            layers += [up, nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(channels[-1], 3, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def decode(self, z: torch.Tensor, **options: Any) -> torch.Tensor:  # noqa: ARG002
        """Images (n, 3, size, size) in [-1, 1] of latents (n, latent)."""
        images: torch.Tensor = self.layers(z)
        return images


class Critic(nn.Module):
    """Images (n, 3, size, size) -> logits (n,)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(3, channels[-1], 3, padding=1))]
        for inputs, outputs in itertools.pairwise(channels[::-1]):
            layers += [nn.LeakyReLU(SLOPE), spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1))]
        layers += [nn.LeakyReLU(SLOPE), nn.Flatten(), spectral_norm(nn.Linear(16 * channels[0], 1))]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)[:, 0]
        return logits.float()
