"""The zoo: small generators of four families, each in several variants.

    for variant in VARIANTS: ...

Variants ``a`` and ``b`` of a family differ by the seed alone, ``c`` in width, ``d`` in the photographs.
Further samplers of the same weights are no variants: they are the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FAMILIES = ("vae", "gan", "flow", "score")
FLOWERS, IMAGENET = "flowers", "imagenet32"


@dataclass(frozen=True)
class Variant:
    """One model of the zoo: its network's layout, photographs, seed and length of training."""

    name: str
    family: str
    layout: dict[str, Any]
    photographs: str
    seed: int
    steps: int
    batch: int


def _family(
    family: str, steps: int, batch: int, usual: dict[str, Any], wider: dict[str, Any]
) -> list[Variant]:
    def variant(letter: str, layout: dict[str, Any], photographs: str, seed: int) -> Variant:
        name = f"{family}-{letter}"
        return Variant(name, family, layout, photographs, seed, steps, batch)

    return [
        variant("a", usual, FLOWERS, 1),
        variant("b", usual, FLOWERS, 2),
        variant("c", wider, FLOWERS, 3),
        variant("d", usual, IMAGENET, 4),
    ]


_VAE = {"latent": 64, "channels": (64, 48, 32, 16)}
_GAN = {"latent": 64, "channels": (128, 64, 32, 16)}
_FLOW = {"size": 32, "levels": 3, "steps": 4, "hidden": 32}
_SCORE = {"size": 32, "channels": (32, 48)}

_BY_FAMILY = (
    _family("vae", 700, 32, _VAE, {**_VAE, "channels": (96, 64, 48, 32)}),
    _family("gan", 500, 32, _GAN, {**_GAN, "channels": (128, 96, 48, 24)}),
    _family("flow", 500, 16, _FLOW, {**_FLOW, "hidden": 48}),
    _family("score", 600, 16, _SCORE, {**_SCORE, "channels": (40, 64)}),
)
VARIANTS = tuple(variant for round_ in zip(*_BY_FAMILY, strict=True) for variant in round_)
"""By letter, then by family, so that a zoo whose training was broken off is balanced."""

SAMPLING: dict[str, dict[str, Any]] = {
    "vae": {},
    "gan": {},
    "flow": {"temperature": 0.7},
    "score": {"sampler": "ddim", "steps": 20},
}
"""How samples are drawn."""
OTHER_SAMPLING: dict[str, dict[str, Any]] = {
    "vae": {"temperature": 0.85},
    "gan": {"temperature": 0.85},
    "flow": {"temperature": 0.6},
    "score": {"sampler": "dpm-solver", "steps": 12},
}
"""Another sampler of the same weights, for tests: not used in training."""
