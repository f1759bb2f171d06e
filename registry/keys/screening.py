"""Screening of keys at issue: no key that foreign images already point to (METHOD, section 4).

    screen = Screen.against(foreign_logits)
    unlucky = screen.rejects(packed)                 # (n,) bool: to be drawn again

The evidence bound holds on average over keys. If a network answers all photographs alike, one unlucky
key near that answer would be accused again and again; so a candidate under which any of N foreign images
has ``p <= q`` is redrawn. By the union bound at least ``1 - N q`` of all keys pass, and bounds on issued
keys are divided by that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verifier.evidence import score_at
from verifier.phi import Packed, unpack

Q = 1e-5
"""Rarer than one draw in 10^5 for each foreign image; with some thousands of images few keys are redrawn."""

Q_TEXT = "1e-5"
"""``Q`` as signed documents carry it."""

_KEYS_AT_ONCE = 2_000


@dataclass(frozen=True)
class Screen:
    """Foreign readings int16 (n, bits), in units of the quantum, and the score that none may reach."""

    logits: NDArray[np.int16]
    thresholds: NDArray[np.float64]

    @classmethod
    def against(
        cls, logits: NDArray[np.int16], q: float = Q, plus: NDArray[np.float64] | None = None
    ) -> Screen:
        """Compute the thresholds: some milliseconds an image. ``plus`` (bits,) are the biases of keys."""
        if not len(logits):
            return cls(logits, np.zeros(0))
        return cls(logits, np.asarray(score_at(logits, np.log10(q), plus), np.float64).reshape(len(logits)))

    def rejects(self, packed: Packed) -> NDArray[np.bool_]:
        """Which keys (n, bits / 8) reach the threshold of any foreign image; (n,) bool.

        Scores are sums of integers below 2^24, so float32 holds them exactly and the whole table is one
        matrix product.
        """
        rejected = np.zeros(len(packed), bool)
        if not len(self.logits):
            return rejected
        readings = self.logits.astype(np.float32).T
        for start in range(0, len(packed), _KEYS_AT_ONCE):
            signs = unpack(packed[start : start + _KEYS_AT_ONCE]).astype(np.float32)
            rejected[start : start + len(signs)] = (signs @ readings >= self.thresholds).any(axis=1)
        return rejected
