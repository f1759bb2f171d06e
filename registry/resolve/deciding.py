"""Which keys readings depend on: the verifier's test, with no number left over.

    tests = tests_of(spec, [[logits, ...], ...])          # images, each with its readings
    found = attributed(keys, tests, alpha=1e-6, acceptance=0.9999)
    found.named, found.shown                              # ids of keys, and which images name whom alone

A key is named if its score reaches the smallest one whose family-wise bound is within alpha. That score
follows from the readings alone, so that the work, and the time it takes, tells nothing about how near to it
a key came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import InputError
from registry.resolve.tables import Keys
from verifier import evidence
from verifier.check import COPIES_MOST, Test, weighted_tests
from verifier.finding import contradicting
from verifier.network import NetworkSpec, Pose, Reading, confidence
from verifier.resolve import Found

Logits = NDArray[np.int32]


@dataclass(frozen=True)
class Attribution:
    """Ids of the keys that readings depend on, in the order of issue, and which of them each image names by
    a test of its own."""

    named: Sequence[int]
    alone: Mapping[int, Sequence[int]] = field(default_factory=dict)

    @property
    def contradiction(self) -> tuple[int, int] | None:
        """Two images that contradict each other, so that there is no verdict about the set."""
        return contradicting([self.alone.get(image, ()) for image in range(max(self.alone, default=-1) + 1)])

    @property
    def shown(self) -> dict[int, Sequence[int]]:
        """Of ``alone`` what an answer tells: two images that contradict each other, or else the first that
        names anybody. A key costs as much as a query for it alone; a bit for every image would be free."""
        images = self.contradiction or sorted(self.alone)[:1]
        return {image: self.alone[image] for image in images}


def tests_of(spec: NetworkSpec, images: Sequence[Sequence[Sequence[int]]]) -> list[Test]:
    """The tests that the verifier would make of these readings, each image's ranked by confidence.

    :class:`InputError` for readings that no network of this description gives.
    """
    return weighted_tests([_ranked(spec, readings) for readings in images])


def attributed(
    keys: Keys,
    tests: Sequence[Test],
    alpha: float,
    acceptance: float,
    issued: int | None = None,
    plus: NDArray[np.float64] | None = None,
) -> Attribution:
    """The keys that the readings depend on at ``alpha``.

    With ``issued``, of the first so many keys: later ones are neither named nor counted. ``plus`` are the
    probabilities of +1 where keys are biased.
    """
    counted = len(keys) if issued is None else issued
    if not counted:
        return Attribution(())
    floors = np.array([threshold(test, counted, alpha, acceptance, plus) for test in tests])
    best = best_of(keys, np.stack([test.logits for test in tests]), COPIES_MOST, counted, floors)
    found = [
        (test.image, [keys.user_key(row) for row in rows.tolist()])
        for test, (rows, _) in zip(tests, best, strict=True)
    ]
    named = sorted({key for _, names in found for key in names})[:COPIES_MOST]
    alone: dict[int, set[int]] = {}
    for image, names in found:
        if image is not None and (kept := set(names).intersection(named)):
            alone.setdefault(image, set()).update(kept)
    return Attribution(named, {image: sorted(names) for image, names in alone.items()})


def best_of(
    keys: Keys, logits: NDArray[Any], m: int, counted: int, floors: NDArray[np.float64] | None = None
) -> list[Found]:
    """``keys.top_batch`` among the first ``counted`` keys.

    Later keys are searched as well and left out of what was found; where they took so many places that one of
    the others may be missing, more is asked for.
    """
    wanted = m
    while True:
        found = keys.top_batch(logits, wanted, floors)
        kept = [(rows[rows < counted][:m], scores[rows < counted][:m]) for rows, scores in found]
        if all(
            len(rows) == m or len(everyone) < wanted
            for (rows, _), (everyone, _) in zip(kept, found, strict=True)
        ):
            return kept
        wanted *= 2


def threshold(
    test: Test, issued: int, alpha: float, acceptance: float, plus: NDArray[np.float64] | None = None
) -> float:
    """The smallest score that names a key among ``issued`` ones by this test; infinite if none can."""
    log10_p = math.log10(alpha * test.weight * acceptance / issued)
    return float(evidence.score_at(test.logits, log10_p, plus))


def _ranked(spec: NetworkSpec, readings: Sequence[Sequence[int]]) -> list[Reading]:
    if any(len(reading) != spec.bits for reading in readings):
        raise InputError(f"a reading of this network has {spec.bits} logits.", "Send all of them.")
    most = round(spec.clip / spec.quantum)
    logits = np.array(readings, np.int32)
    if int(np.abs(logits).max()) > most:
        raise InputError(
            f"this network's logits lie within +-{most} units of its quantum.", "Clip, divide and round them."
        )
    # Which pose a reading was made at is not asked: it does not enter the test.
    pose = Pose(0, 0, spec.size, spec.size)
    sure = confidence(logits, spec.quantum).tolist()
    found = [Reading(row, pose, value) for row, value in zip(logits, sure, strict=True)]
    return sorted(found, key=lambda reading: -reading.confidence)
