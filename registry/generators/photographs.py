"""Training photographs: any folder or zip of images as one uint8 tensor.

photographs = load_photographs(Path("flowers128.zip"), size=128)   # (n, 3, 128, 128) uint8
batch = random_crops(photographs[:32], 64, smallest=0.8, rng=rng)  # (32, 3, 64, 64) float32
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from registry.errors import InputError

SMALLEST_CROP = 0.6
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def load_photographs(source: Path, size: int) -> torch.Tensor:
    """Every image below ``source`` (folder or zip), centre-cropped to a square of ``size`` pixels.

    Returns a uint8 tensor (n, 3, size, size) in the order of the sorted names. Errors as
    :func:`load_images`.
    """
    squares = [_square(image, size) for image in load_images(source)]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()


def load_images(source: Path) -> list[Image.Image]:
    """Every image below ``source`` (folder or zip) as RGB, in the order of the sorted names.

    Files that are no images are left out; a source without any raises :class:`InputError`.
    """
    images = []
    for content in _contents(source):
        try:
            with Image.open(io.BytesIO(content)) as image:
                images.append(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError):
            continue
    if not images:
        raise InputError(f"{source}: no image found.", "Give a folder or a zip file of photographs.")
    return images


def _contents(source: Path) -> Iterator[bytes]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield path.read_bytes()
        return
    try:
        archive = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{source}: neither a folder nor a zip file ({error}).", "Give photographs as one or the other."
        ) from error
    with archive:
        for name in sorted(archive.namelist()):
            if Path(name).suffix.lower() in SUFFIXES:
                try:
                    yield archive.read(name)
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                    raise InputError(
                        f"{source}: {name} cannot be read ({error}).", "Make the zip anew."
                    ) from error


def _square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def encoding_crop(images: Sequence[Image.Image], index: int, of: int, size: int) -> Image.Image:
    """The ``index``-th of ``of`` random squares of ``size`` pixels out of ``images``, each of which serves
    for one stretch of the indices: the last squares show images that the first do not.

    Squares are mirrored at random, with a side of ``SMALLEST_CROP`` or more of the image's shorter one.
    """
    image = images[index * len(images) // of]
    rng = np.random.default_rng((1, index))
    side = min(image.size) * rng.uniform(SMALLEST_CROP, 1)
    left, top = (rng.uniform(0, whole - side) for whole in image.size)
    square = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return ImageOps.mirror(square) if rng.random() < 0.5 else square


def random_crops(photographs: torch.Tensor, size: int, smallest: float, rng: torch.Generator) -> torch.Tensor:
    """Mirror at random, crop one random square of side ``smallest``..1 and resize to ``size`` pixels.

    ``photographs`` is uint8 (n, 3, s, s); the result is float32 (n, 3, size, size) in [-1, 1]. One
    window serves the whole batch, which keeps the antialiased resize a single call.
    """
    batch = photographs.float().div_(127.5).sub_(1)
    mirrored = torch.rand(len(batch), generator=rng) < 0.5
    batch[mirrored] = batch[mirrored].flip(-1)
    full = batch.shape[-1]
    side = int(torch.randint(round(smallest * full), full + 1, (), generator=rng))
    top, left = (int(torch.randint(0, full - side + 1, (), generator=rng)) for _ in range(2))
    window = batch[..., top : top + side, left : left + side]
    return F.interpolate(window, (size, size), mode="bicubic", antialias=True).clamp_(-1, 1)
