"""What the evidence for named copies consists of: the numbers that a verifier with the key table would give.

    explained = explain(table, named, ranked, issued, acceptance)
    explained.copies[0].log10_p_family, explained.images[0].log10_p, explained.runner_up

The arithmetic is that of :mod:`verifier.check`. These numbers tell about keys: they are for whoever may see
the key table of the model, nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.resolve import deciding
from registry.resolve.tables import Keys
from verifier import evidence, phi
from verifier.check import COPIES_MOST, Test, weighted_tests
from verifier.network import Reading


@dataclass(frozen=True)
class NamedEvidence:
    """The evidence for one key; ``log10_p_family`` counts all keys and readings that were tested."""

    user_key: int
    matching_bits: int
    log10_p: float
    log10_p_family: float


@dataclass(frozen=True)
class ImageEvidence:
    """What one image adds to the evidence for the strongest key: see :class:`verifier.finding.ImageEntry`."""

    logits: list[int]
    pose: dict[str, Any]
    log10_p: float
    log10_p_without: float | None


@dataclass(frozen=True)
class RunnerUp:
    """The best key that is not named, by the same reading: as likely as it looks, by chance."""

    matching_bits: int
    log10_p: float
    log10_p_family: float


@dataclass(frozen=True)
class Explained:
    """Named keys, strongest first, with ``tested``, the logits (k,) whose score named the first one."""

    copies: list[NamedEvidence]
    images: list[ImageEvidence]
    tested: list[int]
    hypotheses: int
    runner_up: RunnerUp | None


@dataclass(frozen=True)
class _Strongest:
    row: int
    test: Test
    signs: NDArray[np.int64]
    log10_p: float
    hypotheses: int
    family: float


def explain(
    keys: Keys,
    named: Sequence[int],
    ranked: Sequence[Sequence[Reading]],
    issued: int,
    acceptance: float,
    plus: NDArray[np.float64] | None = None,
) -> Explained:
    """The evidence for the ``named`` keys among the first ``issued``, given each image's ranked readings.

    ``acceptance`` is the chance of a key to pass the screening, on which the bound is conditioned;
    ``plus`` are the probabilities of +1 where keys are biased.
    """
    tests = weighted_tests(ranked)
    best = deciding.best_of(keys, np.stack([test.logits for test in tests]), COPIES_MOST + 1, issued)
    rows = {keys.user_key(row): row for found, _ in best for row in found.tolist()}
    strongest = sorted(
        (_strongest(keys, rows[user_key], tests, issued, acceptance, plus) for user_key in named),
        key=lambda entry: entry.family,
    )
    first = strongest[0]
    chosen = [image[0] for image in ranked]
    if first.test.image is not None and first.test.reading is not None:
        chosen[first.test.image] = first.test.reading
    pooled = np.stack([reading.logits for reading in chosen]).sum(axis=0).astype(np.int64)

    def bound(logits: NDArray[np.int64]) -> float:
        return evidence.log10_family(
            evidence.log10_tail(logits, int(logits @ first.signs), plus), 1, acceptance
        )

    images = [
        ImageEvidence(
            own.tolist(),
            asdict(reading.pose),
            bound(own),
            bound(pooled - own) if len(chosen) > 1 else None,
        )
        for reading in chosen
        for own in [reading.logits.astype(np.int64)]
    ]
    copies = [
        NamedEvidence(keys.user_key(entry.row), _matching(entry), entry.log10_p, entry.family)
        for entry in strongest
    ]
    return Explained(
        copies,
        images,
        first.test.logits.tolist(),
        first.hypotheses,
        _runner_up(keys, first.test, {entry.row for entry in strongest}, issued, acceptance, plus),
    )


def _strongest(
    keys: Keys,
    row: int,
    tests: Sequence[Test],
    issued: int,
    acceptance: float,
    plus: NDArray[np.float64] | None,
) -> _Strongest:
    """The test that says most for one key."""
    signs = keys.signs(row)
    found = []
    for test in tests:
        tail = evidence.log10_tail(test.logits, int(test.logits @ signs), plus)
        log10_p = evidence.log10_family(tail, 1, acceptance)
        hypotheses = math.ceil(issued / test.weight)
        found.append(
            _Strongest(row, test, signs, log10_p, hypotheses, evidence.log10_family(log10_p, hypotheses))
        )
    return min(found, key=lambda entry: entry.family)


def _runner_up(
    keys: Keys,
    test: Test,
    named: set[int],
    issued: int,
    acceptance: float,
    plus: NDArray[np.float64] | None,
) -> RunnerUp | None:
    ((rows, _),) = deciding.best_of(keys, test.logits[None], len(named) + 1, issued)
    others = [row for row in rows.tolist() if row not in named]
    if not others:
        return None
    other = _strongest(keys, others[0], [test], issued, acceptance, plus)
    return RunnerUp(_matching(other), other.log10_p, other.family)


def _matching(entry: _Strongest) -> int:
    return int(np.count_nonzero(entry.test.logits * entry.signs > 0))


def agreement(tested: Sequence[int], packed: NDArray[np.uint8]) -> list[bool]:
    """Bit by bit, whether the reading has the sign of the key (``packed``, as it is derived)."""
    return [bool(agrees) for agrees in np.asarray(tested, np.int64) * phi.unpack(packed) > 0]
