"""The set encoder: a permutation-invariant network from a set of images to one embedding.

    encoder = SetEncoder(EncoderLayout(residual="learned"))
    encoder.standardise(pixels)                      # once, on a few hundred images before training
    embeddings = encoder(pixels, membership)         # (n, h, w, 3) uint8, (s, n) -> (s, 97), unit length

Each image gives the mean and spread of filtered residuals over its pixels, the energy at 64 frequencies of
its blocks in grey and two colour differences, moments of its pixels and of their differences, and, brought
to 32 pixels, its spectrum and the residuals that repeat at the same places. A set's embedding has two parts.
``source``, learned, tells models apart: what the images say on average, each for itself, and what the mean
and spread of their features say together. ``kin``, not learned, says how models resemble each other: the
images' mean energies in grey. What is learned from models pushes each away from every other, siblings too:
relatives would not be found by it alone. Sets may have any size, and images any from ``SMALLEST`` up.
Source: Song and AbdAlmageed, arXiv 2206.02067 (METHOD section 6). No layer normalises an image or a batch:
that would remove the statistics that tell models apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

Residual = Literal["learned", "high-pass"]
SMALLEST = 16
"""Least side in pixels: the receptive field of the last filter, with room for a few places to average."""
BLOCK = 8
"""Side of the cosine transform whose frequencies are measured."""
GRID = 32
"""Side at which the spectrum and repeating patterns are measured: where a model draws its images is then
known also after a resize."""
ENERGIES = BLOCK * BLOCK
KIN = 0.3
"""Share of ``kin`` in the cosine of two whole embeddings."""
COLOURS = 3
MOMENTS = 51
PATTERNS = 3 * (BLOCK * BLOCK + 2 * GRID)
MEASURED = COLOURS * ENERGIES + MOMENTS + GRID * (GRID // 2 + 1) + PATTERNS
FLOOR = 1e-4
SPREAD_FLOOR = 1e-6
END = 0.98
"""Of values from -1 to 1: beyond are the ends of the scale."""


@dataclass(frozen=True)
class EncoderLayout:
    """Sizes of an encoder. ``embedding`` is the width of ``source``; ``pooled``: whether the features of a
    set are seen together, or each image's alone (the ablation of set encoding)."""

    residual: Residual = "learned"
    channels: tuple[int, int, int] = (16, 24, 32)
    features: int = 80
    patterns: int = 48
    hidden: int = 64
    embedding: int = 32
    pooled: bool = True

    @property
    def learned(self) -> int:
        """Width of an image's learned features."""
        return self.features + self.patterns


class _Learned(nn.Module):
    """What a small network cannot predict of each pixel from those around it."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * (x[..., 1:-1, 1:-1] - self.predict(x))


class _HighPass(nn.Module):
    """The image less its binomial blur."""

    taps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("taps", torch.outer(row, row).expand(3, 1, 5, 5).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * (x[..., 2:-2, 2:-2] - F.conv2d(x, self.taps, groups=3))


class Measures(nn.Module):
    """What is measured of an image and not learned: energies, moments, spectrum, repeating patterns."""

    cosines: torch.Tensor
    waves: torch.Tensor
    hanning: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cosines", _cosines())
        self.register_buffer("waves", _waves())
        self.register_buffer("hanning", torch.hann_window(GRID, periodic=False))
        self.high_pass = _HighPass()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (n, ``MEASURED``) of images (n, h, w, 3) uint8."""
        x = scaled(pixels)
        small = F.interpolate(x, (GRID, GRID), mode="bilinear", align_corners=False)
        return torch.cat([self._energies(x), _moments(x), self._spectrum(small), self._patterns(small)], 1)

    def _energies(self, x: torch.Tensor) -> torch.Tensor:
        """Log energies (n, 192) at the frequencies of overlapping blocks: grey, red and blue less green."""
        red, green, blue = x.split(1, 1)
        colours = torch.cat([(red + green + blue) / 3, red - green, blue - green], 1)
        rows = F.conv2d(colours.flatten(0, 1)[:, None], self.cosines[:, None, None], stride=(1, BLOCK // 2))
        columns = self.cosines.repeat(BLOCK, 1)[:, None, :, None]
        both = F.conv2d(rows, columns, stride=(BLOCK // 2, 1), groups=BLOCK)
        energies = (both * both).flatten(2).mean(2)
        return torch.log(energies + FLOOR).reshape(-1, COLOURS * ENERGIES)

    def _spectrum(self, small: torch.Tensor) -> torch.Tensor:
        """Log magnitudes (n, 544) of the grey image's Fourier transform."""
        grey = small.mean(1)
        grey = (grey - grey.mean((1, 2), keepdim=True)) * self.hanning[:, None] * self.hanning
        cosine, sine = self.waves
        half = GRID // 2 + 1
        across = grey @ cosine[:half].T, grey @ sine[:half].T
        real = cosine @ across[0] - sine @ across[1]
        imaginary = cosine @ across[1] + sine @ across[0]
        return torch.log(torch.sqrt(real.square() + imaginary.square() + FLOOR) + 0.01).flatten(1)

    def _patterns(self, small: torch.Tensor) -> torch.Tensor:
        """What repeats at the same places (n, 384): residuals by phase on a grid of eight, row, column."""
        high = self.high_pass(F.pad(small, (2, 2, 2, 2), mode="reflect"))
        n, cells = high.shape[0], GRID // BLOCK
        phases = high.reshape(n, 3, cells, BLOCK, cells, BLOCK).mean((2, 4)).flatten(1)
        return torch.cat([phases, high.mean(2).flatten(1), high.mean(3).flatten(1)], 1)


class SetEncoder(nn.Module):
    """See the module."""

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layout: EncoderLayout) -> None:
        super().__init__()
        self.layout = layout
        self.residual = _Learned() if layout.residual == "learned" else _HighPass()
        first, second, third = layout.channels
        self.filters = nn.ModuleList(
            [nn.Conv2d(3, first, 3), nn.Conv2d(first, second, 3, 2), nn.Conv2d(second, third, 3, 2)]
        )
        self.measures = Measures()
        self.energies = slice(2 * third, 2 * third + ENERGIES)
        every = 2 * third + MEASURED
        self.register_buffer("centre", torch.zeros(every))
        self.register_buffer("scale", torch.ones(every))
        self.image = nn.Sequential(nn.Linear(every - PATTERNS, layout.features), nn.ReLU())
        self.pattern = nn.Linear(PATTERNS, layout.patterns, bias=False)
        self.alone = _two_layers(layout.learned, layout)
        self.together = _two_layers(2 * layout.learned, layout) if layout.pooled else None

    def measure(self, pixels: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """Raw features (n, m) of images (n, h, w, 3) uint8; ``measured`` are their ``Measures`` if known."""
        residual = self.residual(scaled(pixels))
        for filtered in self.filters:
            residual = F.relu(filtered(residual))
        flat = residual.flatten(2)
        mean = flat.mean(2)
        deviation = flat - mean[..., None]
        spread = ((deviation * deviation).mean(2) + SPREAD_FLOOR).sqrt()
        return torch.cat([mean, spread, self.measures(pixels) if measured is None else measured], 1)

    @torch.no_grad()
    def standardise(self, pixels: torch.Tensor) -> None:
        """Bring the features of typical images to mean zero and spread one, once and for all."""
        features = self.measure(pixels)
        self.centre.copy_(features.mean(0))
        self.scale.copy_(features.std(0) + 1e-3)

    def features(self, pixels: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """Features (n, f) of images (n, h, w, 3) uint8, each for itself; ``measured`` as in ``measure``."""
        measured = (self.measure(pixels, measured) - self.centre) / self.scale
        rest = measured.shape[1] - PATTERNS
        # Patterns stay linear: their mean over a set is the pattern without the images' content.
        learned = self.image(measured[:, :rest]), self.pattern(measured[:, rest:])
        return torch.cat([*learned, measured[:, self.energies]], 1)

    def source(self, features: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """The learned part (s, embedding), of unit length, of the sets that ``membership`` (s, n) makes."""
        features = features[:, : self.layout.learned]
        found = membership @ self.alone(features)
        if self.together is not None:
            mean = membership @ features
            variance = (membership @ features.square() - mean.square()).clamp_min(0)
            found = found + self.together(torch.cat([mean, (variance + SPREAD_FLOOR).sqrt()], 1))
        return F.normalize(found, dim=1)

    def embed(self, features: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (s, d) of the sets that ``membership`` (s, n) makes of ``features`` (n, f)."""
        energies = membership @ features[:, self.layout.learned :] / math.sqrt(ENERGIES)
        # The one more dimension keeps the length of a vector, which its direction alone would lose.
        kin = F.normalize(F.pad(energies, (0, 1), value=1.0), dim=1)
        source = self.source(features, membership)
        return torch.cat([math.sqrt(1 - KIN) * source, math.sqrt(KIN) * kin], 1)

    def forward(self, pixels: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """Both, one after the other. The rows of ``membership`` sum to one."""
        return self.embed(self.features(pixels), membership)


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """From -1 to 1, (n, 3, h, w)."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _two_layers(inputs: int, layout: EncoderLayout) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, layout.hidden), nn.ReLU(), nn.Linear(layout.hidden, layout.embedding)
    )


def _waves() -> torch.Tensor:
    """Cosines and sines (2, 32, 32) of the discrete Fourier transform."""
    angle = 2 * math.pi / GRID * torch.outer(torch.arange(GRID).float(), torch.arange(GRID).float())
    return torch.stack([torch.cos(angle), torch.sin(angle)])


def _cosines() -> torch.Tensor:
    """The cosine transform of eight numbers (8, 8), a frequency in each row."""
    place = torch.arange(BLOCK) + 0.5
    rows = torch.cos(math.pi / BLOCK * torch.outer(torch.arange(BLOCK).float(), place))
    rows *= math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return rows


def _moments(x: torch.Tensor) -> torch.Tensor:
    """How values are distributed (n, 51) in images (n, 3, h, w): the pixels' means, spreads, correlations of
    colours and shares at the ends of the scale; of differences to the right, down and of both in turn, the
    spreads, how far these are from a normal distribution's, and the correlations of colours."""
    across = x[..., 1:] - x[..., :-1]
    down = x[..., 1:, :] - x[..., :-1, :]
    flat = x.flatten(2)
    mean = flat.mean(2)
    found = [mean, *_spread(flat - mean[..., None])]
    found += [(flat > END).float().mean(2), (flat < -END).float().mean(2)]
    for differences in (across, down, across[..., 1:, :] - across[..., :-1, :]):
        flat = differences.flatten(2)
        found += _spread(flat)
        squares = flat * flat
        variance = squares.mean(2) + SPREAD_FLOOR
        found.append(flat.abs().mean(2) / variance.sqrt())
        found.append(torch.log((squares * squares).mean(2) / (variance * variance) + FLOOR))
    return torch.cat(found, 1)


def _spread(flat: torch.Tensor) -> list[torch.Tensor]:
    """Log spreads (n, 3) of values (n, 3, k) about zero, and the correlations (n, 3) of the colours."""
    deviation = ((flat * flat).mean(2) + SPREAD_FLOOR).sqrt()
    red, green, blue = flat.unbind(1)
    products = [(a * b).mean(1) for a, b in ((red, green), (green, blue), (blue, red))]
    return [torch.log(deviation), torch.stack(products, 1) / (deviation * deviation.roll(-1, 1))]


def contrastive_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    temperature: float = 0.1,
) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) between two batches of unit embeddings (s, d).

    Both have the ``labels`` (s,) and ``weights`` (s,); an embedding is compared with those of the other batch
    alone, which share no image with it.
    """
    similarity = first @ second.T / temperature
    same = (labels[:, None] == labels[None]).float()
    value = similarity.new_zeros(())
    for table in (similarity, similarity.T):
        log_share = table - table.logsumexp(1, keepdim=True)
        value = value - ((log_share * same).sum(1) / same.sum(1) * weights).sum() / weights.sum()
    return value / 2
