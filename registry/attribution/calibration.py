"""Calibration: logits that mean what they say, on images and attacks that training has not seen.

    calibrate(network, pixels, bits)                        # sets network.scale in place
    calibrate_on(network, source, 500, views=4, rng=rng)    # the same on attacked images of ``source``

Each bit gets one inverse temperature (Guo et al. 2017) that minimises the cross-entropy of held-out
attacked images: bits that are read badly then count for little in a score.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from registry.attribution.attacks import Rng
from registry.attribution.network import KeyNetwork
from registry.attribution.training import Pixels, RenderedImages, attacked_input, read

NEWTON_STEPS = 25
LARGEST = 4.0


def calibrate(network: KeyNetwork, pixels: Pixels, bits: torch.Tensor) -> None:
    """Fit ``network.scale`` (k,) on inputs (n, size, size, 3) with bits (n, k) of 0 and 1.

    Newton's method on each bit's convex one-dimensional loss, in (1/50, 4).
    """
    network.scale.fill_(1.0)
    logits = read(network, pixels).double()
    temperature = torch.ones(bits.shape[1], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        probability = torch.sigmoid(logits * temperature)
        slope = ((probability - bits) * logits).mean(0)
        curvature = (probability * (1 - probability) * logits.square()).mean(0).clamp_min(1e-6)
        temperature = (temperature - (slope / curvature).clamp(-0.5, 0.5)).clamp(0.02, LARGEST)
    network.scale.copy_(temperature)


def calibrate_on(
    network: KeyNetwork, source: RenderedImages, n: int, views: int, rng: Rng
) -> list[Image.Image]:
    """Calibrate on ``views`` attacked views of each of ``n`` images of ``source``; returns the images."""
    images, bits = source.draw(n, torch.Generator().manual_seed(1))
    seen = [attacked_input(image, network.size, rng) for image in images for _ in range(views)]
    calibrate(network, np.stack(seen), bits.repeat_interleave(views, 0))
    return images


def reliability(network: KeyNetwork, pixels: Pixels, bits: torch.Tensor) -> dict[str, list[float]]:
    """The reliability diagram over the filled ones of ten bins of confidence ``max(p, 1 - p)``.

    ``claimed`` and ``observed`` are means within each bin, ``share`` its share of all bits;
    ``cross_entropy`` (one number, in nats a bit) sums it up.
    """
    logits = read(network, pixels)
    confidence = torch.sigmoid(logits.abs()).flatten().numpy()
    right = ((logits > 0) == (bits > 0)).float().flatten().numpy()
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    claimed, observed, share = [], [], []
    for number in range(10):
        chosen = bins == number
        if chosen.any():
            share.append(float(chosen.mean()))
            claimed.append(float(confidence[chosen].mean()))
            observed.append(float(right[chosen].mean()))
    loss = float(F.binary_cross_entropy_with_logits(logits, bits.float()))
    return {"claimed": claimed, "observed": observed, "share": share, "cross_entropy": [loss]}
