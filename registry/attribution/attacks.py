"""What happens to an image between a recipient's copy and an auditor: the attack mix.

    rng = np.random.default_rng(1)
    attacked = ATTACKS["jpeg"](image, rng)

Every attack takes and returns an RGB image of 8 bit of the same size and draws its strength from the
generator it is given. Lengths in pixels are stated at 64 pixels of image side and scale with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

Rng = np.random.Generator
Attack = Callable[[Image.Image, Rng], Image.Image]

REFERENCE_SIDE = 64
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def recompress(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """``image`` after one generation of lossy compression (``JPEG``, ``WEBP`` or ``AVIF``)."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"method": 2} if kind == "WEBP" else {}
    image.save(buffer, kind, quality=quality, **options)
    return Image.open(buffer).convert("RGB")


def add_noise(image: Image.Image, sd: float, rng: Rng) -> Image.Image:
    """White Gaussian noise of standard deviation ``sd`` on a [0, 1] scale."""
    pixels = np.asarray(image, np.float32)
    noisy = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(255 * sd)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def blur(image: Image.Image, sd: float) -> Image.Image:
    """Gaussian blur, ``sd`` in pixels at the reference side."""
    return image.filter(ImageFilter.GaussianBlur(sd * max(image.size) / REFERENCE_SIDE))


def crop_and_rescale(image: Image.Image, side: float, rng: Rng) -> Image.Image:
    """Keep a window of ``side`` (a share of each side) at a random place, resized to the old size."""
    width, height = image.size
    w, h = width * side, height * side
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    window = (left, top, left + w, top + h)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=window)


def down_and_up(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Shrink by ``factor`` and enlarge again, as thumbnails and screenshots do."""
    small = tuple(max(1, round(side * factor)) for side in image.size)
    down, up = (FILTERS[i] for i in rng.integers(0, len(FILTERS), 2))
    return image.resize((small[0], small[1]), down).resize(image.size, up)


def erase(image: Image.Image, area: float, rng: Rng) -> Image.Image:
    """Paint a random rectangle of ``area`` (a share of the image) with one random colour."""
    width, height = image.size
    aspect = np.exp(rng.uniform(np.log(0.5), np.log(2)))
    w = min(width, round(width * np.sqrt(area * aspect)))
    h = min(height, round(height * np.sqrt(area / aspect)))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    erased = image.copy()
    colour = tuple(int(c) for c in rng.integers(0, 256, 3))
    erased.paste(colour, (left, top, left + w, top + h))
    return erased


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Multiply all values by ``factor``."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Stretch the values about their mean by ``factor``."""
    return ImageEnhance.Contrast(image).enhance(factor)


def _combination(image: Image.Image, rng: Rng) -> Image.Image:
    """Brightness, blur, noise and JPEG, one after the other, each of medium strength."""
    image = brightness(image, rng.uniform(0.8, 1.25))
    image = blur(image, rng.uniform(0.3, 0.7))
    image = add_noise(image, rng.uniform(0.0, 0.05), rng)
    return recompress(image, "JPEG", int(rng.integers(60, 96)))


ATTACKS: dict[str, Attack] = {
    "clean": lambda image, rng: image,
    "jpeg": lambda image, rng: recompress(image, "JPEG", int(rng.integers(50, 96))),
    "jpeg50": lambda image, rng: recompress(image, "JPEG", 50),
    "webp": lambda image, rng: recompress(image, "WEBP", int(rng.integers(50, 96))),
    "noise": lambda image, rng: add_noise(image, rng.uniform(0.02, 0.1), rng),
    "blur": lambda image, rng: blur(image, rng.uniform(0.4, 1.2)),
    "brightness": lambda image, rng: brightness(image, rng.uniform(0.7, 1.4)),
    "contrast": lambda image, rng: contrast(image, rng.uniform(0.7, 1.4)),
    "downscale": lambda image, rng: down_and_up(image, rng.uniform(0.5, 0.9), rng),
    "crop": lambda image, rng: crop_and_rescale(image, rng.uniform(0.75, 1.0), rng),
    "combination": _combination,
}
"""The benchmark's attacks by name. ``combination`` joins four of them; all others are single."""


def training_attack(image: Image.Image, rng: Rng) -> Image.Image:
    """One draw of the training mix: up to two attacks, often JPEG after them, beyond the benchmark's ranges.

    Crops are not among them: training keeps windows in place (see :mod:`registry.attribution.training`)
    and the verifier searches for the window.
    """
    for step in rng.permutation(len(_TRAINING))[: rng.choice([0, 1, 1, 2])]:
        image = _TRAINING[step](image, rng)
    if rng.random() < 0.5:
        image = recompress(image, "JPEG", int(rng.integers(40, 97)))
    return image


_TRAINING: tuple[Attack, ...] = (
    lambda image, rng: recompress(image, "JPEG", int(rng.integers(35, 97))),
    lambda image, rng: recompress(image, "WEBP", int(rng.integers(35, 97))),
    lambda image, rng: add_noise(image, rng.uniform(0.0, 0.12), rng),
    lambda image, rng: blur(image, rng.uniform(0.2, 1.5)),
    lambda image, rng: brightness(image, np.exp(rng.uniform(np.log(0.55), np.log(1.8)))),
    lambda image, rng: contrast(image, np.exp(rng.uniform(np.log(0.55), np.log(1.8)))),
    lambda image, rng: down_and_up(image, rng.uniform(0.45, 1.0), rng),
    lambda image, rng: erase(image, rng.uniform(0.0, 0.25), rng),
)
