"""The set encoder: a permutation-invariant network from a set of images to one embedding.

    encoder = SetEncoder(EncoderLayout(residual="learned"))
    encoder.standardise(pixels)                      # once, on a few hundred images before training
    embeddings = encoder(pixels, membership)         # (n, h, w, 3) uint8, (s, n) -> (s, 32), unit length

Each image gives the mean and spread of filtered residuals over its pixels, the energy at 64 frequencies of
its blocks, and, brought to 32 pixels, its spectrum and the residuals that repeat at the same places; a set is
the mean and spread of its images' features. So sets may have any size, and images any from ``SMALLEST`` up.
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
PATTERNS = 3 * (BLOCK * BLOCK + 2 * GRID)
FLOOR = 1e-4
SPREAD_FLOOR = 1e-6


@dataclass(frozen=True)
class EncoderLayout:
    """Sizes of an encoder. ``pooled``: whether a set's embedding is that of its pooled features, or
    the mean of its images' own embeddings (the ablation of set encoding)."""

    residual: Residual = "learned"
    channels: tuple[int, int, int] = (16, 24, 32)
    features: int = 64
    patterns: int = 32
    embedding: int = 32
    pooled: bool = True


class _Learned(nn.Module):
    """What two small convolutions cannot predict of each pixel from its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * (x[..., 2:-2, 2:-2] - self.predict(x))


class _HighPass(nn.Module):
    """The image less its binomial blur."""

    taps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("taps", torch.outer(row, row).expand(3, 1, 5, 5).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * (x[..., 2:-2, 2:-2] - F.conv2d(x, self.taps, groups=3))


class SetEncoder(nn.Module):
    """See the module."""

    cosines: torch.Tensor
    waves: torch.Tensor
    hanning: torch.Tensor
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
        self.register_buffer("cosines", _cosines())
        self.register_buffer("waves", _waves())
        self.register_buffer("hanning", torch.hann_window(GRID, periodic=False))
        self.high_pass = _HighPass()
        measured = 2 * third + BLOCK * BLOCK + GRID * (GRID // 2 + 1)
        self.register_buffer("centre", torch.zeros(measured + PATTERNS))
        self.register_buffer("scale", torch.ones(measured + PATTERNS))
        self.image = nn.Sequential(nn.Linear(measured, layout.features), nn.ReLU())
        self.pattern = nn.Linear(PATTERNS, layout.patterns, bias=False)
        each = layout.features + layout.patterns
        pooled = each * (2 if layout.pooled else 1)
        self.head = nn.Sequential(nn.Linear(pooled, 64), nn.ReLU(), nn.Linear(64, layout.embedding))

    def measure(self, pixels: torch.Tensor) -> torch.Tensor:
        """Raw features (n, m) of images (n, h, w, 3) uint8."""
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        residual = self.residual(x)
        for filtered in self.filters:
            residual = F.relu(filtered(residual))
        flat = residual.flatten(2)
        mean = flat.mean(2)
        spread = ((flat - mean[..., None]).square().mean(2) + SPREAD_FLOOR).sqrt()
        grey = x.mean(1, keepdim=True)
        energy = F.conv2d(grey, self.cosines, stride=BLOCK // 2).square().flatten(2).mean(2)
        small = F.interpolate(x, (GRID, GRID), mode="bilinear", align_corners=False)
        local = [mean, spread, torch.log(energy + FLOOR)]
        return torch.cat([*local, self._spectrum(small), self._patterns(small)], 1)

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

    @torch.no_grad()
    def standardise(self, pixels: torch.Tensor) -> None:
        """Bring the features of typical images to mean zero and spread one, once and for all."""
        features = self.measure(pixels)
        self.centre.copy_(features.mean(0))
        self.scale.copy_(features.std(0) + 1e-3)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (n, f) of images (n, h, w, 3) uint8, each for itself."""
        measured = (self.measure(pixels) - self.centre) / self.scale
        rest = measured.shape[1] - PATTERNS
        # Patterns stay linear: their mean over a set is the pattern without the images' content.
        return torch.cat([self.image(measured[:, :rest]), self.pattern(measured[:, rest:])], 1)

    def embed(self, features: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (s, d) of the sets that ``membership`` (s, n) makes of ``features`` (n, f)."""
        if not self.layout.pooled:
            return F.normalize(membership @ F.normalize(self.head(features), dim=1), dim=1)
        mean = membership @ features
        variance = (membership @ features.square() - mean.square()).clamp_min(0)
        spread = (variance + SPREAD_FLOOR).sqrt()
        return F.normalize(self.head(torch.cat([mean, spread], 1)), dim=1)

    def forward(self, pixels: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        """Both, one after the other. The rows of ``membership`` sum to one."""
        return self.embed(self.features(pixels), membership)


def _waves() -> torch.Tensor:
    """Cosines and sines (2, 32, 32) of the discrete Fourier transform."""
    angle = 2 * math.pi / GRID * torch.outer(torch.arange(GRID).float(), torch.arange(GRID).float())
    return torch.stack([torch.cos(angle), torch.sin(angle)])


def _cosines() -> torch.Tensor:
    """The cosine transform's 64 basis images as filters (64, 1, 8, 8)."""
    place = torch.arange(BLOCK) + 0.5
    rows = torch.cos(math.pi / BLOCK * torch.outer(torch.arange(BLOCK).float(), place))
    rows *= math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return torch.einsum("ui,vj->uvij", rows, rows).reshape(BLOCK * BLOCK, 1, BLOCK, BLOCK)


def contrastive_loss(
    embeddings: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) of unit embeddings (s, d) with labels (s,)."""
    similarity = embeddings @ embeddings.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool)
    similarity = similarity.masked_fill(itself, -1e9)
    same = (labels[:, None] == labels[None]) & ~itself
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    of_pairs = (log_share * same).sum(1) / same.sum(1).clamp_min(1)
    return -of_pairs[same.any(1)].mean()
