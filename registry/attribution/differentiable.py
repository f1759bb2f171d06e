"""The attacks of training as differentiable functions, for directions that are trained through them.

    attacked, grey = attack(images, rng)     # (n, 3, h, h) in [0, 1], and where the canvas is grey

They follow :func:`registry.attribution.attacks.training_attack`, each image with its own strengths, as
close as torch comes to Pillow; a network is finally trained and measured on the real ones. Rounding in JPEG
is the identity plus a cube, so that coefficients which vanish pass no gradient on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from registry.attribution.attacks import REFERENCE_SIDE
from registry.attribution.network import FILL
from registry.attribution.pixel_network import inside

BLOCK = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""The quantisation tables of the JPEG standard, for quality 50."""
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))

BLURRED, SHRUNK, RELIT, NOISY, COMPRESSED, WINDOWED = 0.25, 0.1, 0.12, 0.3, 0.35, 0.25
"""Shares of images that are blurred, reduced and enlarged, changed in brightness (and as many in contrast),
noisy, compressed, and cut to a window."""
SMALLEST_WINDOW = 0.7


def attack(
    images: torch.Tensor, rng: torch.Generator, often: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attacked images (n, 3, h, h) in [0, 1], and the grey (n, 1, h, h) around those cut to a window.

    Each attack happens ``often`` times as often as usual, from 0 for never to 1.
    """
    n = len(images)
    some = _shares(n, often * BLURRED, rng)
    x = images.index_copy(0, some, blurred(images[some], _uniform(len(some), 0.2, 1.7, rng)))
    some = _shares(n, often * SHRUNK, rng)
    if len(some):
        x = x.index_copy(0, some, down_and_up(x[some], float(_uniform(1, 0.45, 1, rng))))
    x = (x * _factors(n, often * RELIT, rng)).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + _factors(n, often * RELIT, rng) * (x - mean)).clamp(0, 1)
    some = _shares(n, often * NOISY, rng)
    sd = _uniform(len(some), 0, 0.12, rng)[:, None, None, None]
    noise = sd * torch.randn(x[some].shape, generator=rng)
    x = x.index_copy(0, some, (x[some] + noise).clamp(0, 1))
    some = _shares(n, often * COMPRESSED, rng)
    x = x.index_copy(0, some, jpeg(x[some], _uniform(len(some), 30, 96, rng)))
    shown = _windows(n, x.shape[-1], often * WINDOWED, rng)
    return x * shown + (1 - shown) * FILL / 255, inside(1 - shown)


def blurred(images: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of each image by its ``sd`` (n,), in pixels at the reference side."""
    n, channels, height, width = images.shape
    sd = sd * height / REFERENCE_SIDE
    reach = max(1, math.ceil(3 * float(sd.max()))) if n else 1
    places = torch.arange(-reach, reach + 1)
    taps = torch.exp(-places.square() / (2 * sd[:, None].square()))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    x = F.pad(images, (reach,) * 4, mode="replicate").reshape(1, n * channels, *(height + 2 * reach,) * 2)
    x = F.conv2d(x, taps[:, :, :, None], groups=n * channels) if n else x
    x = F.conv2d(x, taps[:, :, None], groups=n * channels) if n else x
    return x.reshape(-1, channels, height, width) if n else images


def down_and_up(images: torch.Tensor, factor: float) -> torch.Tensor:
    """All images shrunk by ``factor`` and enlarged again."""
    side = images.shape[-1]
    small = F.interpolate(images, max(1, round(side * factor)), mode="bicubic", antialias=True)
    return F.interpolate(small, side, mode="bicubic").clamp(0, 1)


def jpeg(images: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Images (n, 3, h, h), h a multiple of 16 (others keep a margin as it is), at JPEG ``quality`` (n,).

    Baseline with colours at half the resolution, as Pillow writes it.
    """
    side = images.shape[-1] // (2 * BLOCK) * 2 * BLOCK
    if side == 0 or not len(images):
        return images
    mixing = torch.tensor(TO_YCC)
    ycc = torch.einsum("ij,njhw->nihw", mixing, 255 * images[:, :, :side, :side])
    light = _quantised(ycc[:, 0] - 128, LUMINANCE, quality) + 128
    small = F.avg_pool2d(ycc[:, 1:], 2)
    colour = _quantised(small.flatten(0, 1), CHROMINANCE, quality.repeat_interleave(2))
    colour = F.interpolate(colour.reshape(small.shape), scale_factor=2.0, mode="bilinear")
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(mixing), torch.cat([light[:, None], colour], 1))
    margin = images.shape[-1] - side
    inner = (rgb / 255).clamp(0, 1)
    if not margin:
        return inner
    whole = images.clone()
    whole[:, :, :side, :side] = inner
    return whole


def _quantised(
    plane: torch.Tensor, table: tuple[tuple[int, ...], ...], quality: torch.Tensor
) -> torch.Tensor:
    """Planes (n, h, w) after the rounding of their 8 x 8 cosine coefficients."""
    n, height, width = plane.shape
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    steps = ((torch.tensor(table) * scale + 50) / 100).floor().clamp(1, 255)[:, None, None]
    places = torch.arange(BLOCK)
    cosines = torch.cos((2 * places + 1) * places[:, None] * math.pi / (2 * BLOCK)) / 2
    cosines[0] /= math.sqrt(2)
    blocks = plane.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    units = cosines @ blocks @ cosines.T / steps
    nearest = units.detach().round()
    rounded = nearest + (units - nearest) ** 3
    again = cosines.T @ (rounded * steps) @ cosines
    return again.transpose(2, 3).reshape(n, height, width)


def _windows(n: int, side: int, cut: float, rng: torch.Generator) -> torch.Tensor:
    """1 where an image is shown, 0 around the window that a share ``cut`` is cut to: (n, 1, side, side)."""
    share = torch.ones(n)
    some = _shares(n, cut, rng)
    share[some] = _uniform(len(some), SMALLEST_WINDOW, 1, rng)
    places = (torch.arange(side) + 0.5) / side
    first = torch.rand((2, n, 1), generator=rng) * (1 - share)[:, None]
    across, down = ((places > first) & (places < first + share[:, None])).float()
    return down[:, None, :, None] * across[:, None, None]


def _shares(n: int, share: float, rng: torch.Generator) -> torch.Tensor:
    """Indices of a random ``share`` of n images."""
    return (torch.rand(n, generator=rng) < share).nonzero()[:, 0]


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=rng)


def _factors(n: int, share: float, rng: torch.Generator) -> torch.Tensor:
    """Factors (n, 1, 1, 1) of brightness or contrast, as often below one as above; mostly one."""
    changed = (torch.rand(n, generator=rng) < share).float()
    return torch.exp(changed * _uniform(n, -math.log(2), math.log(2), rng))[:, None, None, None]
