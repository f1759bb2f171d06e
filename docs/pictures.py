"""The pictures of docs/concepts, made with the shipped generator.

python -m docs.pictures                  writes docs/images/fingerprint.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter, to_images

HERE = Path(__file__).parent
BUILTIN = HERE.parent / "registry/builtins/flowers-ldm/1"
ROWS, SIDE, MARGIN, HEAD = 3, 192, 8, 28
AMPLIFIED = 8


def fingerprint() -> Image.Image:
    """A row an image: the model's, two copies' of the same latent, and what each differs by, amplified."""
    generator = get_adapter("latent-diffusion").load(BUILTIN / "model")
    basis = Basis.load(BUILTIN / "basis.safetensors")
    latents = generator.sample_latents(ROWS, seed=4)
    base = _pixels(generator.render(latents))
    signs = torch.from_numpy(np.random.default_rng(2).choice(np.float32([-1, 1]), (2, basis.bits)))
    copies = [
        _pixels(generator.render(latents, basis.offsets(signs[i : i + 1].repeat(ROWS, 1)))) for i in (0, 1)
    ]
    shown = [base, *copies, *(np.clip(128 + AMPLIFIED * (copy - base), 0, 255) for copy in copies)]
    titles = [
        "the model",
        "Ada's copy",
        "Bruno's copy",
        f"Ada's key x {AMPLIFIED}",
        f"Bruno's key x {AMPLIFIED}",
    ]
    step = SIDE + MARGIN
    sheet = Image.new("RGB", (len(shown) * step + MARGIN, HEAD + ROWS * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for column, (images, title) in enumerate(zip(shown, titles, strict=True)):
        draw.text((MARGIN + column * step, 6), title, fill="black", font=font)
        for row, pixels in enumerate(images):
            tile = Image.fromarray(pixels.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * step, HEAD + row * step))
    return sheet


def _pixels(rendered: torch.Tensor) -> NDArray[np.float64]:
    """Rendered images as 0 to 255, B x H x W x 3."""
    return np.stack([np.asarray(image, dtype=np.float64) for image in to_images(rendered)])


if __name__ == "__main__":
    fingerprint().quantize(256).save(HERE / "images" / "fingerprint.png", optimize=True)
