"""What happens to an image between a recipient's copy and an auditor: the attacks.

    rng = np.random.default_rng(1)
    attacked = ATTACKS["jpeg"](image, rng)
    attacked = WAVES["waves-rotation"].at(image, 0.5, rng)      # the middle of its range: 22.5 degrees

Every attack takes and returns an RGB image of 8 bit of the same size and draws its strength from the
generator it is given. Lengths in pixels are stated at 64 pixels of image side and scale with it.

Attacks stand in four tables, joined in ``BENCHMARK``: ``ATTACKS`` (everyday changes, the figures of every
network package), ``PAPER`` (the four of Nie et al.), ``WAVES`` (that benchmark's single distortions with
their ranges) and ``PLATFORM`` (what sites and screens do). HEIC is missing: Pillow cannot write it
without a library of its own; AVIF, the same idea with a newer codec, stands for both.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

Rng = np.random.Generator
Attack = Callable[[Image.Image, Rng], Image.Image]
Apply = Callable[[Image.Image, float, Rng], Image.Image]
"""An attack with a parameter, in its own units."""

REFERENCE_SIDE = 64
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
_ENCODING: dict[str, dict[str, Any]] = {"WEBP": {"method": 2}, "AVIF": {"speed": 8}}


@dataclass(frozen=True)
class Ranged:
    """An attack of one parameter, from ``mild`` to ``harsh``; called, it draws the parameter uniformly.

    ``whole`` parameters are drawn among the integers, both ends included.
    """

    apply: Apply
    mild: float
    harsh: float
    whole: bool = False

    def __call__(self, image: Image.Image, rng: Rng) -> Image.Image:
        low, high = sorted((self.mild, self.harsh))
        value = rng.integers(int(low), int(high) + 1) if self.whole else rng.uniform(low, high)
        return self.apply(image, float(value), rng)

    def at(self, image: Image.Image, strength: float, rng: Rng) -> Image.Image:
        """The attack at ``strength``: 0 is the mild end of its range, 1 the harsh one."""
        if not 0 <= strength <= 1:
            raise ValueError(f"a strength lies between 0 and 1, not {strength}")
        value = self.mild + strength * (self.harsh - self.mild)
        return self.apply(image, float(round(value)) if self.whole else value, rng)


def recompress(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """``image`` after one generation of lossy compression (``JPEG``, ``WEBP`` or ``AVIF``)."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality, **_ENCODING.get(kind, {}))
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


def rotate(image: Image.Image, degrees: float, rng: Rng) -> Image.Image:
    """Turn about the centre, to either side; the corners that turn in are black."""
    return image.rotate(degrees * rng.choice((-1, 1)), Image.Resampling.BILINEAR)


def down_and_up(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Shrink by ``factor`` and enlarge again, as thumbnails and screenshots do."""
    small = tuple(max(1, round(side * factor)) for side in image.size)
    down, up = (FILTERS[i] for i in rng.integers(0, len(FILTERS), 2))
    return image.resize((small[0], small[1]), down).resize(image.size, up)


def erase(
    image: Image.Image, area: float, rng: Rng, colour: tuple[int, int, int] | None = None
) -> Image.Image:
    """Paint a random rectangle of ``area`` (a share of the image) in one colour, at random by default."""
    width, height = image.size
    aspect = np.exp(rng.uniform(np.log(0.5), np.log(2)))
    w = min(width, round(width * np.sqrt(area * aspect)))
    h = min(height, round(height * np.sqrt(area / aspect)))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    erased = image.copy()
    drawn = tuple(int(c) for c in rng.integers(0, 256, 3))
    erased.paste(drawn if colour is None else colour, (left, top, left + w, top + h))
    return erased


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Multiply all values by ``factor``."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Stretch the values about their mean by ``factor``."""
    return ImageEnhance.Contrast(image).enhance(factor)


def screenshot(image: Image.Image, zoom: float, rng: Rng) -> Image.Image:
    """Shown on a screen at ``zoom``, off the pixel grid, captured there and saved as JPEG or WebP."""
    width, height = (max(2, round(side * zoom)) for side in image.size)
    offset = rng.uniform(-0.5, 0.5, 2) * image.width / width
    box = (
        max(0.0, offset[0]),
        max(0.0, offset[1]),
        min(image.width, image.width + offset[0]),
        min(image.height, image.height + offset[1]),
    )
    shown = image.resize((width, height), FILTERS[rng.integers(len(FILTERS))], box=box)
    captured = recompress(shown, str(rng.choice(["JPEG", "WEBP"])), int(rng.integers(70, 96)))
    return captured.resize(image.size, FILTERS[rng.integers(len(FILTERS))])


def _combination(image: Image.Image, rng: Rng) -> Image.Image:
    """Brightness, blur, noise and JPEG, one after the other, each of medium strength."""
    image = brightness(image, rng.uniform(0.8, 1.25))
    image = blur(image, rng.uniform(0.3, 0.7))
    image = add_noise(image, rng.uniform(0.0, 0.05), rng)
    return recompress(image, "JPEG", int(rng.integers(60, 96)))


def _plain(change: Callable[[Image.Image, float], Image.Image]) -> Apply:
    """An attack that has no chance in it beyond its parameter."""
    return lambda image, value, rng: change(image, value)


def _saved(kind: str) -> Apply:
    """One file of ``kind``; the parameter is its quality."""
    return lambda image, quality, rng: recompress(image, kind, int(quality))


def _then_saved(change: Apply, kind: str) -> Apply:
    """``change`` with its parameter, then a file of ``kind`` at a quality of 50 to 90."""
    return lambda image, value, rng: recompress(change(image, value, rng), kind, int(rng.integers(50, 91)))


ATTACKS: dict[str, Attack] = {
    "clean": lambda image, rng: image,
    "jpeg": Ranged(_saved("JPEG"), 95, 50, whole=True),
    "jpeg50": lambda image, rng: recompress(image, "JPEG", 50),
    "webp": Ranged(_saved("WEBP"), 95, 50, whole=True),
    "noise": Ranged(add_noise, 0.02, 0.1),
    "blur": Ranged(_plain(blur), 0.4, 1.2),
    "brightness": Ranged(_plain(brightness), 0.7, 1.4),
    "contrast": Ranged(_plain(contrast), 0.7, 1.4),
    "downscale": Ranged(down_and_up, 0.9, 0.5),
    "crop": Ranged(crop_and_rescale, 1.0, 0.75),
    "combination": _combination,
}
"""Everyday changes by name. ``combination`` joins four of them; all others are single."""

PAPER_BLUR = 0.5
PAPER_NOISE = 0.1
PAPER_QUALITY = 50

PAPER: dict[str, Attack] = {
    "paper-blur": lambda image, rng: blur(image, PAPER_BLUR),
    "paper-noise": lambda image, rng: add_noise(image, PAPER_NOISE, rng),
    "paper-jpeg": lambda image, rng: recompress(image, "JPEG", PAPER_QUALITY),
    "paper-combination": lambda image, rng: recompress(
        add_noise(blur(image, PAPER_BLUR), PAPER_NOISE, rng), "JPEG", PAPER_QUALITY
    ),
}
"""The four of Nie et al., of fixed strength, the last being the others in turn.

The released code blurs by half a pixel at 256 pixels; half a pixel at 64 is four times that.
"""

WAVES: dict[str, Ranged] = {
    "waves-rotation": Ranged(rotate, 0, 45),
    "waves-crop": Ranged(lambda image, area, rng: crop_and_rescale(image, area**0.5, rng), 1.0, 0.5),
    "waves-erasing": Ranged(lambda image, area, rng: erase(image, area, rng, (0, 0, 0)), 0, 0.25),
    "waves-brightness": Ranged(_plain(brightness), 1, 2),
    "waves-contrast": Ranged(_plain(contrast), 1, 2),
    "waves-blur": Ranged(_plain(blur), 0, 20 * REFERENCE_SIDE / 512),
    "waves-noise": Ranged(add_noise, 0, 0.1),
    "waves-jpeg": Ranged(_saved("JPEG"), 90, 10, whole=True),
}
"""The single distortions of WAVES (An et al., ICML 2024) with their ranges; blur is 0 to 20 pixels at 512."""

PLATFORM: dict[str, Attack] = {
    "downscale-jpeg": Ranged(_then_saved(down_and_up, "JPEG"), 0.9, 0.5),
    "downscale-webp": Ranged(_then_saved(down_and_up, "WEBP"), 0.9, 0.5),
    "screenshot": Ranged(screenshot, 1.7, 0.6),
    "avif": Ranged(_saved("AVIF"), 90, 40, whole=True),
    "jpeg-twice": Ranged(_then_saved(_saved("JPEG"), "JPEG"), 95, 50, whole=True),
}
"""What sites and screens do to images."""

BENCHMARK: dict[str, Attack] = {**ATTACKS, **PAPER, **WAVES, **PLATFORM}
"""Every attack by name."""


def training_attack(image: Image.Image, rng: Rng) -> Image.Image:
    """One draw of the training mix: up to two attacks, often JPEG after them, beyond the benchmark's ranges.

    Crops and rotations are not among them: training keeps windows in place (see
    :mod:`registry.attribution.training`) and the verifier searches for the window.
    """
    for step in rng.permutation(len(_TRAINING))[: rng.choice([0, 1, 1, 2])]:
        image = _TRAINING[step](image, rng)
    if rng.random() < 0.5:
        image = recompress(image, "JPEG", int(rng.integers(40, 97)))
    return image


def _factor(rng: Rng) -> float:
    """A factor of brightness or contrast, as often below one as above."""
    return float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))


_TRAINING: tuple[Attack, ...] = (
    Ranged(_saved("JPEG"), 96, 30, whole=True),
    Ranged(_saved("WEBP"), 96, 35, whole=True),
    Ranged(add_noise, 0.0, 0.12),
    Ranged(_plain(blur), 0.2, 1.7),
    lambda image, rng: brightness(image, _factor(rng)),
    lambda image, rng: contrast(image, _factor(rng)),
    Ranged(down_and_up, 1.0, 0.45),
    Ranged(erase, 0.0, 0.25),
)
