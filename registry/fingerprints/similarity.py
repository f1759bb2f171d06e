"""How alike two images look: SSIM, MS-SSIM and a learned perceptual distance.

    ssim(base, copy)                             # one figure for each pair, 1 for equal images
    if min(base.shape[-2:]) >= MS_SSIM_SIDE:
        ms_ssim(base, copy)
    EncoderDistance()(base, copy)                # 0 for equal images

Images are float (n, 3, h, w) in [0, 1]; everything is differentiable. The perceptual distance follows
LPIPS (Zhang et al. 2018) on the encoder of the shipped reference generator, so that no foreign weights
are needed. That encoder was trained to reconstruct, so it also counts a slight change of brightness or
hue that a network trained to classify would overlook; its figures compare with each other only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from registry.fingerprints.frechet import EXTRACTOR, reference_autoencoder

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
"""Window and constants of Wang et al. 2004, for a range of 1."""
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, finest first (Wang, Simoncelli and Bovik 2003)."""
MS_SSIM_SIDE = WINDOW << (len(WEIGHTS) - 1)
"""Smallest side, 176 pixels, at which the coarsest scale still fills the window."""
LARGEST = 256
"""The encoder sees images at no more than this side."""
BATCH = 32


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity (n,), the mean over channels and places (Wang et al. 2004).

    Gaussian window without padding; ``ValueError`` for images smaller than it or of unequal shapes.
    """
    luminance, structure = _terms(a, b)
    return (luminance * structure).flatten(1).mean(1)


def ms_ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multi-scale structural similarity (n,); ``ValueError`` below MS_SSIM_SIDE pixels a side.

    Halved by averaging from scale to scale. Negative terms, which have no real power, count as 0.
    """
    if min(a.shape[-2:]) < MS_SSIM_SIDE:
        raise ValueError(f"MS-SSIM needs {MS_SSIM_SIDE} pixels a side, not {tuple(a.shape[-2:])}")
    product = torch.ones(a.shape[:2])
    for scale, weight in enumerate(WEIGHTS):
        luminance, structure = _terms(a, b)
        last = scale == len(WEIGHTS) - 1
        term = (luminance * structure if last else structure).flatten(2).mean(2)
        product = product * term.clamp_min(0) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return product.mean(1)


def _terms(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Luminance and contrast-structure maps (n, c, h - 10, w - 10)."""
    if a.shape != b.shape or min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM of images {tuple(a.shape)} and {tuple(b.shape)}")
    mean_a, mean_b = _blur(a), _blur(b)
    variances = _blur(a * a) - mean_a**2 + _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    return luminance, (2 * covariance + K2**2) / (variances + K2**2)


def _blur(images: torch.Tensor) -> torch.Tensor:
    places = torch.arange(WINDOW, dtype=images.dtype) - WINDOW // 2
    line = torch.exp(-(places**2) / (2 * SIGMA**2))
    line = (line / line.sum()).expand(images.shape[1], 1, 1, -1)
    rows = F.conv2d(images, line, groups=images.shape[1])
    return F.conv2d(rows, line.transpose(2, 3), groups=images.shape[1])


class EncoderDistance:
    """LPIPS's formula on the reference encoder, all channels of equal weight.

    At every place of every level the features are scaled to unit length; squared differences are
    averaged over the places and summed over channels and levels.
    """

    name = f"features of the encoder of {EXTRACTOR}"

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances (n,) of pairs of images, 0 for equal ones."""
        pairs = zip(a.split(BATCH), b.split(BATCH), strict=True)
        return torch.cat([_distance(x, y) for x, y in pairs])


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(len(a))
    for level in _levels(torch.cat([a, b])):
        unit = level / level.norm(dim=1, keepdim=True).clamp_min(1e-8)
        first, second = unit.chunk(2)
        total = total + (first - second).square().sum(1).flatten(1).mean(1)
    return total


def _levels(images: torch.Tensor) -> list[torch.Tensor]:
    """Features (n, c, h, w) after the encoder's first convolution and after each of its levels."""
    encoder = reference_autoencoder().encoder
    if max(images.shape[-2:]) > LARGEST:
        images = F.interpolate(images, (LARGEST, LARGEST), mode="bicubic", antialias=True).clamp(0, 1)
    levels = [encoder.conv_in(2 * images - 1)]
    for block in encoder.down_blocks:
        levels.append(block(levels[-1]))
    return levels
