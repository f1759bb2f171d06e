"""Evidence: a proved upper bound on the probability of a false accusation.

    log10_p = log10_tail(logits, score)                   # P(sum_j L_j phi_j >= score), phi uniform
    log10_family(log10_p, hypotheses=10**5, acceptance=0.99)
    thresholds = score_at(foreign_logits, log10_p=-5.0)   # (m,), for screening keys at issue

**Claim.** Let phi_1 .. phi_k be independent and uniform on {-1, +1}, and L fixed (under the null
hypothesis the images, hence L, are independent of the key). :func:`log10_tail` returns a number that is
never below ``log10 P(S >= s)``, ``S = sum_j L_j phi_j``.

*Grid.* Signs are symmetric, so L_j counts as |L_j|. Choose a unit u and integers ``l_j = round(|L_j| / u)``,
and let ``e = sum_j | |L_j| / u - l_j |``. For every phi, ``S / u <= sum_j l_j phi_j + e``; hence
``P(S >= s) <= P(sum_j l_j phi_j >= s / u - e)``. With A the sum of the l_j and F that of the l_j of the bits
with phi_j = -1, the last sum is ``A - 2 F``, so the event is ``F <= m``, ``m = floor((A - s / u + e) / 2)``.
(Rounding |L_j| *up* proves nothing: the tail is not monotone in |L_j|.) u is a power of two, so that
``|L_j| / u`` and its distance to the nearest integer are exact in binary floating point; e and m are
then computed in integers of any size. If all L_j are integers (network readings are: multiples of the
quantum) with a sum of at most GRID, then u = 1 and e = 0: nothing is rounded.

*Convolution.* The number of subsets of {l_j} with sum f, ``c(f)``, follows from k steps
``c(f) <- c(f) + c(f - l_j)``, and ``P(F <= m) = 2^-k sum_{f <= m} c(f)``. Counts are held in float64,
scaled by 2^-1000 so that neither 1 nor 2^k leaves the range of normal numbers (k <= BITS_LIMIT). Every
operation is an addition of non-negative numbers with relative error at most ``2^-53`` (IEEE 754), so a
path of a additions is off by at most a factor ``(1 - 2^-53)^a``. A count takes k additions and the final
running sum at most m; the logarithm adds an absolute error below ``1e-12``. Hence the slack
``(k + m) 2^-52 log10(e) + 1e-12``, below 1e-10 decades, is added. An FFT has no such bound: its error is
absolute, about 1e-16 of the largest count, which swamps the tail.

*Floor.* For s <= sum |L_j| the event holds for phi = sign(L), so p >= 2^-k, and the bound, being above
p, never claims more. For s > sum |L_j| (by more than the rounding) it is impossible: -inf.

*Biased keys.* A collusion-resistant model draws bit j with ``P(phi_j = +1) = p_j``, secret and fixed for all
keys of the model (:mod:`verifier.phi`). Nothing above is said of signs alone then: with ``q_j = P(phi_j !=
sign(L_j))``, which is ``1 - p_j`` where L_j > 0 and p_j otherwise, F is the sum of the l_j of the bits that
miss, and its distribution follows from k steps ``c(f) <- (1 - q_j) c(f) + q_j c(f - l_j)`` from ``c(0) = 1``
on. ``1 - p_j`` must be exact in float64 (the p_j are multiples of 2^-16), so that a step has two roundings,
and the slack is ``(2 k + m) 2^-52 log10(e) + 1e-12``. Probabilities are held times 2^1000; what a product
loses below the smallest subnormal number, at most 2^-1074 for each cell and step, is added to the sum, so
that nothing below 1e-600 is ever claimed. The floor is that of the key ``sign(L)``: ``prod (1 - q_j)``, above
2^-k on average.

*Scores in floating point.* For logits that are not integers the score is lowered by
``2^-52 k sum |L_j|``, more than float64 summation in any order can have added.
"""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ALPHA = 1e-6
"""Default bound on the probability that anything in one invocation is attributed falsely."""

GRID = 1 << 21
"""Most grid steps in sum |L_j|: nothing is rounded for 64 images (as many as a registry takes at once) of 256
bits at the clip of 128 quanta. Elsewhere it costs less than 0.05 decades down to 1e-30 (128 to 512 bits)."""

BITS_LIMIT = 2000
_SCALE = -1000  # counts are held times 2**_SCALE
_BIASED_SCALE = 1000  # probabilities of biased keys are held times 2**_BIASED_SCALE

_LOG10_2 = math.log10(2.0)
_LOG10_E = math.log10(math.e)
_LOGARITHM_ERROR = 1e-12
_FIXED = 2200  # bits after the point in which scores and errors are exact: 1074 of a float, 1024 of u
_LARGEST = 1e300  # BITS_LIMIT of them still have a sum
_CHERNOFF_STEPS = 12
_SETTLED = 1e-4  # relative change of t: the bound is flat at its least, so it moves by the square of that


@overload
def log10_tail(logits: ArrayLike, score: float, plus: Floats | None = None) -> float: ...
@overload
def log10_tail(logits: ArrayLike, score: NDArray[Any], plus: Floats | None = None) -> Floats: ...
def log10_tail(logits: ArrayLike, score: float | NDArray[Any], plus: Floats | None = None) -> float | Floats:
    """Upper bound on ``log10 P(sum_j L_j phi_j >= score)`` for uniform signs phi, or biased ones.

    ``logits`` has shape (k,) with one ``score``, or (m, k) with scores (m,); the result is a float or
    (m,). ``plus`` (k,) holds ``P(phi_j = +1)``, between 0 and 1, where keys are biased. ``ValueError`` for
    logits or scores that are not finite, more than BITS_LIMIT of them, or another number of biases.
    """
    rows, scores = np.atleast_2d(_finite(logits)), np.atleast_1d(_finite(score))
    if scores.shape != rows.shape[:1]:
        raise ValueError(f"{len(rows)} rows of logits, but scores of shape {scores.shape}")
    tails = np.array([_Grid(row, plus).log10_tail(value) for row, value in zip(rows, scores, strict=True)])
    return float(tails[0]) if np.ndim(logits) == 1 else tails


def score_at(logits: ArrayLike, log10_p: float, plus: Floats | None = None) -> float | Floats:
    """The smallest attainable score whose :func:`log10_tail` is at most ``log10_p`` (below 0).

    ``logits`` (k,) gives a float, (m, k) gives (m,). A key is to be redrawn if its score reaches it.
    Where no attainable score has so small a tail the result is inf. ``ValueError`` as for
    :func:`log10_tail`. For integer logits scores are integers of one parity, so the result is one;
    otherwise it may lie above the smallest such score by the rounding to the grid, never below.
    """
    if not log10_p < 0:
        raise ValueError(f"log10_p must be negative, not {log10_p}")
    rows = np.atleast_2d(_finite(logits))
    scores = np.array([_Grid(row, plus).score_at(log10_p) for row in rows])
    return float(scores[0]) if np.ndim(logits) == 1 else scores


def chernoff_log10(logits: ArrayLike, score: ArrayLike, plus: Floats | None = None) -> float | Floats:
    """Chernoff's bound on the same tail, ``min_t sum_j log E exp(t L_j phi_j) - t score``, as log10.

    Shapes as in :func:`log10_tail`. Valid like it, several times cheaper on a batch and up to a decade
    and a half looser: it tells cheaply which tests are hopeless. Every t >= 0 gives a bound, so the
    search for the best one (Newton's method, kept in a bracket) cannot make it invalid.
    """
    rows, scores = np.atleast_2d(_finite(logits)), np.atleast_1d(_finite(score))
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scale = np.where(largest > 0, largest, 1.0)[:, None]
    weights, target = np.abs(rows) / scale, scores / scale[:, 0]
    misses = 0.5 if plus is None else np.where(rows > 0, 1 - np.asarray(plus), plus)
    furthest = 64.0 * rows.shape[1]
    low, high = np.zeros(len(rows)), np.full(len(rows), furthest)
    t = np.clip(target / np.maximum((weights**2).sum(axis=1), 1e-300), 0.0, high)
    best = np.zeros(len(rows))
    for _ in range(_CHERNOFF_STEPS):
        x = t[:, None] * weights
        # With q the share of misses, E exp(x sign phi) = exp(x) (1 - q + q exp(-2 x)).
        moments = 1 + misses * np.expm1(-2 * x)
        best = np.minimum(best, (x + np.log(moments)).sum(axis=1) - t * target)
        tilted = misses * np.exp(-2 * x) / moments
        slope = (weights * (1 - 2 * tilted)).sum(axis=1) - target
        curvature = (4 * weights**2 * tilted * (1 - tilted)).sum(axis=1)
        low, high = np.where(slope < 0, t, low), np.where(slope < 0, high, t)
        step = t - slope / np.maximum(curvature, 1e-300)
        t = np.where((step > low) & (step < high), step, (low + high) / 2)
    # Logarithms and sums are good to k units in the last place of terms of size 1 + t * sum |L|.
    error = 2.0**-50 * rows.shape[1] * (1.0 + furthest * weights.sum(axis=1))
    bound = np.minimum(best + np.minimum(error, -best), 0.0) * _LOG10_E
    return float(bound[0]) if np.ndim(logits) == 1 else bound


def log_cosh(x: Floats) -> Floats:
    """``log cosh x`` without overflow: a clamp inside would claim more than 2^-k allows."""
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - math.log(2.0))


def log10_family(log10_p: float, hypotheses: int, acceptance: float = 1.0) -> float:
    """log10 of ``min(1, H p / acceptance)``: the bound over all ``hypotheses`` tests of a finding.

    ``acceptance`` is a lower bound on the share of keys that screening lets pass: an issued key has the
    uniform distribution conditioned on that, which raises no probability by more than its inverse.
    """
    return min(0.0, log10_p + math.log10(max(hypotheses, 1)) - math.log10(acceptance))


class _Grid:
    """One row of logits on the grid of the module's proof."""

    def __init__(self, logits: Floats, plus: Floats | None = None) -> None:
        order = np.argsort(np.abs(logits), kind="stable")
        weights = np.abs(logits)[order]
        self._misses = None if plus is None else _misses(logits, plus)[order]
        if not 0 < len(weights) <= BITS_LIMIT:
            raise ValueError(f"expected 1 to {BITS_LIMIT} logits, got {len(weights)}")
        if weights[-1] > _LARGEST:
            raise ValueError(f"a logit of {weights[-1]:g} is beyond the range that can be summed")
        total = math.fsum(weights)
        whole = bool(np.all(weights == np.rint(weights)))
        # frexp: total <= 2**exponent, so total / 2**(exponent - bits of GRID + 1) <= GRID.
        exponent = math.frexp(total)[1] - GRID.bit_length() + 1
        exponent = max(exponent, 0) if whole else exponent
        scaled = np.ldexp(weights, -exponent)
        steps = np.rint(scaled)
        error = sum(map(_exactly, np.abs(scaled - steps)[scaled != steps].tolist()))
        if not whole:
            error += -(-len(weights) * _exactly(math.ldexp(total, -exponent)) >> 52)
        divisor = max(int(np.gcd.reduce(steps.astype(np.int64))), 1)
        self.steps: NDArray[np.int64] = steps.astype(np.int64) // divisor
        self.total = int(self.steps.sum())
        self._exponent, self._divisor, self._error = exponent, divisor, error

    def log10_tail(self, score: float) -> float:
        # floor((A - s / u + e) / 2) with u = 2^exponent * divisor, in integers.
        room = (self.total * self._divisor << _FIXED) - _exactly(score, self._exponent) + self._error
        most = room // (2 * self._divisor << _FIXED)
        if most < 0:
            return -math.inf
        if most >= self.total:
            return 0.0
        return float(self._log10_cumulative(most)[-1])

    def score_at(self, log10_p: float) -> float:
        # log10_p < 0, and the tail of uniform keys at a score of 0 or less is at least 1/2: with p < 1/2 the
        # search may stop half-way, otherwise the whole distribution is needed.
        half = self._misses is None and log10_p < -_LOG10_2
        most = self.total // 2 if half else self.total
        flips = int(np.searchsorted(self._log10_cumulative(most), log10_p, side="right")) - 1
        if flips < 0:
            return math.inf
        score = ((self.total - 2 * flips) * self._divisor << _FIXED) + self._error
        nearest = math.ldexp(score / (1 << _FIXED), self._exponent)
        exact = _exactly(nearest, self._exponent) >= score
        return nearest if exact else math.nextafter(nearest, math.inf)

    def _log10_cumulative(self, most: int) -> Floats:
        """Upper bounds on ``log10 P(F <= f)`` for f = 0 .. most, shape (most + 1,)."""
        if self._misses is not None:
            return self._log10_biased(most, self._misses)
        counts = np.zeros(most + 1)
        counts[0] = 2.0**_SCALE
        shifted = counts.copy()
        reach = 1  # counts beyond are still zero
        for step in self.steps.tolist():
            end = min(reach + step, most + 1)
            if step <= most:
                np.add(counts[step:end], counts[: end - step], out=shifted[step:end])
                shifted[:step] = counts[:step]
                counts, shifted = shifted, counts
                reach = end
        sums = np.cumsum(counts)
        bits = len(self.steps)
        slack = (bits + most) * 2.0**-52 * _LOG10_E + _LOGARITHM_ERROR
        return np.minimum(np.log10(sums) - (bits + _SCALE) * _LOG10_2 + slack, 0.0)

    def _log10_biased(self, most: int, misses: Floats) -> Floats:
        """The same for bits that miss their sign with probabilities ``misses``."""
        mass = np.zeros(most + 1)
        mass[0] = 2.0**_BIASED_SCALE
        for step, miss in zip(self.steps.tolist(), misses.tolist(), strict=True):
            if step == 0:
                continue
            kept = mass * (1 - miss)
            if step <= most:
                kept[step:] += miss * mass[: most + 1 - step]
            mass = kept
        bits = len(self.steps)
        sums = np.cumsum(mass) + math.ldexp(bits * (most + 1), -1074)
        slack = (2 * bits + most) * 2.0**-52 * _LOG10_E + _LOGARITHM_ERROR
        return np.minimum(np.log10(sums) - _BIASED_SCALE * _LOG10_2 + slack, 0.0)


def _misses(logits: Floats, plus: ArrayLike) -> Floats:
    """``P(phi_j != sign(L_j))``, shape (k,)."""
    biases = np.asarray(plus, np.float64)
    if biases.shape != logits.shape:
        raise ValueError(f"{len(logits)} logits, but biases of shape {biases.shape}")
    if not ((biases > 0) & (biases < 1) & (1 - (1 - biases) == biases)).all():
        raise ValueError("biases lie between 0 and 1, and 1 less one of them must be exact")
    return np.where(logits > 0, 1 - biases, biases)


def _exactly(value: float, exponent: int = 0) -> int:
    """``value / 2**exponent`` in units of ``2**-_FIXED``: exact, as every float is a multiple of 2^-1074."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_FIXED - exponent - denominator.bit_length() + 1)


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError("logits and scores must be finite numbers")
    return array
