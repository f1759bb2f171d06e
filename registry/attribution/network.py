"""The attribution network: convolutions down to the latent grid, then one linear map to the bits.

A key on a latent is a pattern fixed in place, often on the generator's latent grid. So the network
estimates a grid from the image (a convolutional trunk) and reads every bit as an inner product with it:
the linear layer starts as the basis itself, where that is such a pattern, and only has to be refined.
Batch normalisation, not group normalisation: the latter removes the statistics that carry the key
(METHOD, section 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import nn

FEATURES = 16
"""Channels of the estimated grid, at least: room for the latent's own and for what tells content apart."""
FILL = 128
"""The grey of the canvas around a window, as :mod:`verifier.network` lays it out."""
LARGEST = 256
"""Networks see images at no more than this side; larger ones are resampled."""
WIDTHS = (24, 48, 72)
"""Channels of the trunk at half, at a quarter, and below."""


@dataclass(frozen=True)
class PoseSearch:
    """What :class:`verifier.network.PoseRule` looks for; ``stride`` is a share of the canvas."""

    stride: float
    top: int
    sufficient: float


@dataclass(frozen=True)
class Resolution:
    """Side of the network's input in pixels, and side of the grid that it estimates."""

    size: int
    grid: int

    @property
    def stride(self) -> int:
        """Pixels to a place of the grid, a power of two."""
        return self.size // self.grid

    @classmethod
    def of(cls, size: int, latent_shape: tuple[int, ...]) -> Resolution:
        """For images of ``size`` pixels: the latent's own grid where it has one, else about 16 x 16."""
        seen = size if size <= LARGEST else LARGEST
        side = latent_shape[-1] if len(latent_shape) == 3 else 0
        if side and seen % side == 0 and (seen // side).bit_count() == 1 and seen > side:
            return cls(seen, side)
        stride = 4
        while seen // stride > 16 and seen % (2 * stride) == 0:
            stride *= 2
        return cls(seen, seen // stride)


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two 3 x 3 convolutions, ``width`` channels in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class KeyNetwork(nn.Module):
    """What every attribution network is: pixels uint8 (n, size, size, 3) -> logits float32 (n, bits), the
    log-odds of each bit being +1.

    ``scale`` (bits,) holds the calibration: one inverse temperature per bit, 1 while training.
    """

    bits: int
    size: int
    scale: torch.Tensor
    search = PoseSearch(stride=3 / 64, top=2, sufficient=0.65)
    """0.65 lies above what crops reach that are misread as whole images (0.61 at most in 36); attacked whole
    images of the reference generator mostly lie above."""
    tolerates_bfloat16 = True
    batch = (40, 2)
    """Images rendered for one training step, and attacked views of each."""

    def __init__(self, bits: int, size: int) -> None:
        super().__init__()
        self.bits, self.size = bits, size
        self.register_buffer("scale", torch.ones(bits))


class AttributionNetwork(KeyNetwork):
    """Reads a pattern fixed in place: estimates a grid from the image and maps it to the bits."""

    def __init__(self, bits: int, resolution: Resolution, features: int = FEATURES) -> None:
        super().__init__(bits, resolution.size)
        self.features = features
        layers: list[nn.Module] = []
        stages = resolution.stride.bit_length() - 1
        inputs = 3
        for stage in range(stages):
            width = WIDTHS[-1] if stage == stages - 1 else WIDTHS[min(stage, len(WIDTHS) - 1)]
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, width, 3, padding=1), ResidualBlock(width)]
            if stage == stages - 1:
                layers.append(ResidualBlock(width))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        self.trunk = nn.Sequential(*layers, nn.Conv2d(inputs, features, 1))
        self.head = nn.Linear(features * resolution.grid**2, bits)

    def start_from(self, directions: NDArray) -> None:  # type: ignore[type-arg]
        """Let the linear layer begin as the basis: ``directions`` (bits, c, grid, grid), c <= features."""
        with torch.no_grad():
            weight = self.head.weight.view(self.bits, self.features, *directions.shape[2:])
            weight.mul_(0.1)
            weight[:, : directions.shape[1]] = torch.from_numpy(directions)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        logits = self.head(self.trunk(x).flatten(1))
        return logits * self.scale
