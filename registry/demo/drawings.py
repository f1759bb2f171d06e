"""Flowers drawn by a program: images of another generator, which no copy can have made.

images = [draw_flower(np.random.default_rng(i), 64) for i in range(30)]
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLING = 4
Colour = tuple[int, int, int]


def draw_flower(rng: np.random.Generator, size: int) -> Image.Image:
    """One RGB image of ``size`` x ``size`` pixels: rings of petals around a disc, before a blurred ground."""
    side = size * SUPERSAMPLING
    image = _ground(rng, side)
    draw = ImageDraw.Draw(image)
    x, y = (side * rng.uniform(0.4, 0.6) for _ in range(2))
    hue, petals = rng.uniform(), int(rng.integers(5, 14))
    radius = side * rng.uniform(0.3, 0.48)
    for ring, scale in enumerate((1.0, 0.75, 0.5)[: rng.integers(1, 4)]):
        for petal in range(petals):
            angle = 2 * math.pi * (petal + 0.5 * ring) / petals + rng.normal(0, 0.05)
            colour = _colour(hue + rng.normal(0, 0.02), 0.75, 0.95 - 0.12 * ring + rng.normal(0, 0.04))
            draw.polygon(_petal(x, y, angle, radius * scale, math.pi / petals), fill=colour)
    heart = radius * rng.uniform(0.15, 0.3)
    draw.ellipse(
        (x - heart, y - heart, x + heart, y + heart), fill=_colour(rng.uniform(0.08, 0.16), 0.8, 0.8)
    )
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _ground(rng: np.random.Generator, side: int) -> Image.Image:
    patches = rng.uniform(20, 130, (6, 6, 3)) * np.array([0.6, 1.0, 0.5])
    ground = Image.fromarray(patches.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return ground.filter(ImageFilter.GaussianBlur(side / 40))


def _petal(x: float, y: float, angle: float, length: float, width: float) -> list[tuple[float, float]]:
    steps = np.linspace(-1, 1, 21)
    radii = length * np.sqrt(np.clip(1 - steps**2, 0, 1))
    angles = angle + 1.3 * width * steps
    return [(x, y), *((x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True))]


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, min(max(value, 0), 1))
    return round(255 * red), round(255 * green), round(255 * blue)
