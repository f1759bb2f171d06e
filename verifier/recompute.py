"""The verdict about one known key, computed again from readings: by a report's author, and by the accused.

    again = recompute(ranked_readings, signs, keys=10**6, acceptance=0.999)
    again.log10_p_family, again.matching_bits

The same tests with the same weights as in :mod:`verifier.check`, against a single key whose bits are at hand,
but paid for as one of all the ``keys`` that were issued.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verifier import evidence
from verifier.check import Test, weighted_tests
from verifier.network import Reading


@dataclass(frozen=True)
class Recomputed:
    """The strongest test of a group against one key: its logits (k,), ``hypotheses`` and bounds.

    ``readings`` are, for each image, the reading that the test used or would have; ``own`` and ``without``
    the bounds of each for this key, alone and left out (None for a single image).
    """

    tested: NDArray[np.int64]
    hypotheses: int
    log10_p: float
    log10_p_family: float
    matching_bits: int
    readings: list[Reading]
    own: list[float]
    without: list[float | None]


def recompute(
    images: Sequence[Sequence[Reading]],
    signs: NDArray[np.int8],
    keys: int,
    acceptance: float,
    plus: NDArray[np.float64] | None = None,
) -> Recomputed:
    """The verdict about the key ``signs`` (k,), one of ``keys``, from each image's ranked readings.

    ``plus`` (k,) are the probabilities of +1 where keys are biased.
    """
    wide = signs.astype(np.int64)

    def bound(logits: NDArray[np.int64]) -> float:
        return evidence.log10_family(evidence.log10_tail(logits, int(logits @ wide), plus), 1, acceptance)

    def family(test: Test) -> float:
        return evidence.log10_family(bound(test.logits), math.ceil(keys / test.weight))

    best = min(weighted_tests(images), key=family)
    readings = [ranked[0] for ranked in images]
    if best.image is not None and best.reading is not None:
        readings[best.image] = best.reading
    logits = [reading.logits.astype(np.int64) for reading in readings]
    pooled = np.asarray(np.stack(logits).sum(axis=0), np.int64)
    return Recomputed(
        tested=best.logits,
        hypotheses=math.ceil(keys / best.weight),
        log10_p=bound(best.logits),
        log10_p_family=family(best),
        matching_bits=int(np.count_nonzero(best.logits * wide > 0)),
        readings=readings,
        own=[bound(own) for own in logits],
        without=[bound(pooled - own) if len(logits) > 1 else None for own in logits],
    )
