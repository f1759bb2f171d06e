"""The PCA scheme on a latent (Nie et al., ICML 2023): directions from the generator's own latents.

    bits, shift = chosen_rows(components(shape), bits=None, shift=None, default_bits=64)
    rows, mean = principal_rows(latents, bits, shift)

Row j of the result is an offset of the latent; :meth:`~registry.generators.adapters.Adapter.fold` says
what that is in weights.

Large latents (4 x 64 x 64 has 16 384 dimensions) are too many for a PCA of 10 000 draws. There, as in the
paper's latent-diffusion code, the covariance is pooled over the channels and every channel gets the same
pattern; above 64 x 64 it is pooled over tiles of at most that side too, and the pattern is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from registry.errors import InputError

LATENTS = 10_000
"""Latents drawn from the sampler for the rows, as the paper draws them."""
LATENTS_PER_DIMENSION = 2
"""The least for which the rows of lowest variance mean anything."""


CHUNK = 500
"""Latents held in double precision at a time."""
LARGEST_SIDE = 64
"""Side of the largest pooled pattern: 4096 dimensions, minutes and less than a gigabyte for the PCA."""


def components(shape: Sequence[int], latents: int = LATENTS) -> int:
    """How many principal components latents of ``shape`` have, given that many of them.

    All their dimensions where twice as many latents are at hand, else those of a pattern common to all
    channels (and tiles).
    """
    dimensions = math.prod(shape)
    if len(shape) != 3 or latents >= LATENTS_PER_DIMENSION * dimensions:
        return dimensions
    height, width = _pattern(shape)
    return height * width


def _pattern(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of the pooled pattern of a latent (channels, height, width)."""
    height, width = shape[-2:]
    while max(height, width) > LARGEST_SIDE and height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
    return height, width


def chosen_rows(dimensions: int, bits: int | None, shift: int | None, default_bits: int) -> tuple[int, int]:
    """How many rows are used and from which on: what was asked for, else ``default_bits`` and the last ones.

    :class:`InputError` where a latent of that many ``dimensions`` (see :func:`components`) has no such
    rows, or more than a PCA of ``LATENTS`` latents can tell apart. Costs nothing, so ask before latents are
    drawn.
    """
    if dimensions * LATENTS_PER_DIMENSION > LATENTS:
        raise InputError(
            f"the latent has {dimensions} dimensions, too many for a PCA of {LATENTS} latents.",
            "Use --scheme learned.",
        )
    bits = min(default_bits, dimensions // 8 * 8) if bits is None else bits
    shift = max(0, dimensions - bits) if shift is None else shift
    check_shift(dimensions, bits, shift)
    return bits, shift


def check_shift(dimensions: int, bits: int, shift: int) -> None:
    """:class:`InputError` unless rows ``shift .. shift + bits`` exist in so many dimensions."""
    if shift < 0 or shift + bits > dimensions:
        raise InputError(
            f"--shift {shift} with --bits {bits}: the latent has {dimensions} dimensions only.",
            f"The last {bits} components begin at --shift {dimensions - bits}."
            if bits <= dimensions
            else f"Give --bits of at most {dimensions // 8 * 8}.",
        )


def principal_rows(
    latents: torch.Tensor, bits: int, shift: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and rows ``shift .. shift + bits`` of the PCA of ``latents`` (n, *shape), by falling variance.

    Returns orthonormal rows float32 (bits, *shape) and the mean (*shape). The sign of each row is fixed
    (its entry of largest magnitude is positive), so that the same latents give the same basis. With fewer
    latents than two for each dimension the rows are pooled patterns, see the module.
    """
    shape, n = tuple(latents.shape[1:]), len(latents)
    dimensions = components(shape, n)
    check_shift(dimensions, bits, shift)
    if n < LATENTS_PER_DIMENSION * dimensions:
        raise InputError(f"{n} latents are too few for a PCA in {dimensions} dimensions.")
    mean = _mean(latents)
    pooled = dimensions < math.prod(shape)
    covariance = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for part in latents.split(CHUNK):
        centred = part.double() - mean
        observed = _patches(centred, shape) if pooled else centred.flatten(1)
        covariance.addmm_(observed.T, observed)
    _, vectors = torch.linalg.eigh(covariance.div_(n))
    rows = vectors.T.flip(0)[shift : shift + bits].numpy()
    peaks = rows[np.arange(bits), np.abs(rows).argmax(1)]
    rows = rows * np.sign(peaks)[:, None]
    if pooled:
        rows = _repeated(rows, shape)
    return rows.reshape(bits, *shape).astype(np.float32), mean.numpy().astype(np.float32)


def _mean(latents: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(latents.shape[1:], dtype=torch.float64)
    for part in latents.split(CHUNK):
        total += part.double().sum(0)
    return total / len(latents)


def _patches(latents: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(n, channels, height, width) as observations (n * channels * tiles, pattern)."""
    h, w = _pattern(shape)
    tiles = latents.unflatten(2, (-1, h)).unflatten(4, (-1, w))  # n, c, rows, h, columns, w
    return tiles.permute(0, 1, 2, 4, 3, 5).reshape(-1, h * w)


def _repeated(rows: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Patterns (k, h * w) in every channel and tile of the latent, at unit norm."""
    h, w = _pattern(shape)
    copies = (shape[0], shape[1] // h, shape[2] // w)
    return np.tile(rows.reshape(len(rows), 1, h, w), (1, *copies)) / math.sqrt(math.prod(copies))
