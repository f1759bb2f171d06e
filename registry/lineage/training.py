"""Contrastive training of the set encoder over sets, supervised by which model made them.

    encoder = train_encoder({"vae-a": pixels, ...}, EncoderLayout(), Path("work"), steps=1500)

Every step draws two sets of each model, degraded in one way each, and pulls sets of one model together and
those of others apart. The number of images in a set changes from step to step, so that an embedding means
the same for any. Families are unknown to the training. Resumable, as all training here is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from registry.lineage.degrade import TRAINING, degrade
from registry.lineage.encoder import EncoderLayout, SetEncoder, contrastive_loss
from registry.progress import progress
from registry.training import Training

Pixels = NDArray[np.uint8]

STEPS = 1500
RATE, AVERAGE = 3e-3, 0.99
NUMBERS = (1, 2, 4, 8, 16)
MOST = 320
"""Images of a step at most: the larger a set, the fewer models take part."""
CLEAN = 0.4
POOLS = 3
"""Draws of each degradation that are made in advance."""
STANDARD = 512


class Sets:
    """Random sets of each model's images, clean or degraded."""

    def __init__(self, images: Mapping[str, Pixels], seed: int = 0) -> None:
        self.names = sorted(images)
        self.pools: dict[tuple[str, int], list[Pixels]] = {}
        with progress("degrading images", len(TRAINING)) as bar:
            for done, kind in enumerate(TRAINING):
                for draw in range(1 if kind == "clean" else POOLS):
                    # One seed for all models: the strength must not give the model away.
                    self.pools[kind, draw] = [
                        degrade(images[name], kind, seed=seed + draw) for name in self.names
                    ]
                bar.update(done + 1)

    def only(self, names: Sequence[str]) -> Sets:
        """The same images of some models alone."""
        found = copy.copy(self)
        places = [self.names.index(name) for name in sorted(names)]
        found.names = sorted(names)
        found.pools = {key: [pools[place] for place in places] for key, pools in self.pools.items()}
        return found

    def draw(
        self, rng: torch.Generator, numbers: tuple[int, ...] = NUMBERS
    ) -> tuple[list[torch.Tensor], torch.Tensor, list[int]]:
        """Two batches of pixels (models * number, h, w, 3), the numbers of the models, and sets' sizes."""
        number = numbers[int(torch.randint(len(numbers), (), generator=rng))]
        models = min(len(self.names), max(2, MOST // (2 * number)))
        chosen = torch.randperm(len(self.names), generator=rng)[:models]
        batches = []
        for _ in range(2):
            keys = [key for key in self.pools if key[0] != "clean"]
            clean = float(torch.rand((), generator=rng)) < CLEAN
            key = ("clean", 0) if clean else keys[int(torch.randint(len(keys), (), generator=rng))]
            parts = []
            for model in chosen.tolist():
                pool = self.pools[key][model]
                picked = torch.randint(0, len(pool), (number,), generator=rng).numpy()
                parts.append(torch.from_numpy(pool[picked]))
            batches.append(torch.cat(parts))
        return batches, chosen, [number] * models


def membership(sizes: list[int]) -> torch.Tensor:
    """Consecutive sets of these sizes: (s, n), rows sum to one."""
    numbers = torch.tensor(sizes)
    which = torch.repeat_interleave(torch.arange(len(sizes)), numbers)
    return F.one_hot(which).T.float() / numbers[:, None]


def train_encoder(
    images: Mapping[str, Pixels],
    layout: EncoderLayout,
    work: Path,
    steps: int = STEPS,
    *,
    contrastive: bool = True,
    numbers: tuple[int, ...] = NUMBERS,
    sets: Sets | None = None,
) -> SetEncoder:
    """The averaged encoder after ``steps``; without ``contrastive`` it learns as a classifier's body.

    ``numbers`` are the sizes of sets, ``sets`` those of ``images`` where they were made before.
    """
    torch.manual_seed(0)
    sets = sets or Sets(images)
    encoder = SetEncoder(layout)
    sample = np.concatenate([pool[: STANDARD // len(sets.names)] for pool in sets.pools["clean", 0]])
    encoder.standardise(torch.from_numpy(sample))
    classes = nn.Linear(layout.embedding, len(sets.names), bias=False)
    model = nn.ModuleDict({"encoder": encoder, "classes": classes})

    def loss(rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batches, chosen, sizes = sets.draw(rng, numbers)
        found = [model["encoder"](pixels, membership(sizes)) for pixels in batches]
        embeddings, labels = torch.cat(found), chosen.repeat(2)
        if contrastive:
            value = contrastive_loss(embeddings, labels)
        else:
            value = F.cross_entropy(10 * classes(embeddings), labels)
        return value, {"loss": value.item()}

    training = Training(model, work / "encoder.pt", steps, RATE, AVERAGE)
    work.mkdir(parents=True, exist_ok=True)
    with progress(f"set encoder {work.name}", steps, training.step) as bar:
        trained = training.run(loss, bar)["encoder"]
    assert isinstance(trained, SetEncoder)
    return trained
