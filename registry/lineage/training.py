"""Contrastive training of the set encoder over sets, supervised by which model made them.

    encoder = train_encoder({"vae-a": pixels, ...}, EncoderLayout(), Path("work"), steps=800)

Every step draws two batches of images of each model, each batch degraded in one way, and reads either as sets
of every number of images at once: single ones, pairs, fours and so on. Sets of one model in the two batches
are pulled together, and those of others apart; and every set is classified by its likeness to a direction of
its model's. Families are unknown to the training. Resumable, as all training here is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from registry.lineage.degrade import TRAINING, degrade
from registry.lineage.encoder import EncoderLayout, Measures, SetEncoder, contrastive_loss
from registry.progress import progress
from registry.training import Training

Pixels = NDArray[np.uint8]

STEPS = 800
RATE, AVERAGE = 3e-3, 0.99
NUMBERS = (8, 16)
"""Images of a model in a batch, the size of the largest set."""
MOST = 320
"""Images of a step at most: the more of each model, the fewer models take part."""
CONTRASTIVE, CLASSES = "contrastive", "classes"
SHARPNESS = 12.0
"""What a cosine is multiplied with to be a logit."""
CLEAN = 0.4
POOLS = 3
"""Draws of each degradation that are made in advance."""
STANDARD = 512


@dataclass(frozen=True)
class Pool:
    """One model's images (k, h, w, 3) after one degradation, with what is not learned of them, in half."""

    pixels: Pixels
    measured: NDArray[np.float16]


@dataclass(frozen=True)
class Batch:
    """Pixels (n, h, w, 3) of images and their ``Measures`` (n, m)."""

    pixels: torch.Tensor
    measured: torch.Tensor


class Sets:
    """Random sets of each model's images, clean or degraded; what is not learned of them is measured once."""

    def __init__(self, images: Mapping[str, Pixels], seed: int = 0) -> None:
        self.names = sorted(images)
        self.pools: dict[tuple[str, int], list[Pool]] = {}
        measures = Measures()
        with progress("degrading images", len(TRAINING)) as bar:
            for done, kind in enumerate(TRAINING):
                for draw in range(1 if kind == "clean" else POOLS):
                    # One seed for all models: the strength must not give the model away.
                    self.pools[kind, draw] = [
                        _measured(measures, degrade(images[name], kind, seed=seed + draw))
                        for name in self.names
                    ]
                bar.update(done + 1)

    def only(self, names: Sequence[str]) -> Sets:
        """The same images of some models alone."""
        found = copy.copy(self)
        places = [self.names.index(name) for name in sorted(names)]
        found.names = sorted(names)
        found.pools = {key: [pools[place] for place in places] for key, pools in self.pools.items()}
        return found

    def typical(self, count: int) -> torch.Tensor:
        """About ``count`` clean images (n, h, w, 3) of all models."""
        each = count // len(self.names)
        return torch.from_numpy(np.concatenate([pool.pixels[:each] for pool in self.pools["clean", 0]]))

    def draw(
        self, rng: torch.Generator, numbers: tuple[int, ...] = NUMBERS
    ) -> tuple[list[Batch], torch.Tensor, int]:
        """Two batches of models * number images, the numbers of the models (models,), and how many images
        there are of each in a row."""
        number = numbers[int(torch.randint(len(numbers), (), generator=rng))]
        models = min(len(self.names), max(2, MOST // (2 * number)))
        chosen = torch.randperm(len(self.names), generator=rng)[:models]
        batches = []
        for _ in range(2):
            keys = [key for key in self.pools if key[0] != "clean"]
            clean = float(torch.rand((), generator=rng)) < CLEAN
            key = ("clean", 0) if clean else keys[int(torch.randint(len(keys), (), generator=rng))]
            pixels, measured = [], []
            for model in chosen.tolist():
                pool = self.pools[key][model]
                picked = torch.randint(0, len(pool.pixels), (number,), generator=rng).numpy()
                pixels.append(pool.pixels[picked])
                measured.append(pool.measured[picked])
            of_all = torch.from_numpy(np.concatenate(measured)).float()
            batches.append(Batch(torch.from_numpy(np.concatenate(pixels)), of_all))
        return batches, chosen, number


def _measured(measures: Measures, pixels: Pixels) -> Pool:
    with torch.no_grad():
        return Pool(pixels, measures(torch.from_numpy(pixels)).half().numpy())


def nested(models: int, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All sets of 1, 2, 4, ... ``number`` images, ``number`` a power of two, of ``models`` in a row.

    Membership (s, models * number), whose rows sum to one; each set's place in the row (s,); and its weight
    (s,), by which the sets of every size count the same.
    """
    rows, places, weights = [], [], []
    for size in (1 << power for power in range(number.bit_length())):
        count = models * number // size
        rows.append(torch.eye(count).repeat_interleave(size, 1) / size)
        places.append(torch.arange(models).repeat_interleave(number // size))
        weights.append(torch.full((count,), 1 / count))
    return torch.cat(rows), torch.cat(places), torch.cat(weights)


def train_encoder(
    images: Mapping[str, Pixels],
    layout: EncoderLayout,
    work: Path,
    steps: int = STEPS,
    *,
    losses: tuple[str, ...] = (CONTRASTIVE, CLASSES),
    sets: Sets | None = None,
) -> SetEncoder:
    """The averaged encoder after ``steps``, with one or both of the ``losses``.

    ``sets`` are those of ``images`` where they were made before.
    """
    torch.manual_seed(0)
    sets = sets or Sets(images)
    encoder = SetEncoder(layout)
    encoder.standardise(sets.typical(STANDARD))
    classes = nn.Linear(layout.embedding, len(sets.names), bias=False)
    model = nn.ModuleDict({"encoder": encoder, "classes": classes})

    def loss(rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batches, chosen, number = sets.draw(rng)
        membership, places, weights = nested(len(chosen), number)
        labels = chosen[places]
        first, second = (
            encoder.source(encoder.features(batch.pixels, batch.measured), membership) for batch in batches
        )
        value = torch.zeros(())
        if CLASSES in losses:
            directions = F.normalize(classes.weight, dim=1)
            likeness = SHARPNESS * torch.cat([first, second]) @ directions.T
            each = F.cross_entropy(likeness, labels.repeat(2), reduction="none")
            value = value + (each * weights.repeat(2)).sum() / (2 * weights.sum())
        if CONTRASTIVE in losses:
            value = value + contrastive_loss(first, second, labels, weights)
        return value, {"loss": value.item()}

    training = Training(model, work / "encoder.pt", steps, RATE, AVERAGE)
    work.mkdir(parents=True, exist_ok=True)
    with progress(f"set encoder {work.name}", steps, training.step) as bar:
        trained = training.run(loss, bar)["encoder"]
    assert isinstance(trained, SetEncoder)
    return trained
