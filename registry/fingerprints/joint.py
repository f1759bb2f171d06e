"""Directions of a basis trained together with the network that reads them, through the attacks.

    basis = train_jointly(generator, basis, latents, psnr=34.0, steps=2000, work=work)

In every step each image of a batch has a key of its own; the copy's images go through differentiable attacks
into a :class:`~registry.attribution.pixel_network.PixelNetwork`, and the cross-entropy of its bits moves
both the network and the directions, while a penalty holds the quality: the mean PSNR between the images of
copy and base does not fall below what is asked for. Neither starts from nothing. The directions begin as a
basis found in closed form, the network as the regression that reads it, and the directions stand still
until the network has settled; from random directions and a fresh network, 64 bits hardly move in hundreds of
steps, since no reader can tell the directions where to go.

What the network has learned is left in ``work`` for the training that follows on the real attacks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

from registry.attribution.differentiable import attack
from registry.attribution.network import Resolution
from registry.attribution.pixel_network import PixelNetwork
from registry.attribution.training import CHECKPOINT, READER, RenderedImages, pixel_network
from registry.fingerprints.basis import Basis, Target
from registry.fingerprints.quality import random_signs
from registry.generators.adapters import Generator
from registry.progress import progress
from registry.storage import atomic_file
from registry.training import Training

PIXELS = 64 * 32 * 32
"""Of the images of one step, which are 64 of 32 pixels and fewer larger ones, but at least ``FEWEST``."""
FEWEST = 8
SETTLING = 150
"""Steps in which the directions stand still."""
RATE, AVERAGED = 2e-3, 0.998
UNIT = 0.2
"""Root mean square of a tensor's directions as they are trained: a step of Adam moves them by 1 % of it."""
GROWING = 1500
"""Steps over which the attacks grow from never to usual: content is learned on clean images first."""
COMPARED = 4
"""One image in so many is compared with the base model's, at least so many of a batch."""
HOLD = 0.25
"""Of the penalty, in nats of cross-entropy a decibel short of the quality asked for: the loss of evidence by
a decibel less strength is a third of it at most."""


class Joint(nn.Module):
    """The directions, each tensor's in units of its own root mean square, and their reader."""

    def __init__(self, basis: Basis, network: PixelNetwork) -> None:
        super().__init__()
        self.network = network
        self.targets = list(basis.directions)
        begin = [basis.strength * torch.from_numpy(values) for values in basis.directions.values()]
        self.units = [float(values.square().mean().sqrt()) / UNIT or 1.0 for values in begin]
        self.directions = nn.ParameterList(
            nn.Parameter(values / unit) for values, unit in zip(begin, self.units, strict=True)
        )

    def offsets(self, signs: torch.Tensor) -> dict[Target, torch.Tensor]:
        """What the keys ``signs`` (n, bits) add to each tensor, (n, *shape)."""
        return {
            target: unit * torch.tensordot(signs, directions, 1)
            for target, unit, directions in zip(self.targets, self.units, self.directions, strict=True)
        }


def train_jointly(
    generator: Generator, basis: Basis, latents: torch.Tensor, psnr: float, steps: int, work: Path
) -> Basis:
    """``basis`` after ``steps`` together with a network; its strength leaves ``psnr`` dB or somewhat more.

    ``basis`` comes at about that quality; ``latents`` (n, *latent_shape) are the sampler's. Resumes from
    ``work``.
    """
    batch = max(FEWEST, PIXELS // generator.size**2)
    folder = work / f"joint-{basis.bits}"
    folder.mkdir(parents=True, exist_ok=True)
    resolution = Resolution.of(generator.size, generator.latent_shape)
    source = RenderedImages(generator, basis, latents)
    network = pixel_network(source, resolution, folder, steps * batch)
    training = Training(Joint(basis, network), folder / CHECKPOINT, steps, RATE, AVERAGED)
    joint = training.model
    joint.train()

    def loss(_: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = torch.Generator().manual_seed(training.step)
        for directions in joint.directions:
            directions.requires_grad_(training.step >= SETTLING)
        chosen = latents[torch.randint(0, len(latents), (batch,), generator=rng)]
        signs = random_signs(batch, basis.bits, seed=training.step)
        some = max(COMPARED, batch // COMPARED)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                base = generator.render(chosen[:some])
            copies = generator.render(chosen, joint.offsets(signs))
        reached = -10 * (copies[:some] - base).square().mean((1, 2, 3)).clamp_min(1e-12).log10().mean()
        attacked, grey = attack(_seen(copies, network.size), rng, min(1.0, training.step / GROWING))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network.logits(2 * attacked - 1, grey).float()
        value = F.binary_cross_entropy_with_logits(logits, (signs + 1) / 2)
        right = float(((logits > 0) == (signs > 0)).float().mean())
        shown = {"loss": float(value.detach()), "bits_right": right, "psnr_db": float(reached.detach())}
        return value + HOLD * F.relu(psnr - reached), shown

    with progress("directions and network", steps, training.step) as bar:
        trained = training.run(loss, bar)
    with atomic_file(work / READER) as file:
        file.write(save(trained.network.state_dict()))
    found = {
        target: (unit / basis.strength * values.detach()).numpy()
        for target, unit, values in zip(trained.targets, trained.units, trained.directions, strict=True)
    }
    return replace(basis, directions=found, quality={})


def _seen(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images at the network's size."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
