"""What a fingerprint does to images: base, copy and their difference, at the same latents.

    figures = draw_pictures(home, model, folder, count=8, seed=1)     # base-0.png, copy-0.png, ...
    figures.psnr_db

The copy's key is drawn at random and belongs to nobody: no issued key is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from registry.generators import service
from registry.generators.models import Model
from registry.home import Home
from registry.progress import progress

AMPLIFIED = 8
"""How much the differences are enlarged, around middle grey."""
LARGEST_SIDE = 256
"""Pixels of the pictures' sides: larger ones are scaled down, the figures come from the whole images."""
KINDS = ("base", "copy", "difference")


@dataclass(frozen=True)
class Pictures:
    """Files that were written, by name, and the PSNR in dB between each copy's and base's image."""

    files: tuple[Path, ...]
    psnr_db: tuple[float, ...]
    side: int


def draw_pictures(home: Home, model: Model, folder: Path, count: int, seed: int) -> Pictures:
    """Write ``count`` pictures of each kind into ``folder``; :class:`StateError` without a basis."""
    import torch

    from registry.fingerprints.basis import Basis
    from registry.fingerprints.quality import psnr_db, random_signs
    from registry.generators.adapters import get_adapter, to_images

    adapter = get_adapter(model.adapter)
    stored = home.storage
    local = folder / "basis.safetensors"
    local.write_bytes(stored.read(service.basis_name(model)))
    basis = Basis.load(local)
    local.unlink()
    files: list[Path] = []
    figures: list[float] = []
    with (
        stored.local(service.base_name(model)) as base_folder,
        stored.local(service.template_name(model)) as template,
        torch.no_grad(),
        progress("pictures", count) as bar,
    ):
        base, copies = adapter.load(base_folder), adapter.load(template)
        latents, signs = base.sample_latents(count, seed), random_signs(count, basis.bits, seed)
        for number in range(count):
            one = slice(number, number + 1)
            unmarked = base.render(latents[one])
            marked = copies.render(latents[one], basis.offsets(signs[one]))
            figures.append(float(psnr_db(marked, unmarked)[0]))
            difference = ((marked - unmarked) * AMPLIFIED + 0.5).clamp(0, 1)
            for kind, pixels in zip(KINDS, (unmarked, marked, difference), strict=True):
                path = folder / f"{kind}-{number}.png"
                _small(to_images(pixels)[0]).save(path, optimize=True)
                files.append(path)
            bar.update(number + 1)
    return Pictures(tuple(files), tuple(figures), base.size)


def _small(image: Image.Image) -> Image.Image:
    if max(image.size) <= LARGEST_SIDE:
        return image
    return image.resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
