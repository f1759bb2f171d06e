"""The PCA scheme on a latent (Nie et al., ICML 2023): directions from the generator's own latents.

    rows, mean = principal_rows(latents, bits=256, shift=640)

Row j of the result is an offset of the latent; :meth:`~registry.generators.adapters.Adapter.fold` says
what that is in weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from registry.errors import InputError


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
    (its entry of largest magnitude is positive), so that the same latents give the same basis.
    """
    shape, n = latents.shape[1:], len(latents)
    dimensions = math.prod(shape)
    check_shift(dimensions, bits, shift)
    if n < 2 * dimensions:
        raise InputError(f"{n} latents are too few for a PCA in {dimensions} dimensions.")
    flat = latents.flatten(1).double()
    mean = flat.mean(0)
    centred = flat - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred / n)
    rows = vectors.T.flip(0)[shift : shift + bits].numpy()
    peaks = rows[np.arange(bits), np.abs(rows).argmax(1)]
    rows = rows * np.sign(peaks)[:, None]
    return rows.reshape(bits, *shape).astype(np.float32), mean.numpy().reshape(shape).astype(np.float32)
