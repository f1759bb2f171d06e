"""The attribution network: convolutions down to the latent grid, then one linear map to the bits.

The key is a pattern on the generator's latent grid, fixed in place. So the network estimates that
grid from the image (a convolutional trunk with stride 4) and reads every bit as an inner product with
it: the linear layer starts as the basis itself and only has to be refined. Batch normalisation, not
group normalisation: the latter removes the statistics that carry the key (METHOD, section 8).
"""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import nn

STRIDE = 4
FEATURES = 16
"""Channels of the estimated grid: room for the latent's own and for what tells content apart."""


class _Block(nn.Module):
    """Pre-activation residual block of two 3 x 3 convolutions."""

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


class AttributionNetwork(nn.Module):
    """Pixels uint8 (n, size, size, 3) -> logits float32 (n, bits), the log-odds of each bit being +1.

    ``scale`` (bits,) holds the calibration: one inverse temperature per bit, 1 while training.
    """

    scale: torch.Tensor

    def __init__(
        self, bits: int, size: int, fine: int = 24, coarse: int = 72, features: int = FEATURES
    ) -> None:
        super().__init__()
        if size % STRIDE:
            raise ValueError(f"the network's resolution must be a multiple of {STRIDE}, not {size}")
        self.bits, self.size, self.features = bits, size, features
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            _Block(fine),
            nn.BatchNorm2d(fine),
            nn.ReLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 3, padding=1),
            _Block(coarse),
            _Block(coarse),
            nn.BatchNorm2d(coarse),
            nn.ReLU(),
            nn.Conv2d(coarse, features, 1),
        )
        grid = size // STRIDE
        self.head = nn.Linear(features * grid * grid, bits)
        self.register_buffer("scale", torch.ones(bits))

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
