"""The attribution network of generators whose latent is no grid: a linear reading of the pixels, corrected.

    network = PixelNetwork(bits, Resolution.of(size, latent_shape))
    network.start_from(linear_reading(images, bits))
    logits = network(pixels)                      # uint8 (n, size, size, 3) -> (n, bits)

Every bit of a key adds about the same pattern to all images. The best linear reading of it among the content
is a ridge regression of the bits on the pixels, known in closed form from some thousand images, and gradient
descent takes long to find it: on the 32-pixel reference a trunk of convolutions alone read 73 % of 64 bits
after 3 000 steps, the regression of 20 000 images 91 %. So the network begins as the regression. What is
trained besides is a correction of the image before it is read, ``R (x + u(x))``: a network of convolutions
down to a grid and up again, through a short code of the whole image (which tells the content, and where the
canvas is grey), that takes away what the regression would trip over. It begins as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from registry.attribution.network import FILL, KeyNetwork, PoseSearch, ResidualBlock, Resolution

READ_SIDE = 32
"""The regression sees images at no more than this side: its matrices have 3 072 rows."""
WIDTHS = (48, 64)
"""Channels of the correction at half of the resolution, and below."""
SQUEEZED = 16
"""Channels of the grid from which the code of the whole image is made."""
CODE = 96
NOISE_FLOOR = 0.04
"""Standard deviation of noise that the regression reckons with in every pixel, on a scale of [-1, 1]."""
LARGEST_SCALE = 100.0
"""Most that a reading, whose mean for a bit that is set is below one, is multiplied by to be its log-odds."""


@dataclass(frozen=True)
class LinearReading:
    """Log-odds of the bits, ``weight @ x + bias`` of an image's pixels x in [-1, 1], channels first, or of
    what a network makes of them.

    ``weight`` (bits, features), ``bias`` (bits,).
    """

    weight: torch.Tensor
    bias: torch.Tensor


class PixelNetwork(KeyNetwork):
    """See the module. ``side`` is that of the image the regression reads, in pixels."""

    search = PoseSearch(stride=3 / 64, top=2, sufficient=0.65)

    def __init__(self, bits: int, resolution: Resolution) -> None:
        super().__init__(bits, resolution.size)
        stages = resolution.stride.bit_length() - 1
        widths = [WIDTHS[min(stage, len(WIDTHS) - 1)] for stage in range(stages)]
        self.side = read_side(resolution.size)
        self.linear = nn.Linear(3 * self.side**2, bits)
        inputs = [4, *widths]
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.PixelUnshuffle(2), nn.Conv2d(4 * before, width, 3, padding=1), ResidualBlock(width)
            )
            for before, width in zip(inputs, widths, strict=False)
        )
        deepest = widths[-1]
        self.within = nn.Sequential(ResidualBlock(deepest), nn.BatchNorm2d(deepest), nn.ReLU())
        self.squeeze = nn.Conv2d(deepest, SQUEEZED, 1)
        self.encode = nn.Sequential(
            nn.Linear(SQUEEZED * resolution.grid**2, CODE), nn.BatchNorm1d(CODE), nn.ReLU()
        )
        self.spread = nn.Linear(CODE, SQUEEZED * resolution.grid**2)
        above = [deepest + SQUEEZED, *widths[-2:0:-1]]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 4 * width, 1), nn.PixelShuffle(2))
            for before, width in zip(above, widths[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(ResidualBlock(width) for width in widths[-2::-1])
        paint = nn.Conv2d(widths[0], 12, 3, padding=1)
        self.last = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU(), paint, nn.PixelShuffle(2))
        self.head = nn.Linear(CODE, bits)
        with torch.no_grad():
            for layer in (paint, self.head):
                for values in layer.parameters():
                    values.zero_()

    def start_from(self, reading: LinearReading) -> None:
        """Let the network begin as ``reading`` of images of ``side`` pixels."""
        with torch.no_grad():
            self.linear.weight.copy_(reading.weight)
            self.linear.bias.copy_(reading.bias)

    def refit(self, reading: LinearReading) -> None:
        """Let the last layers be ``reading``, of the features (corrected pixels, then code)."""
        with torch.no_grad():
            pixels, code = reading.weight.split([self.linear.in_features, CODE], 1)
            self.linear.weight.copy_(pixels)
            self.linear.bias.copy_(reading.bias)
            self.head.weight.copy_(code)
            self.head.bias.zero_()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, grey_area(pixels))

    def logits(self, x: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
        """Logits (n, bits) of images (n, 3, size, size) in [-1, 1], differentiable.

        ``grey`` (n, 1, size, size) is 1 where the canvas shows nothing, see :func:`grey_area`.
        """
        corrected, code = self.features(x, grey)
        with torch.autocast(x.device.type, enabled=False):  # small differences of large sums
            logits: torch.Tensor = self.linear(corrected) + self.head(code)
        return logits * self.scale

    def features(self, x: torch.Tensor, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last layers read: the corrected pixels (n, 3 * side**2) and the code (n, CODE)."""
        levels = []
        h = torch.cat([x, grey], 1)
        for stage in self.down:
            h = stage(h)
            levels.append(h)
        h = self.within(h)
        grid = self.squeeze(h)
        code = self.encode(grid.flatten(1))
        h = torch.cat([h, self.spread(code).reshape(grid.shape)], 1)
        for enlarge, merge, level in zip(self.up, self.merge, levels[-2::-1], strict=True):
            h = merge(level + enlarge(h))
        return reduced((x + self.last(h)).float(), self.side).flatten(1), code.float()


def read_side(size: int) -> int:
    """Side in pixels at which the regression reads an image of ``size`` pixels: halved until it is small."""
    while size > READ_SIDE and size % 2 == 0:
        size //= 2
    return size


def reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (n, 3, h, h) at ``side`` pixels, a divisor of h, each the mean of those it covers."""
    factor = images.shape[-1] // side
    return F.avg_pool2d(images, factor) if factor > 1 else images


def grey_area(pixels: torch.Tensor) -> torch.Tensor:
    """1 within the grey around a window, 0 elsewhere: float32 (n, 1, h, w) of pixels uint8 (n, h, w, 3)."""
    return inside((pixels == FILL).all(3).unsqueeze(1).float())


def inside(area: torch.Tensor) -> torch.Tensor:
    """Where an area (n, 1, h, w) of ones covers a pixel and all its neighbours."""
    covered = F.avg_pool2d(area, 3, stride=1, padding=1, count_include_pad=False)
    return (covered > 1 - 1e-4).float()


def linear_reading(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> LinearReading:
    """The ridge regression of bits on pixels, its scale that of log-odds.

    ``batches``, two at least, are images (n, 3, side, side) in [-1, 1], or features (n, m) in place of their
    pixels, and their bits (n, bits) of 0 and 1.
    The last one is not fitted: it tells how much the reading is worth.
    """
    fitted, last = _Moments(), None
    for images, bits in batches:
        if last is not None:
            fitted.add(*last)
        last = images.flatten(1).double(), 2 * bits.double() - 1
    if last is None or not fitted.count:
        raise ValueError("a regression takes two batches of images at least")
    mean, filters = fitted.ridge(NOISE_FLOOR)
    x, signs = last
    read = (x - mean) @ filters * signs
    scale = (2 * read.mean(0).mean() / read.var(0).mean()).clamp(0, LARGEST_SCALE)
    weight = scale * filters.T
    return LinearReading(weight.float(), (-weight @ mean).float())


class _Moments:
    """Sums over images x (n, pixels) and the signs of their bits (n, bits), in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[torch.Tensor] = []

    def add(self, x: torch.Tensor, signs: torch.Tensor) -> None:
        parts = [x.T @ x, x.T @ signs, x.sum(0), signs.sum(0)]
        self.sums = [total + part for total, part in zip(self.sums, parts, strict=False)] or parts
        self.count += len(x)

    def ridge(self, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean image (pixels,), and filters (pixels, bits) under noise of standard deviation ``floor``."""
        squares, products, mean, balance = (total / self.count for total in self.sums)
        covariance = squares - torch.outer(mean, mean)
        covariance.diagonal().add_(floor**2)
        return mean, torch.linalg.solve(covariance, products - torch.outer(mean, balance))
