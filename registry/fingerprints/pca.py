"""The PCA scheme on a latent (Nie et al., ICML 2023): directions from the generator's own latents.

directions = principal_directions(latents, bits=256, shift=640)
strength, psnr = choose_strength(generator, directions, latents[:500], target_db=34.3)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from registry.errors import InputError
from registry.generators.adapters import Generator
from registry.progress import progress

STRENGTH_STEPS = 12
TOLERANCE_DB = 0.02


def principal_directions(latents: torch.Tensor, bits: int, shift: int) -> NDArray[np.float32]:
    """Rows ``shift .. shift + bits`` of the PCA of ``latents`` (n, *shape), by falling variance.

    Returns orthonormal directions float32 (bits, *shape). The sign of each row is fixed (its entry of
    largest magnitude is positive), so that the same latents give the same basis.
    """
    shape, n = latents.shape[1:], len(latents)
    dimensions = math.prod(shape)
    if shift < 0 or shift + bits > dimensions:
        raise InputError(f"--shift {shift} with --bits {bits}: the latent has {dimensions} dimensions only.")
    if n < 2 * dimensions:
        raise InputError(f"{n} latents are too few for a PCA in {dimensions} dimensions.")
    flat = latents.flatten(1).double()
    centred = flat - flat.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred / n)
    rows = vectors.T.flip(0)[shift : shift + bits].numpy()
    peaks = rows[np.arange(bits), np.abs(rows).argmax(1)]
    rows = rows * np.sign(peaks)[:, None]
    return rows.reshape(bits, *shape).astype(np.float32)


def psnr_db(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each pair of images (n, 3, h, w) in [0, 1], as 8 bit files."""
    difference = (a.mul(255).round() - b.mul(255).round()) / 255
    return -10 * torch.log10(difference.square().flatten(1).mean(1).clamp_min(1e-12))


def copy_psnr(
    generator: Generator, directions: NDArray[np.float32], strength: float, latents: torch.Tensor
) -> torch.Tensor:
    """PSNR in dB between a copy's and the base model's image of each latent, a random key for each."""
    return _Trial(generator, directions, latents).psnr(strength)


class _Trial:
    """Base images of some latents, rendered once, and a random key for each."""

    def __init__(self, generator: Generator, directions: NDArray[np.float32], latents: torch.Tensor) -> None:
        rng = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (len(latents), len(directions)), generator=rng).float() * 2 - 1
        self._offsets = torch.einsum("nk,k...->n...", signs, torch.from_numpy(directions))
        self._generator, self._latents, self._base = generator, latents, generator.render(latents)

    def psnr(self, strength: float) -> torch.Tensor:
        return psnr_db(self._generator.render(self._latents, strength * self._offsets), self._base)


def choose_strength(
    generator: Generator, directions: NDArray[np.float32], latents: torch.Tensor, target_db: float
) -> tuple[float, float]:
    """The strength whose mean PSNR over ``latents`` is ``target_db``, and that mean.

    Steps on a logarithmic scale (halving the strength adds about 6 dB), on an eighth of the latents
    first. Raises :class:`InputError` where no strength reaches the target.
    """
    strength, reached = float(latents.std()) / 4, math.nan
    with progress("strength", STRENGTH_STEPS) as bar:
        for part in (latents[: max(1, len(latents) // 8)], latents):
            trial = _Trial(generator, directions, part)
            for step in range(STRENGTH_STEPS):
                reached = float(trial.psnr(strength).mean())
                bar.update(step + 1, strength=strength, psnr_db=reached)
                if abs(reached - target_db) < TOLERANCE_DB:
                    break
                strength *= 10 ** ((reached - target_db) / 20)
    if abs(reached - target_db) < TOLERANCE_DB:
        return strength, reached
    raise InputError(
        f"no strength gives {target_db} dB between copy and base model (last: {reached:.1f}).",
        "Choose another --psnr or --shift.",
    )
