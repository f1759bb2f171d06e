"""A small convolutional variational autoencoder (Kingma, Welling 2014).

network = Autoencoder(Layout(latent=64, channels=(96, 64, 48, 32)))
loss = network.loss(images, rng)           # images (n, 3, size, size) in [-1, 1]
images = network.decode(z)                 # z (n, latent)
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from registry.generators.small_network import SmallNetwork

NOISE = 0.12
"""Standard deviation of a pixel given the latent (images in [-1, 1]): how much the decoder may blur."""
GROUPS = 8


@dataclass(frozen=True)
class Layout:
    """Sizes: ``channels[i]`` at resolution ``4 * 2**i``, the last one the images'; latent numbers."""

    latent: int
    channels: tuple[int, ...]
    depth: int = 1

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return 4 << (len(self.channels) - 1)


def _block(inputs: int, outputs: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for number in range(depth):
        conv = nn.Conv2d(inputs if number == 0 else outputs, outputs, 3, padding=1)
        layers += [conv, nn.GroupNorm(GROUPS, outputs), nn.SiLU()]
    return layers


class Autoencoder(SmallNetwork):
    """Encoder to mean and log variance of a normal latent, decoder to the mean image."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        channels, depth = layout.channels, layout.depth
        encoder: list[nn.Module] = [nn.Conv2d(3, channels[-1], 3, padding=1), nn.SiLU()]
        for inputs, outputs in itertools.pairwise(channels[::-1]):
            encoder += [nn.Conv2d(inputs, inputs, 4, stride=2, padding=1), *_block(inputs, outputs, depth)]
        encoder += [nn.Flatten(), nn.Linear(16 * channels[0], 2 * layout.latent)]
        decoder: list[nn.Module] = [
            nn.Linear(layout.latent, 16 * channels[0]),
            nn.Unflatten(1, (channels[0], 4, 4)),
            *_block(channels[0], channels[0], depth),
        ]
        for inputs, outputs in itertools.pairwise(channels):
            decoder += [nn.Upsample(scale_factor=2), *_block(inputs, outputs, depth)]
        decoder.append(nn.Conv2d(channels[-1], 3, 3, padding=1))
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)

    def decode(self, z: torch.Tensor, **options: Any) -> torch.Tensor:  # noqa: ARG002
        """Images (n, 3, size, size), about [-1, 1], of latents (n, latent)."""
        images: torch.Tensor = self.decoder(z)
        return images

    def loss(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Negative evidence lower bound per pixel value, up to a constant."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        log_variance = log_variance.clamp(-12, 8)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=rng)
        misfit = F.mse_loss(self.decode(z), images) / (2 * NOISE**2)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return misfit + divergence / math.prod(images.shape[1:])
