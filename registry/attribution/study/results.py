"""What a study found: figures of each point, the Pareto front, and which point to take.

front = pareto_front([result.objectives() for result in results])
recommendation = recommend(results)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from registry.attribution.attacks import PAPER, Attack
from registry.attribution.study.plan import Point

SCHEMA = "hallmark/study-point/1"
KEYS = 10**6
LOG10_ALPHA = -6.0
NEEDED = -LOG10_ALPHA + math.log10(KEYS)
"""Decades of evidence that name one key among KEYS."""
GOAL = 0.97
"""Share of single images to be named among KEYS under each attack for a point to be recommended."""

ATTACKS: dict[str, Attack] = {name.removeprefix("paper-"): attack for name, attack in PAPER.items()}
CLEAN, MIX = "clean", "mix"
"""Figures before the attacks, and over the images of all four together."""


@dataclass(frozen=True)
class Result:
    """The figures of a point.

    ``quality`` has psnr_db, ssim, ms_ssim (from 176 pixels up), perceptual and frechet between copies and
    base, and with photographs frechet_increase and its interval. ``attacks`` has for clean, each attack
    and the mix: every_bit, bits_right, identified (shares), evidence_5 and evidence_50 (decades).
    ``steps`` is None for the basis and network that the model is registered with.
    """

    point: Point
    strength: float
    quality: Mapping[str, float]
    attacks: Mapping[str, Mapping[str, float]]
    steps: int | None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"scheme {self.point.directions}, sigma {self.strength:.3g}, k {self.point.bits}"

    @property
    def registered(self) -> bool:
        """Whether these are the basis and network in use, trained elsewhere: no point of the sweep."""
        return self.steps is None

    @property
    def weakest(self) -> float:
        """The least share of images named among KEYS, over the attacks."""
        return min(figures["identified"] for name, figures in self.attacks.items() if name != MIX)

    def objectives(self) -> tuple[float, ...]:
        """What is to be had at once, larger is better: evidence at the weak end, and quality."""
        quality = self.quality
        return (
            self.attacks[MIX]["evidence_5"],
            quality["psnr_db"],
            quality.get("ms_ssim", quality["ssim"]),
            -quality["perceptual"],
            -quality["frechet"],
        )

    def document(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Result:
        """From :meth:`document`; ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        if document["schema"] != SCHEMA:
            raise ValueError(document["schema"])
        fields = {name: document[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "point": Point(**document["point"])})


def pareto_front(values: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the rows that no other row dominates.

    One row dominates another if it is nowhere less and somewhere more. Equal rows are all kept.
    """
    rows = np.asarray(values, np.float64)
    return [i for i, row in enumerate(rows) if not ((rows >= row).all(1) & (rows > row).any(1)).any()]


def front(results: Sequence[Result]) -> list[int]:
    """The Pareto front of the swept points, as indices of ``results``."""
    swept = [i for i, result in enumerate(results) if not result.registered]
    return [swept[i] for i in pareto_front([results[i].objectives() for i in swept])]


@dataclass(frozen=True)
class Recommendation:
    """The point to take (an index of the results) and why, in plain sentences."""

    index: int
    reason: str


def recommend(results: Sequence[Result], goal: float = GOAL) -> Recommendation:
    """Of the points that name ``goal`` of single images under every attack, the one that changes least.

    Where none does, the one with the most evidence at the weak end. The registered basis is no candidate:
    its network was trained for longer than those it would be compared with.
    """
    candidates = [i for i, result in enumerate(results) if not result.registered]
    passing = [i for i in candidates if results[i].weakest >= goal]
    if passing:
        best = min(passing, key=lambda i: (results[i].quality["perceptual"], -results[i].quality["psnr_db"]))
        quality = results[best].quality
        few = "It is" if len(passing) == 1 else f"Of the {len(passing)} that do, it is"
        return Recommendation(
            best,
            f"{_count(len(passing), len(candidates))} at least {goal:.0%} of single images among {KEYS:,} "
            f"keys before and after each attack. {few} the one that changes images least: perceptual "
            f"distance {quality['perceptual']:.3g}, {quality['psnr_db']:.1f} dB.",
        )
    best = max(candidates, key=lambda i: results[i].objectives())
    mix = results[best].attacks[MIX]
    images = math.ceil(NEEDED / mix["evidence_50"]) if mix["evidence_50"] > 0 else 0
    together = f"; about {images} images of one copy together may reach it" if 1 < images < 1000 else ""
    return Recommendation(
        best,
        f"No point names {goal:.0%} of single images among {KEYS:,} keys under every attack. This one has "
        f"the most evidence at the weak end: {mix['evidence_5']:.1f} decades for the weakest twentieth of "
        f"the attacked images, {mix['evidence_50']:.1f} for the middle one. One image needs {NEEDED:.0f}"
        f"{together}. More training steps, a larger strength or a larger k raise it.",
    )


def _count(passing: int, total: int) -> str:
    return f"{passing} of {total} points {'names' if passing == 1 else 'name'}"


@dataclass(frozen=True)
class Study:
    """What a report shows: results in the order asked for, the front (indices), pictures of one point.

    ``pictures`` are of the recommended point: (base, copy, difference amplified), at latents of the test.
    """

    model: str
    adapter: str
    size: int
    dimensions: int
    images: int
    steps: int
    photographs: int
    perceptual_name: str
    results: Sequence[Result]
    front: Sequence[int]
    recommendation: Recommendation
    pictures: Sequence[tuple[Image.Image, Image.Image, Image.Image]] = ()

    @property
    def recommended(self) -> Result:
        """The recommended point's figures."""
        return self.results[self.recommendation.index]

    def document(self) -> dict[str, Any]:
        """For scripts: everything but the pictures."""
        return {
            "schema": "hallmark/study/1",
            "model": self.model,
            "images": self.images,
            "perceptual": self.perceptual_name,
            "points": [
                {**result.document(), "front": i in self.front} for i, result in enumerate(self.results)
            ],
            "recommendation": asdict(self.recommendation),
        }
