"""Attacks by somebody who wants a fingerprint gone, or on an image that is not the copy's.

    regenerated = regenerate(images, autoencoder)                  # through somebody's own autoencoder
    forged = forge(others, residual(of_copy, of_base))             # the victim's mark on other images
    cleaned = suppress(network, images, psnr_db=40.0)              # with the network and its gradients
    changed = to_int8(state)                                       # on a copy's weights: also to_half, pruned
    mixed = interleaved([signs_of_one, signs_of_another], basis, rng)   # what colluders render with

Images are float tensors (n, 3, h, w) in [0, 1]; what an attacker publishes is rounded to 8 bit by
:func:`~registry.generators.adapters.to_images`. Changes that happen to images on their way, without
intent, are in :mod:`registry.attribution.attacks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from registry.fingerprints.basis import Basis, Target
from registry.generators.photographs import random_crops

BATCH = 64
State = dict[str, torch.Tensor]
Logits = Callable[[torch.Tensor], torch.Tensor]
"""Images (n, 3, h, w) in [0, 1] -> logits (n, k), differentiable."""


@torch.no_grad()
def regenerate(images: torch.Tensor, autoencoder: AutoencoderKL, noise: float = 0.0) -> torch.Tensor:
    """Encode and decode, at the autoencoder's own size, with ``noise`` (in sd of the latents) between.

    The attacker needs an autoencoder, not the fingerprinted model (Zhao et al., NeurIPS 2024).
    """
    size, side = images.shape[-2:], autoencoder.config.sample_size
    rng = torch.Generator().manual_seed(0)
    decoded = []
    for part in images.split(BATCH):
        latents = autoencoder.encode(_resized(part, (side, side)) * 2 - 1).latent_dist.mean
        latents = latents + noise * latents.std() * torch.randn(latents.shape, generator=rng)
        decoded.append(_resized((autoencoder.decode(latents).sample + 1) / 2, size))
    return torch.cat(decoded)


def residual(of_copy: torch.Tensor, of_base: torch.Tensor) -> torch.Tensor:
    """What a copy adds to images on average, (3, h, w): the mean of its images less the base model's.

    With the base's images of the same latents one image is enough where the fingerprint does not depend
    on content; with images of other latents (or photographs alike) the content has to average out.
    """
    return of_copy.mean(0) - of_base.mean(0)


def forge(images: torch.Tensor, added: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    """``images`` with an estimated residual (3, h, w) pasted in, ``gain`` times."""
    return (images + gain * added).clamp(0, 1)


def suppress(network: Logits, images: torch.Tensor, psnr_db: float, steps: int = 60) -> torch.Tensor:
    """The images within ``psnr_db`` of the given ones whose bits read most against the first reading.

    Projected gradient descent on ``sum_j L_j sign(L_j at first)``: whoever holds the network knows no
    key, but the first reading is right for most bits, so turning it round takes the evidence away.
    """
    radius = 10 ** (-psnr_db / 20)  # root mean square over the image
    with torch.no_grad():
        first = network(images).sign()
    change = torch.zeros_like(images)
    for step in range(steps):
        change.requires_grad_(True)
        score = (network(images + change) * first).sum()
        (slope,) = torch.autograd.grad(score, change)
        with torch.no_grad():
            rate = 2 * radius * (1 - step / steps) / 4
            change = change - rate * slope / _rms(slope).clamp_min(1e-20)
            change = change * (radius / _rms(change).clamp_min(1e-20)).clamp_max(1)
            change = (images + change).clamp(0, 1) - images
    return (images + change).detach()


def to_half(state: Mapping[str, torch.Tensor]) -> State:
    """Every floating-point tensor rounded to half precision, in its own type again."""
    return _each(state, lambda tensor: tensor.half().to(tensor.dtype))


def to_int8(state: Mapping[str, torch.Tensor]) -> State:
    """Every floating-point tensor rounded to 8 bit, symmetrically, a scale for each row of its first axis.

    The usual weight-only quantisation; a vector (bias, gain) has one scale.
    """

    def quantised(tensor: torch.Tensor) -> torch.Tensor:
        rows = tensor.flatten(1) if tensor.dim() > 1 else tensor[None]
        scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-20) / 127
        return ((rows / scale).round() * scale).reshape(tensor.shape)

    return _each(state, quantised)


def pruned(state: Mapping[str, torch.Tensor], share: float) -> State:
    """The ``share`` of smallest magnitude in each tensor set to zero."""

    def sparse(tensor: torch.Tensor) -> torch.Tensor:
        removed = int(share * tensor.numel())
        if removed == 0:
            return tensor
        threshold = tensor.abs().flatten().kthvalue(removed).values
        return torch.where(tensor.abs() <= threshold, torch.zeros_like(tensor), tensor)

    return _each(state, sparse)


def averaged(signs: Sequence[torch.Tensor], basis: Basis) -> dict[Target, torch.Tensor]:
    """What colluders' averaged weights add, the keys ``signs`` (n, k) each: offsets (n, *shape).

    The map from keys to weights is linear, so the average of the copies is the copy of the average.
    """
    return basis.offsets(torch.stack([each.float() for each in signs]).mean(0))


def interleaved(
    signs: Sequence[torch.Tensor], basis: Basis, rng: torch.Generator
) -> dict[Target, torch.Tensor]:
    """The same where each tensor comes from a colluder at random, and a lone tensor value by value."""
    offsets = [basis.offsets(each) for each in signs]
    mixed = {}
    for target, first in offsets[0].items():
        alone = len(offsets[0]) == 1
        shape = first.shape if alone else (len(first), *[1] * (first.dim() - 1))
        chosen = torch.randint(0, len(signs), shape, generator=rng).expand(first.shape)
        mixed[target] = torch.stack([each[target] for each in offsets]).gather(0, chosen[None])[0]
    return mixed


def fine_tune(
    autoencoder: AutoencoderKL, photographs: torch.Tensor, steps: int, lr: float = 1e-4, batch: int = 16
) -> None:
    """Train a copy's decoder on ``photographs`` uint8 (n, 3, s, s) as autoencoders are trained (L1 and L2).

    Every parameter behind the latent may move, a carrier tensor of its own among them.
    """
    side = autoencoder.config.sample_size
    behind = [
        parameter
        for name, parameter in autoencoder.named_parameters()
        if not name.startswith(("encoder.", "quant_conv."))
    ]
    for parameter in behind:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(behind, lr=lr, weight_decay=0.0)
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, len(photographs), (batch,), generator=rng)
        images = random_crops(photographs[chosen], side, smallest=0.8, rng=rng)
        with torch.no_grad():
            latents = autoencoder.encode(images).latent_dist.mean
        error = autoencoder.decode(latents).sample - images
        optimiser.zero_grad()
        (error.abs().mean() + error.square().mean()).backward()
        optimiser.step()
    for parameter in behind:
        parameter.requires_grad_(False)


def innocents(k: int, n: int, seed: int = 0) -> np.ndarray:
    """``n`` further keys, int8 (n, k), that no copy was made with."""
    return np.random.default_rng([seed, n]).choice(np.array([-1, 1], np.int8), (n, k))


def _each(state: Mapping[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    return {
        name: change(tensor) if tensor.is_floating_point() and tensor.numel() else tensor
        for name, tensor in state.items()
    }


def _rms(images: torch.Tensor) -> torch.Tensor:
    return images.square().mean((1, 2, 3), keepdim=True).sqrt()


def _resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images.clamp(0, 1)
    return F.interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
