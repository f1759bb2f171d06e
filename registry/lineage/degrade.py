"""What happens to images on their way: saved as JPEG, resized, blurred.

degraded = degrade(images, "jpeg75", seed=0)          # (n, h, w, 3) uint8
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from registry.attribution.attacks import recompress

Pixels = NDArray[np.uint8]

TRAINING = ("clean", "jpeg", "smaller", "larger", "blur", "smaller-jpeg")
"""What the set encoder is trained against; strengths are drawn for each call."""
TESTED = ("clean", "jpeg75", "resize75", "resize150", "blur1")
"""What the benchmark reports."""
BICUBIC = Image.Resampling.BICUBIC


def degrade(images: Pixels, kind: str, seed: int) -> Pixels:
    """Each of the images (n, h, w, 3) after ``kind``; a resize leaves them at their new size."""
    rng = np.random.default_rng(seed)
    if kind == "clean":
        return images
    factor = {"smaller": rng.uniform(0.6, 0.95), "larger": rng.uniform(1.1, 1.8)}.get(kind.split("-")[0], 1.0)
    factor = {"resize75": 0.75, "resize150": 1.5}.get(kind, factor)
    sd = {"blur": rng.uniform(0.3, 1.2), "blur1": 1.0}.get(kind, 0.0)
    side = round(images.shape[1] * factor), round(images.shape[2] * factor)
    changed = []
    for pixels in images:
        image = Image.fromarray(pixels)
        if factor != 1:
            image = image.resize((side[1], side[0]), BICUBIC)
        if sd:
            image = image.filter(ImageFilter.GaussianBlur(sd))
        if "jpeg" in kind:
            quality = 75 if kind == "jpeg75" else int(rng.integers(55, 96))
            image = recompress(image, "JPEG", quality)
        changed.append(np.asarray(image))
    return np.stack(changed)
