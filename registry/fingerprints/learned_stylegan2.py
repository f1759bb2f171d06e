"""The learned scheme for StyleGAN2: the ordinary weights with most evidence for the distortion they cost.

    basis = learn_stylegan2(generator, WEIGHTS, model_digest, latents, bits=64, work=work)

The weights theta that carry the key are the biases of the activations, of the RGB layers and of the
styles, and the constant input, whose 4 x 4 places are a pattern in space that no content moves. For
J(w) = dg / dtheta of the image of a latent w, a step delta of the weights leaves the pattern ``J delta`` on
average, ``J = E[J(w)]``, which a reader finds again in place, and costs ``delta' M delta`` of squared error,
``M = E[J(w)' J(w)]``. With C the covariance of attacked images of the base model, the best linear reading of
delta has the signal-to-noise ratio ``delta' F delta``, ``F = J' C^-1 J``, so the k directions are leading
eigenvectors of F against M. They are in closed form, and found in two steps: among all weights with the
Jacobians of a few latents, several times as many directions as there are bits; among these, with many
latents, those that keep what they promised (with few latents J is mostly content, and directions fit it).
From there they are trained together with the network that reads them: :mod:`registry.fingerprints.joint`.

Images above 64 pixels are reduced to 64 for J, M and C: what is finer hardly outlives the attacks. A copy
remains an ordinary checkpoint whose bytes differ in these tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save

from registry.attribution.attacks import training_attack
from registry.errors import InputError
from registry.fingerprints.basis import Basis, Target
from registry.fingerprints.eigenproblem import leading_directions
from registry.fingerprints.joint import train_jointly
from registry.fingerprints.quality import choose_strength
from registry.generators.adapters import to_images
from registry.generators.stylegan2.adapter import StyleGAN2
from registry.generators.stylegan2.network import Synthesis
from registry.interrupts import between_steps
from registry.progress import progress
from registry.storage import atomic_file

SIDE = 64
"""Side in pixels of the images whose statistics are taken, at most."""
PARAMETERS = 4096
"""At most so many numbers carry the key: matrices of that side take 70 MB and seconds."""
FEW, MANY = 4, 48
"""Latents whose Jacobians are taken by all weights, and by the directions left after the first step."""
CANDIDATES = 4
"""Directions for each bit after the first step."""
RIDGE_FEW, RIDGE_MANY = 1.0, 0.05
"""Of M, in units of its diagonal, in the two steps."""
STEP = 0.05
"""Of the first step's finite differences; styles and activations are about one."""
CONTENT_IMAGES = 3000
NOISE_FLOOR = 0.02
"""Standard deviation of each pixel's own noise, on a [0, 1] scale, added to C (fewer images than pixels)."""
FIRST_STRENGTH = 0.1
"""Where the search for the strength begins: 64 directions of unit norm leave about 34 dB at 32 pixels."""
BATCH = 64
STRENGTH_LATENTS = 64
JOINT_STEPS = 2_500

Carrier = tuple[str, torch.Size]
"""Name and shape of a tensor that carries the key, or of its first channels."""


def learn_stylegan2(
    generator: StyleGAN2,
    file: str,
    model_digest: str,
    latents: torch.Tensor,
    bits: int,
    psnr: float,
    work: Path,
) -> Basis:
    """The best ``bits`` directions for ``generator`` (tensors in ``file``), at a strength to be chosen.

    ``latents`` (n, style_dim) are the sampler's; copies are to be about ``psnr`` dB from the base. What takes
    long is kept in ``work`` and found again there, and so is the network trained with the directions.
    :class:`InputError` where the generator has fewer numbers that can carry keys than bits.
    """
    tensors = carriers(generator.network, PARAMETERS)
    total = sum(shape.numel() for _, shape in tensors)
    if bits > total:
        raise InputError(
            f"--bits {bits}: the generator has {total} biases and constants that can carry keys.",
            f"Give at most {total // 8 * 8}.",
        )
    content = _content(generator, latents, work / "learned-content.safetensors")
    candidates = min(total, CANDIDATES * bits)

    coarse = Statistics(work / "learned-few.safetensors", total, content.shape[1])
    every = torch.eye(total)
    coarse.add(generator, tensors, file, every, _spaced(latents, FEW, 0), STEP)
    directions = best_patterns(coarse.pattern, coarse.distortion, content, candidates, RIDGE_FEW).T

    fine = Statistics(work / f"learned-many-{bits}.safetensors", candidates, content.shape[1])
    step = math.sqrt(content.shape[1] * 10 ** (-psnr / 10) / bits)
    fine.add(generator, tensors, file, directions, _spaced(latents, MANY, 1), step)
    chosen = best_patterns(fine.pattern, fine.distortion, content, bits, RIDGE_MANY).T
    named = _by_target(chosen.double() @ directions.double(), tensors, generator.network, file)
    by_target = {target: values.contiguous().numpy() for target, values in named.items()}
    begin = Basis("learned", FIRST_STRENGTH, 0, model_digest, by_target)
    begin = choose_strength(generator, begin, latents[:STRENGTH_LATENTS], psnr)
    return train_jointly(generator, begin, latents, psnr, JOINT_STEPS, work)


def carriers(network: Synthesis, limit: int) -> list[Carrier]:
    """Tensors of at most ``limit`` numbers in all, the constant input's first channels where not all fit.

    Biases of activations and RGB layers come first, then those of the styles, from the coarse layers to
    the fine ones; half of ``limit`` is the constant input's.
    """
    constant = network.input.input.shape
    places = constant[2] * constant[3]
    channels = min(constant[1], limit // 2 // places)
    found = [("input.input", torch.Size((1, channels, *constant[2:])))]
    left = limit - channels * places
    biases = [(name, p.shape) for name, p in network.named_parameters() if name.endswith(".bias")]
    synthesis = [(name, shape) for name, shape in biases if not name.startswith("style.")]
    for name, shape in sorted(synthesis, key=lambda bias: ".modulation." in bias[0]):
        if shape.numel() <= left:
            found.append((name, shape))
            left -= shape.numel()
    return found


def best_patterns(
    pattern: torch.Tensor, distortion: torch.Tensor, content: torch.Tensor, count: int, ridge: float
) -> torch.Tensor:
    """Leading eigenvectors (P, count) of ``J' C^-1 J`` against M, float32, orthonormal in M with its ridge.

    ``pattern`` J' (P, pixels), ``distortion`` M (P, P), ``content`` (n, pixels) the centred images of which
    C is the covariance, with the noise floor. Columns are by falling evidence.
    """
    cost = distortion.diagonal().double().sqrt().clamp_min(1e-9)
    evidence = _evidence(pattern.double() / cost[:, None], content.double())
    leading = leading_directions(evidence, distortion.double(), cost, ridge, count)
    return (leading / cost[:, None]).float()


def _evidence(pattern: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """``J' C^-1 J`` for ``C = content' content / n + floor^2``, by Woodbury's identity."""
    n, floor = len(content), NOISE_FLOOR**2
    gram = content @ content.T + n * floor * torch.eye(n, dtype=content.dtype)
    seen = pattern @ content.T
    inner: torch.Tensor = pattern @ pattern.T - seen @ torch.linalg.solve(gram, seen.T)
    return inner / floor


class Statistics:
    """Sums over latents of the derivatives of the image: ``pattern`` (m, pixels), ``distortion`` (m, m).

    Kept in ``path`` after every few latents, and continued from there.
    """

    def __init__(self, path: Path, directions: int, pixels: int) -> None:
        self.path, self.count = path, 0
        self.sums = {"J": torch.zeros(directions, pixels), "M": torch.zeros(directions, directions)}
        if path.exists():
            kept = load_file(path)
            self.count = int(kept.pop("count"))
            self.sums = kept

    @property
    def pattern(self) -> torch.Tensor:
        """The mean Jacobian, transposed."""
        return self.sums["J"] / self.count

    @property
    def distortion(self) -> torch.Tensor:
        """The mean of ``J(w)' J(w)``."""
        return self.sums["M"] / self.count

    @torch.no_grad()
    def add(
        self,
        generator: StyleGAN2,
        tensors: list[Carrier],
        file: str,
        directions: torch.Tensor,
        latents: torch.Tensor,
        step: float,
    ) -> None:
        """Derivatives along the rows of ``directions`` (m, P) at those ``latents`` that are not yet in."""
        with progress("jacobians", len(latents), self.count) as bar, between_steps() as check:
            for number in range(self.count, len(latents)):
                columns = []
                for part in directions.split(BATCH):
                    check()
                    offsets = _by_target(step * part, tensors, generator.network, file)
                    columns.append(_difference(generator, latents[number], offsets) / step)
                jacobian = torch.cat(columns)
                self.sums["J"] += jacobian
                self.sums["M"] += jacobian @ jacobian.T
                self.count = number + 1
                if self.count == len(latents) or self.count % max(1, len(latents) // 4) == 0:
                    with atomic_file(self.path) as kept:
                        kept.write(save({**self.sums, "count": torch.tensor(self.count)}))
                bar.update(self.count)


def _difference(
    generator: StyleGAN2, w: torch.Tensor, offsets: Mapping[Target, torch.Tensor]
) -> torch.Tensor:
    """Half of what each of n offsets changes between one side and the other, (n, pixels)."""
    n = len(next(iter(offsets.values())))
    up, down = (
        _reduced(generator.render(w.expand(n, -1), {t: sign * values for t, values in offsets.items()}))
        for sign in (1, -1)
    )
    return (up - down).flatten(1) / 2


def _by_target(
    rows: torch.Tensor, tensors: list[Carrier], network: Synthesis, file: str
) -> dict[Target, torch.Tensor]:
    """Rows (n, P) as an offset of each tensor, float32 (n, *shape); zero where only some channels carry."""
    found = {}
    split = rows.float().split([shape.numel() for _, shape in tensors], 1)
    for (name, shape), part in zip(tensors, split, strict=True):
        values, whole = part.reshape(len(rows), *shape), network.get_parameter(name).shape
        if whole != shape:
            values = F.pad(values, (0, 0, 0, 0, 0, whole[1] - shape[1]))
        found[file, name] = values
    return found


def _spaced(latents: torch.Tensor, count: int, offset: int) -> torch.Tensor:
    """Evenly spaced latents, others for another ``offset`` where there are enough."""
    return latents.roll(-offset, 0)[:: max(1, len(latents) // count)][:count]


def _content(generator: StyleGAN2, latents: torch.Tensor, cached: Path) -> torch.Tensor:
    """Attacked images of the base model, less their mean, float32 (n, pixels) in [0, 1]."""
    if not cached.exists():
        chosen, images = _spaced(latents, CONTENT_IMAGES, 2), []
        with progress("attacked images", len(chosen)) as bar:
            for part in _attacked(generator, chosen):
                images.append(part)
                bar.update(sum(map(len, images)))
        with atomic_file(cached) as file:
            file.write(save({"images": torch.cat(images)}))
    found = load_file(cached)["images"].float() / 255
    return found - found.mean(0)


@torch.no_grad()
def _attacked(generator: StyleGAN2, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(0)
    with between_steps() as check:
        for part in latents.split(BATCH):
            check()
            attacked = [training_attack(image, rng) for image in to_images(generator.render(part))]
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in attacked]))
            reduced = _reduced(pixels.permute(0, 3, 1, 2).float())
            yield reduced.flatten(1).round().byte()


def _reduced(images: torch.Tensor) -> torch.Tensor:
    """Images (n, 3, h, w) at no more than ``SIDE`` pixels, each the mean of those it covers."""
    return images if images.shape[-1] <= SIDE else F.adaptive_avg_pool2d(images, SIDE)
