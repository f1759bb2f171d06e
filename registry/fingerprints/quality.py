"""The strength of a fingerprint by the quality it leaves: PSNR between a copy's images and the base's.

psnr = copy_psnr(generator, basis, latents)                      # dB, one for each latent
basis = choose_strength(generator, basis, latents, target_db=34.3)

``generator`` renders copies; where the basis replaces tensors of the base model, so that copies are
rendered by another than the base's, ``base`` is the latter.
"""

from __future__ import annotations

import math

import torch

from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.generators.adapters import Generator
from registry.progress import progress

STRENGTH_STEPS = 20
TOLERANCE_DB = 0.02


def psnr_db(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each pair of images (n, 3, h, w) in [0, 1], as 8 bit files."""
    difference = (a.mul(255).round() - b.mul(255).round()) / 255
    return -10 * torch.log10(difference.square().flatten(1).mean(1).clamp_min(1e-12))


def random_signs(n: int, bits: int, seed: int) -> torch.Tensor:
    """``n`` uniform keys, float32 (n, bits) of -1 and +1."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (n, bits), generator=rng).float() * 2 - 1


def copy_psnr(
    generator: Generator, basis: Basis, latents: torch.Tensor, base: Generator | None = None
) -> torch.Tensor:
    """PSNR in dB between a copy's and the base model's image of each latent, a random key for each."""
    signs = random_signs(len(latents), basis.bits, seed=0)
    marked = generator.render(latents, basis.offsets(signs))
    return psnr_db(marked, (base or generator).render(latents))


class _Bracket:
    """Where the strength lies: above ``weak``, whose PSNR is too high, and below ``strong``."""

    def __init__(self) -> None:
        self.weak = self.strong = math.nan

    def next(self, strength: float, excess_db: float) -> float:
        """The next strength to try: halfway between both ends, six decibels a halving before."""
        if excess_db > 0:
            self.weak = strength
        else:
            self.strong = strength
        halfway = math.sqrt(self.weak * self.strong)
        return strength * 10 ** (excess_db / 20) if math.isnan(halfway) else halfway


def choose_strength(
    generator: Generator,
    basis: Basis,
    latents: torch.Tensor,
    target_db: float,
    base: Generator | None = None,
) -> Basis:
    """``basis`` at the strength whose mean PSNR over ``latents`` is ``target_db``, the figure noted in it.

    Steps on a logarithmic scale (halving the strength adds about 6 dB), on an eighth of the latents
    first, from the strength the basis has. Raises :class:`InputError` where no strength reaches the target.
    """
    strength, reached = basis.strength, math.nan
    with progress("strength", STRENGTH_STEPS) as bar:
        for part in (latents[: max(1, len(latents) // 8)], latents):
            signs = random_signs(len(part), basis.bits, seed=0)
            unmarked = (base or generator).render(part)
            bracket = _Bracket()
            for step in range(STRENGTH_STEPS):
                offsets = basis.with_strength(strength, {}).offsets(signs)
                reached = float(psnr_db(generator.render(part, offsets), unmarked).mean())
                bar.update(step + 1, strength=strength, psnr_db=reached)
                if abs(reached - target_db) < TOLERANCE_DB:
                    break
                strength = bracket.next(strength, reached - target_db)
    if abs(reached - target_db) < TOLERANCE_DB:
        return basis.with_strength(strength, {"psnr_db": round(reached, 3)})
    raise InputError(
        f"no strength gives {target_db} dB between copy and base model (last: {reached:.1f}).",
        "Choose another --psnr or --shift.",
    )
