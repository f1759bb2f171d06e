"""The Frechet distance between sets of images, and what a fingerprint adds to it.

    real, base, copy = (image_features(images) for images in (photographs, of_base, of_copies))
    frechet_distance(base, real)
    increase = frechet_increase(base, copy, real)        # same latents in base and copy
    increase.value, increase.low, increase.high          # 95 % interval

Features are means and standard deviations, over the positions, of the last hidden layer of the encoder
of ``builtin:flowers-ldm@1`` on the image at 64 x 64 pixels: fixed weights that travel with the project,
the same for every generator. Figures compare with each other, never with an FID from Inception features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from registry.generators.builtin import resolve_builtin
from registry.progress import progress

EXTRACTOR = "builtin:flowers-ldm@1"
BATCH = 64
DRAWS = 200
"""Bootstrap samples: enough for the ends of a 95 % interval to one in forty."""

Features = NDArray[np.float64]


@torch.no_grad()
def image_features(images: torch.Tensor) -> Features:
    """Features float64 (n, d) of images float (n, 3, h, w) in [0, 1]; see the module."""
    encoder = reference_autoencoder()
    hidden: list[torch.Tensor] = []
    hook = encoder.encoder.conv_norm_out.register_forward_hook(lambda _m, _i, output: hidden.append(output))
    side = encoder.config.sample_size
    try:
        for part in images.split(BATCH):
            if part.shape[-2:] != (side, side):
                part = F.interpolate(part, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            encoder.encoder(part * 2 - 1)
    finally:
        hook.remove()
    maps = torch.cat(hidden).flatten(2)
    return torch.cat([maps.mean(-1), maps.std(-1)], 1).double().numpy()


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Frechet distance (Dowson and Landau 1982) of Gaussians fitted to features (n, d) and (m, d)."""
    return _between(_Gaussian.of(a), _Gaussian.of(b))


@dataclass(frozen=True)
class Increase:
    """``value`` = distance(copy, real) - distance(base, real), with the ends of its interval."""

    base: float
    copy: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """By how much the copies are further from the photographs than the base model is."""
        return self.copy - self.base

    @property
    def significant(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0


def frechet_increase(
    base: Features, copy: Features, real: Features, draws: int = DRAWS, share: float = 0.95, seed: int = 0
) -> Increase:
    """The increase with a bootstrap interval; rows of ``base`` and ``copy`` are of the same latents.

    Pairs and photographs are drawn anew together. The interval is the basic one (Davison and Hinkley
    1997, section 5.2): the distance is biased upwards in small sets, more so in resampled ones, and
    reflecting about the estimate takes out what the bias leaves in the difference.
    """
    if base.shape != copy.shape:
        raise ValueError(f"base {base.shape} and copy {copy.shape} are not features of the same latents")
    rng = np.random.default_rng(seed)
    at_base, at_copy = frechet_distance(base, real), frechet_distance(copy, real)
    found = np.empty(draws)
    with progress("bootstrap", draws) as bar:
        for draw in range(draws):
            pairs = _counts(rng, len(base))
            target = _Gaussian.of(real, _counts(rng, len(real)))
            found[draw] = _between(_Gaussian.of(copy, pairs), target) - _between(
                _Gaussian.of(base, pairs), target
            )
            bar.update(draw + 1)
    value = at_copy - at_base
    lower, upper = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
    return Increase(at_base, at_copy, float(2 * value - upper), float(2 * value - lower))


@dataclass(frozen=True)
class _Gaussian:
    mean: Features
    covariance: Features

    @classmethod
    def of(cls, features: Features, counts: NDArray[np.int64] | None = None) -> _Gaussian:
        """Moments of rows that each count ``counts`` times."""
        n = len(features)
        if n < 2:
            raise ValueError(f"a distribution needs at least two images, not {n}")
        weights = np.ones(n) if counts is None else counts.astype(np.float64)
        mean = weights @ features / n
        centred = features - mean
        return cls(mean, (centred * weights[:, None]).T @ centred / (n - 1))


def _between(a: _Gaussian, b: _Gaussian) -> float:
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(0)).sum()
    apart = ((a.mean - b.mean) ** 2).sum()
    return float(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _counts(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """How often each of ``n`` rows is drawn when ``n`` are drawn with replacement."""
    return np.bincount(rng.integers(0, n, n), minlength=n)


@cache
def reference_autoencoder() -> AutoencoderKL:
    """The first stage of the reference generator, weights fixed."""
    folder = resolve_builtin(EXTRACTOR).weights / "vqvae"
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
