"""The learned scheme: the directions in weight space that leave most evidence for the distortion they cost.

    target = functools.partial(adapter.target, folder)       # where a parameter is stored
    basis = learn_directions(generator, target, model_digest, latents, bits=64, work=work)
    filters = filters_of(generator, basis, latents, work)    # how to read it

For a decoder ``g(z)`` with biases and normalisation weights theta, let J(z) = dg / dtheta, R(x) = x - g(E(x))
the residual that the base autoencoder leaves of an image, and W a high-pass filter. The matched filters
``T = J' W R(x)`` (one number for each parameter, see :mod:`registry.attribution.matched_filter`) move by
``F delta`` when the weights move by delta, ``F = E[J' W R J]``, and scatter with covariance N over attacked
images of the base model. The best linear reading of delta then has the signal-to-noise ratio
``delta' F' N^-1 F delta``, and the copy's images differ from the base's by ``delta' M delta``,
``M = E[J' J]``. So the k directions are the leading eigenvectors of ``F' N^-1 F`` against M: the
counterpart in weight space of the lowest-variance principal components, which are the directions of a latent
with most room beside the content. They are orthonormal in M, so equal in the distortion they cause;
``N^-1 F D`` reads them.

Nothing is found by gradient descent here. From random directions it moves slowly (64 bits hardly at all in
some hundred steps), because no reader is good enough to tell the directions where to go; and random ones
lie mostly within what the base decoder can produce, where the content covers them (their residual is nine
decibels below the distortion they cause).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from registry.attribution.attacks import training_attack
from registry.attribution.matched_filter import Filters, high_pass, read_parameters, statistics
from registry.errors import InputError
from registry.fingerprints.basis import Basis, Target
from registry.fingerprints.eigenproblem import leading_directions
from registry.generators.adapters import Generator, to_images
from registry.generators.latent_diffusion.files import parameter_name
from registry.generators.per_sample import per_sample
from registry.interrupts import between_steps
from registry.progress import progress
from registry.storage import atomic_file

PARAMETERS = 2304
"""At most so many parameters carry the key: the matrices of this side stay within seconds and 50 MB."""
JACOBIANS = 3
"""Latents whose Jacobian is taken: each already has 12 288 rows at 64 pixels."""
NOISE_IMAGES = 960
FIRST_STRENGTH = 0.3
"""Where the search for the strength begins: the directions cost as much each, about 34 dB at 64 bits."""
BATCH = 64
WINDOW = 64
"""Side in pixels of the part of the image whose Jacobian is taken; the decoder is convolutional."""
STEP = 0.05
"""Of the finite differences, in units of a normalised activation."""
SHRINKAGE = 0.3
"""Of the covariance N towards its diagonal (fewer images than parameters)."""
RIDGE = 1.0
"""Of M, in units of its diagonal. Without it the directions fit the few Jacobians: at 1e-4 they cost six
times the amplitude that M promised, and 62 % of bits were read where 72 % are with it (64 bits, 34.3 dB)."""
FILTERS = "filters.safetensors"


def learn_directions(
    generator: Generator,
    target: Callable[[str], Target],
    model_digest: str,
    latents: torch.Tensor,
    bits: int,
    work: Path,
) -> Basis:
    """The best ``bits`` directions for the decoder of ``generator``, at a strength to be chosen.

    ``latents`` (n, c, h, w) are the sampler's. Every Jacobian is kept in ``work`` and found again there, and
    the filters that read the directions are left there. :class:`InputError` for a generator without an
    autoencoder, or with fewer parameters than bits.
    """
    stage, carrying = _autoencoder(generator), carriers(generator)
    names, shapes = list(carrying), list(carrying.values())
    total = sum(shape.numel() for shape in shapes)
    if bits > total:
        raise InputError(
            f"--bits {bits}: the decoder has {total} biases and normalisation weights that can carry keys.",
            f"Give at most {total // 8 * 8}.",
        )
    signal, distortion = _averages(stage, names, shapes, _windows(stage, latents), work)
    mean, noise = _noise(generator, names, latents, work)
    directions, filters = best_directions(signal, noise, distortion, bits)
    spread = _spread(noise)
    split = directions.T.float().split([shape.numel() for shape in shapes], 1)
    reading = {"mean": mean, "spread": spread, "filters": (filters * spread[:, None]).float().contiguous()}
    with atomic_file(work / FILTERS) as file:
        file.write(save(reading, {"names": json.dumps(names)}))
    by_target = {
        target(name): part.reshape(bits, *shape).contiguous().numpy()
        for name, part, shape in zip(names, split, shapes, strict=True)
    }
    return Basis("learned", FIRST_STRENGTH, 0, model_digest, by_target)


def carriers(generator: Generator) -> dict[str, torch.Size]:
    """Parameters of the decoder that can carry a key, and their shapes."""
    stage = _autoencoder(generator)
    return {name: stage.get_parameter(name).shape for name in read_parameters(stage, PARAMETERS)}


def _autoencoder(generator: Generator) -> Any:
    stage = getattr(generator, "first_stage", None)
    if stage is None or not hasattr(stage, "encoder"):
        raise InputError(
            "the learned scheme needs an autoencoder's decoder with its encoder.", "Use --scheme pca."
        )
    return stage


def filters_of(generator: Generator, basis: Basis, latents: torch.Tensor, work: Path) -> Filters:
    """How to read a learned ``basis``: what :func:`learn_directions` has left in ``work``.

    For a basis that was learned elsewhere, the directions are their own filters, which read about as well
    (64 bits at 34.3 dB: 71.5 against 71.9 %).
    """
    if (work / FILTERS).exists():
        with safe_open(work / FILTERS, "pt") as file:
            names = tuple(json.loads(file.metadata()["names"]))
            return Filters(names, *(file.get_tensor(part) for part in ("mean", "spread", "filters")))
    names = tuple(parameter_name(tensor) for _, tensor in basis.directions)
    mean, noise = _noise(generator, names, latents, work)
    spread = _spread(noise)
    rows = [torch.from_numpy(d).flatten(1) for d in basis.directions.values()]
    filters = torch.cat(rows, 1).T * spread[:, None]
    correlation = noise / spread[:, None] / spread
    return Filters(names, mean, spread, filters / (filters * (correlation @ filters)).sum(0).sqrt())


def best_directions(
    signal: torch.Tensor, noise: torch.Tensor, distortion: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leading eigenvectors of ``F' N^-1 F`` against M, and how to read them: (P, bits) both, float64.

    ``signal`` F, ``noise`` N and ``distortion`` M are (P, P), the last two positive semidefinite.
    """
    signal, noise, distortion = signal.double(), noise.double(), distortion.double()
    spread = _spread(noise)
    # A bias before a normalisation of its own channel costs nothing and shows nothing: no step there.
    cost = distortion.diagonal().sqrt()
    cost = cost.clamp_min(1e-2 * float(cost.median()))
    eye = torch.eye(len(noise), dtype=torch.float64)
    correlation = (1 - SHRINKAGE) * noise / spread[:, None] / spread + SHRINKAGE * eye
    response = signal / spread[:, None] / cost
    quality = response.T @ torch.linalg.solve(correlation, response)
    scaled = leading_directions(quality, distortion, cost, RIDGE, bits)
    filters = torch.linalg.solve(correlation, response @ scaled)
    filters = filters / (filters * (correlation @ filters)).sum(0).sqrt()
    return scaled / cost[:, None], filters / spread[:, None]


def _spread(noise: torch.Tensor) -> torch.Tensor:
    """Standard deviations of the statistics; none so small that it is rounding alone.

    A bias before a normalisation of its own channel has no effect, and its statistic no meaning.
    """
    spread = noise.diagonal().sqrt()
    return spread.clamp_min(1e-3 * float(spread.median()))


def _windows(stage: Any, latents: torch.Tensor) -> torch.Tensor:
    """Central parts of evenly spaced latents, ``WINDOW`` pixels wide once decoded."""
    factor = 1 << (len(stage.config.block_out_channels) - 1)
    side = min(WINDOW // factor, latents.shape[-1])
    edge = (latents.shape[-1] - side) // 2
    chosen = latents[:: max(1, len(latents) // JACOBIANS)][:JACOBIANS]
    return chosen[..., edge : edge + side, edge : edge + side]


def _averages(
    stage: Any, names: Sequence[str], shapes: Sequence[torch.Size], windows: torch.Tensor, work: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """F and M over the Jacobians of all ``windows``, (P, P) float32."""
    total = sum(shape.numel() for shape in shapes)
    signal, distortion = torch.zeros(total, total), torch.zeros(total, total)
    with progress("jacobians", len(windows) * total) as bar, between_steps() as check, torch.no_grad():
        for number, window in enumerate(windows):
            cached = work / f"jacobian-{number}.safetensors"
            if not cached.exists():
                plain, residual = [], []
                for image, left in _columns(stage, names, shapes, window[None]):
                    check()
                    plain.append(image)
                    residual.append(left)
                    bar.update(number * total + sum(map(len, plain)))
                jacobian = torch.cat(plain)
                grams = {"F": jacobian @ torch.cat(residual).T, "M": jacobian @ jacobian.T}
                with atomic_file(cached) as file:
                    file.write(save(grams))
            grams = load_file(cached)
            signal += grams["F"] / len(windows)
            distortion += grams["M"] / len(windows)
    return signal, distortion


def _columns(
    stage: Any, names: Sequence[str], shapes: Sequence[torch.Size], z: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Derivatives of the image and of its filtered residual by each parameter, some at a time."""

    def rebuilt(x: torch.Tensor) -> torch.Tensor:
        again: torch.Tensor = stage.decode(stage.encode(x).latent_dist.mean).sample
        return again

    base = stage.decode(z).sample
    base_residual = base - rebuilt(base)
    sizes = [shape.numel() for shape in shapes]
    for part in torch.eye(sum(sizes)).split(BATCH):
        steps = {
            name: (STEP * values).reshape(len(part), *shape)
            for name, values, shape in zip(names, part.split(sizes, 1), shapes, strict=True)
            if values.any()
        }
        with per_sample(stage, steps):
            moved = stage.decode(z.expand(len(part), -1, -1, -1)).sample
        residual = moved - rebuilt(moved) - base_residual
        yield ((moved - base) / STEP).flatten(1), (high_pass(residual) / STEP).flatten(1)


def _noise(
    generator: Any, names: Sequence[str], latents: torch.Tensor, work: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (P,) and covariance (P, P) of the statistics over attacked images of the base model."""
    cached = work / "noise.safetensors"
    if cached.exists():
        kept = load_file(cached)
        return kept["mean"], kept["N"]
    stage, rng, found = generator.first_stage, np.random.default_rng(0), []
    order = torch.Generator().manual_seed(0)
    chosen = latents[torch.randint(0, len(latents), (NOISE_IMAGES,), generator=order)]
    with progress("noise", NOISE_IMAGES) as bar, between_steps() as check, torch.no_grad():
        for part in chosen.split(BATCH // 2):
            check()
            images = [training_attack(image, rng) for image in to_images(generator.render(part))]
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            found.append(statistics(stage, names, pixels))
            bar.update(BATCH // 2 * len(found))
    mean, covariance = torch.cat(found).mean(0), torch.cov(torch.cat(found).T)
    with atomic_file(cached) as file:
        file.write(save({"mean": mean, "N": covariance}))
    return mean, covariance
