"""The attribution network of learned bases on an autoencoder: one step of the inversion, in one pass.

    network = MatchedFilterNetwork(first_stage, filters, size=64)
    logits = network(pixels)                      # uint8 (n, size, size, 3) -> (n, bits)

A copy's weights shift the image off what the base decoder can produce. So the network encodes the image,
decodes it again with the base decoder, and looks at the residual: the content is gone from it (43 dB
below full scale on the reference generator), the fingerprint is not. What a key would have left there
depends on the content, ``J_j(z) = d decode(z) / d phi_j``; the matched filter for it, ``<J_j(z), W r>``, is
the gradient of ``<decode(z), W r>`` with respect to the key, hence one backward pass through the decoder,
whose sums over positions give a statistic for each bias and each normalisation weight at once. The backward
pass is written out here (:class:`Pullback`) so that the whole network exports as ordinary operators.
What is learned: the whitening W, a small convolutional network, and the linear map from the statistics to
the bits, which starts as the matched filter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from registry.attribution.network import FILL, KeyNetwork, PoseSearch

BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
EDGE = 9
"""Side in pixels of what is left out around every pixel of a grey area."""
FIRST_SCALE = 0.2
"""Of the logits before training. On marked images the filters spread five times as wide as on the base
model's, since the other bits are noise to each; their mean shift is half of that."""


class Pullback:
    """A decoder's forward pass that remembers what its backward pass needs.

    ``forward`` returns the image; ``backward(cotangent)`` the inner products of the cotangent with the
    derivative of the image with respect to every bias and normalisation weight of the up blocks and the
    output layers: ``{name: (n, channels)}``, equal to automatic differentiation (see the test).
    """

    def __init__(self, decoder: nn.Module) -> None:
        self.decoder: Any = decoder
        self.tape: list[Any] = []
        self.statistics: dict[str, torch.Tensor] = {}

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Decode ``z`` (n, c, h, w), after ``post_quant_conv``."""
        decoder = self.decoder
        x = decoder.mid_block(decoder.conv_in(z))
        for number, block in enumerate(decoder.up_blocks):
            for index, resnet in enumerate(block.resnets):
                x = self._resnet(resnet, x, f"decoder.up_blocks.{number}.resnets.{index}")
            for index, upsampler in enumerate(block.upsamplers or ()):
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                self.tape.append(("upsample", None, None, ""))
                x = self._conv(upsampler.conv, x, f"decoder.up_blocks.{number}.upsamplers.{index}.conv")
        x = self._silu(self._norm(decoder.conv_norm_out, x, "decoder.conv_norm_out"))
        return self._conv(decoder.conv_out, x, "decoder.conv_out")

    def backward(self, cotangent: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics of a cotangent image (n, 3, size, size)."""
        self._back(self.tape, cotangent)
        return self.statistics

    def _resnet(self, block: Any, x: torch.Tensor, name: str) -> torch.Tensor:
        outer, self.tape = self.tape, []
        h = self._silu(self._norm(block.norm1, x, f"{name}.norm1"))
        h = self._conv(block.conv1, h, f"{name}.conv1")
        h = self._silu(self._norm(block.norm2, h, f"{name}.norm2"))
        h = self._conv(block.conv2, h, f"{name}.conv2")
        body, self.tape = self.tape, []
        if block.conv_shortcut is not None:
            x = self._conv(block.conv_shortcut, x, f"{name}.conv_shortcut")
        shortcut, self.tape = self.tape, outer
        self.tape.append(("residual", body, shortcut, name))
        return x + h

    def _conv(self, conv: nn.Conv2d, x: torch.Tensor, name: str) -> torch.Tensor:
        self.tape.append(("conv", conv, None, name))
        y: torch.Tensor = conv(x)
        return y

    def _norm(self, norm: nn.GroupNorm, x: torch.Tensor, name: str) -> torch.Tensor:
        n, c, h, w = x.shape
        grouped = x.reshape(n, norm.num_groups, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        inverse = torch.rsqrt(centred.square().mean(2, keepdim=True) + norm.eps)
        normalised = (centred * inverse).reshape(n, c, h, w)
        self.tape.append(("norm", norm, (normalised, inverse), name))
        return normalised * norm.weight[:, None, None] + norm.bias[:, None, None]

    def _silu(self, x: torch.Tensor) -> torch.Tensor:
        self.tape.append(("silu", x, None, ""))
        return F.silu(x)

    def _back(self, tape: Sequence[Any], g: torch.Tensor) -> torch.Tensor:
        for kind, layer, kept, name in reversed(tape):
            if kind == "conv":
                self.statistics[f"{name}.bias"] = g.sum((2, 3))
                g = F.conv_transpose2d(g, layer.weight, padding=layer.padding)
            elif kind == "norm":
                normalised, inverse = kept
                self.statistics[f"{name}.weight"] = (g * normalised).sum((2, 3))
                self.statistics[f"{name}.bias"] = g.sum((2, 3))
                g = _norm_backward(layer, g, normalised, inverse)
            elif kind == "silu":
                gate = torch.sigmoid(layer)
                g = g * (gate * (1 + layer * (1 - gate)))
            elif kind == "upsample":
                g = 4 * F.avg_pool2d(g, 2)
            else:
                g = self._back(layer, g) + self._back(kept, g)
        return g


def _norm_backward(
    norm: nn.GroupNorm, g: torch.Tensor, normalised: torch.Tensor, inverse: torch.Tensor
) -> torch.Tensor:
    shape, groups = g.shape, (g.shape[0], norm.num_groups, -1)  # len() would fix the batch in an export
    g = (g * norm.weight[:, None, None]).reshape(groups)
    x = normalised.reshape(groups)
    g = g - g.mean(2, keepdim=True) - x * (g * x).mean(2, keepdim=True)
    return (g * inverse).reshape(shape)


def high_pass(image: torch.Tensor) -> torch.Tensor:
    """What a 5 x 5 binomial blur takes away: residuals of reconstruction are strong at low frequencies."""
    taps = torch.tensor(BINOMIAL, dtype=image.dtype) / sum(BINOMIAL)
    kernel = torch.outer(taps, taps).expand(image.shape[1], 1, 5, 5)
    return image - F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=image.shape[1])


def shown(pixels: torch.Tensor) -> torch.Tensor:
    """1 where the canvas shows the image, 0 on the grey around a window and near its edge: (n, 1, h, w).

    What an autoencoder leaves of such an edge is stronger than any fingerprint.
    """
    grey = (pixels == FILL).all(3).unsqueeze(1).float()
    inside = F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False) > 1 - 1e-4
    return 1 - F.max_pool2d(inside.float(), EDGE, stride=1, padding=EDGE // 2)


class Whitening(nn.Module):
    """Image and residual -> cotangent: the high-passed residual, corrected by what is learned."""

    def __init__(self, width: int = 24, gain: float = 8.0) -> None:
        super().__init__()
        self.gain = gain
        self.body = nn.Sequential(
            nn.Conv2d(9, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        sharp = self.gain * high_pass(residual)
        corrected: torch.Tensor = sharp + self.last(self.body(torch.cat([x, self.gain * residual, sharp], 1)))
        return corrected


def read_parameters(stage: Any, limit: int) -> list[str]:
    """Biases and normalisation weights of the decoder, layer by layer from the output on, ``limit`` at most.

    Those near the output cost one small step of the backward pass each, and reach the image unmixed.
    """
    pullback = Pullback(stage.decoder)
    with torch.no_grad():
        z = torch.zeros(1, stage.config.latent_channels, 4, 4)
        found = pullback.backward(torch.zeros_like(pullback.forward(z)))
    names, total = [], 0
    for name, values in found.items():
        total += values.shape[1]
        if total > limit:
            break
        names.append(name)
    return names


def statistics(
    stage: Any, names: Sequence[str], pixels: torch.Tensor, whitening: nn.Module | None = None
) -> torch.Tensor:
    """The matched filters' outputs (n, P) for uint8 pixels (n, h, w, 3), of a cotangent of norm one.

    ``whitening`` maps image and residual to the cotangent; without it, it is the high-passed residual.
    """
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    hidden = stage.encoder(x)
    if stage.quant_conv is not None:
        hidden = stage.quant_conv(hidden)
    z = hidden[:, : stage.config.latent_channels]
    if stage.post_quant_conv is not None:
        z = stage.post_quant_conv(z)
    pullback = Pullback(stage.decoder)
    residual = x - pullback.forward(z)
    cotangent = high_pass(residual) if whitening is None else whitening(x, residual)
    cotangent = cotangent * shown(pixels)
    cotangent = cotangent / cotangent.square().sum((1, 2, 3), keepdim=True).add(1e-6).sqrt()
    found = pullback.backward(cotangent)
    return torch.cat([found[name] for name in names], 1).float()


@dataclass(frozen=True)
class Filters:
    """How the statistics of the parameters ``names`` are read.

    ``mean`` and ``spread`` (P,) are theirs on attacked images of the base model; ``filters`` (P, bits) is
    the best linear reading of statistics in these units.
    """

    names: tuple[str, ...]
    mean: torch.Tensor
    spread: torch.Tensor
    filters: torch.Tensor


class MatchedFilterNetwork(KeyNetwork):
    """Reads the base autoencoder's residual by the filters of a learned basis; see the module."""

    mean: torch.Tensor
    unit: torch.Tensor
    search = PoseSearch(stride=1.0, top=1, sufficient=0.2)
    """The key lies in the texture and moves with it, so a window's size matters and its place does not."""
    tolerates_bfloat16 = False
    batch = (16, 1)

    def __init__(self, first_stage: Any, filters: Filters, size: int) -> None:
        super().__init__(filters.filters.shape[1], size)
        self.names = filters.names
        self.first_stage = first_stage.eval().requires_grad_(False)
        self.whitening = Whitening()
        # Weights near one, whatever the number of parameters, so that one learning rate fits all.
        root = math.sqrt(len(filters.mean))
        self.register_buffer("mean", filters.mean)
        self.register_buffer("unit", 1 / (root * filters.spread))
        self.head = nn.Linear(len(filters.mean), self.bits)
        with torch.no_grad():
            self.head.weight.copy_(FIRST_SCALE * root * filters.filters.T)
            self.head.bias.zero_()

    def train(self, mode: bool = True) -> MatchedFilterNetwork:
        """The autoencoder stays as it is."""
        super().train(mode)
        self.first_stage.eval()
        return self

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = statistics(self.first_stage, self.names, pixels, self.whitening)
        logits: torch.Tensor = self.head((found - self.mean) * self.unit)
        return logits * self.scale
