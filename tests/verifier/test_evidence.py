"""The bound is a proof, so it is held against exact rational arithmetic, never against another float."""

from __future__ import annotations

import bisect
import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from verifier.evidence import GRID, chernoff_log10, log10_family, log10_tail, log_cosh, score_at
from verifier.online import IMAGES_MOST

integers = st.lists(st.integers(-128, 128), min_size=1, max_size=16)
floats = st.lists(st.floats(-8, 8, allow_nan=False), min_size=1, max_size=8)


def exact_log10(numerator: int, bits: int) -> Decimal:
    """log10 of numerator / 2^bits to 50 digits; minus infinity for 0."""
    with localcontext() as context:
        context.prec = 50
        return Decimal(numerator).log10() - bits * Decimal(2).log10() if numerator else Decimal("-Infinity")


def sums(logits: list[Fraction]) -> list[Fraction]:
    """The scores of all 2^k keys, exactly."""
    signs = itertools.product((-1, 1), repeat=len(logits))
    return [Fraction(sum(s * weight for s, weight in zip(key, logits, strict=True))) for key in signs]


def integer_sums(logits: list[int]) -> NDArray[np.int64]:
    """The same for integers, (2^k,)."""
    scores = np.zeros(1, np.int64)
    for weight in logits:
        scores = np.concatenate([scores - weight, scores + weight])
    return scores


def subset_counts(weights: list[int]) -> list[int]:
    """Number of subsets with each sum, in integers of any size: 2^k P(F = f)."""
    counts = [1]
    for weight in weights:
        shifted = [0] * weight + counts
        counts = [a + b for a, b in zip(counts + [0] * weight, shifted, strict=True)]
    return counts


@given(integers, st.data())
@settings(max_examples=100)
def test_integer_logits_are_bounded_from_above_and_tightly(logits: list[int], data: st.DataObject) -> None:
    scores = np.sort(integer_sums(logits))
    tested = data.draw(st.lists(st.sampled_from(scores[-64:].tolist()), min_size=1, max_size=8))
    for score in [int(scores[0]), int(scores[-1]), int(scores[-1]) + 1, *tested, tested[0] + 1]:
        count = len(scores) - int(np.searchsorted(scores, score))
        bound, truth = log10_tail(logits, score), exact_log10(count, len(logits))
        assert Decimal(bound) >= truth
        assert count == 0 or Decimal(bound) - truth < Decimal("1e-10")


@given(floats, st.floats(-80, 80))
@settings(max_examples=100)
def test_real_logits_are_never_bounded_from_below_the_truth(logits: list[float], score: float) -> None:
    scores = sums([Fraction(value) for value in logits])
    attainable = float(max(scores, key=lambda s: (s <= score, s)))
    for tested in (score, attainable, float(max(scores))):
        count = sum(s >= Fraction(tested) for s in scores)
        assert Decimal(log10_tail(logits, tested)) >= exact_log10(count, len(logits))


@given(floats)
@settings(max_examples=100)
def test_a_score_summed_in_floating_point_in_any_order_is_covered(logits: list[float]) -> None:
    best = np.abs(logits)
    for order in (best, best[::-1], np.sort(best)):
        rounded = float(np.add.accumulate(order)[-1])
        assert log10_tail(logits, rounded) >= -len(logits) * math.log10(2)


@pytest.mark.parametrize("bits", [64, 256])
def test_many_integer_logits_agree_with_exact_integer_counts(bits: int) -> None:
    weights = np.random.default_rng(bits).integers(0, 129, bits).tolist()
    counts = subset_counts(weights)
    total = sum(weights)
    cumulative = list(itertools.accumulate(counts))
    for flips in (0, 1, 5, total // 50, total // 10, total // 4, total // 2, total):
        bound = Decimal(log10_tail(weights, total - 2 * flips))
        truth = exact_log10(cumulative[flips], bits)
        assert truth <= bound < truth + Decimal("1e-9")


def test_a_thousand_bits_neither_overflow_nor_underflow() -> None:
    ones = np.ones(1500, int)
    for flips in (0, 1, 10, 700, 750, 1500):
        count = sum(math.comb(1500, i) for i in range(flips + 1))
        truth = exact_log10(count, 1500)
        assert truth <= Decimal(log10_tail(ones, 1500 - 2 * flips)) < truth + Decimal("1e-9")


@given(st.lists(st.integers(-(10**9), 10**9), min_size=16, max_size=16), st.floats(0, 1))
@settings(max_examples=60)
def test_sums_too_large_for_the_grid_are_rounded_to_the_safe_side(logits: list[int], share: float) -> None:
    scores = integer_sums(logits)
    score = int(share * np.abs(logits).sum())
    count = int((scores >= score).sum())
    assert Decimal(log10_tail(logits, score)) >= exact_log10(count, len(logits))
    at_best = log10_tail(logits, int(np.abs(logits).sum()))
    assert at_best >= -len(logits) * math.log10(2)


def test_a_pooled_set_loses_little_to_rounding() -> None:
    logits = np.random.default_rng(3).integers(-128, 129, 256) * 1009
    assert np.abs(logits).sum() > 7 * GRID
    score = int(np.abs(logits).sum() * 0.6)
    exact = log10_tail(logits // 1009, score / 1009)
    assert exact <= log10_tail(logits, score) < exact + 0.05


def test_a_set_as_large_as_a_registry_takes_is_not_rounded() -> None:
    assert 256 * 128 * IMAGES_MOST <= GRID
    logits = np.full(256, 128 * IMAGES_MOST)
    assert log10_tail(logits, int(logits.sum())) == pytest.approx(-256 * math.log10(2), abs=1e-9)


@pytest.mark.parametrize("bits", [128, 256, 512])
@pytest.mark.parametrize("kind", ["normal", "heavy", "equal", "dominated"])
def test_real_logits_lose_less_than_a_twentieth_of_a_decade(bits: int, kind: str) -> None:
    """From 1e-1 to 1e-30, against exact counts of multiples of a unit that no grid has."""
    rng = np.random.default_rng(bits)
    steps = {
        "normal": np.rint(np.abs(rng.normal(0, 8, bits))),
        "heavy": np.rint(np.abs(rng.standard_cauchy(bits) * 4).clip(0, 60)),
        "equal": np.ones(bits),
        "dominated": np.r_[[300, 200], np.ones(bits - 2)],
    }[kind].astype(int)
    unit, total = math.pi / 1000, int(steps.sum())
    cumulative = list(itertools.accumulate(subset_counts(steps.tolist())))
    for decades in (1, 2, 3, 6, 10, 15, 20, 25, 30):
        flips = bisect.bisect_left(cumulative, 2**bits // 10**decades)
        bound = Decimal(log10_tail(steps * unit, (total - 2 * flips - 0.5) * unit))
        truth = exact_log10(cumulative[flips], bits)
        assert truth <= bound < truth + Decimal("0.05")


@pytest.mark.parametrize(
    "logits",
    [
        np.full(10, 0.1),
        np.r_[1e16, np.linspace(-1, 1, 9)],
        10.0 ** np.linspace(-300, 290, 10),
        np.arange(1, 11) * 5e-324,
        np.linspace(0.5, 1, 10) * 1e299,
        1 + np.arange(10) * 2.0**-52,
        np.r_[2.0**53, np.ones(9)],
        np.r_[-0.0, np.ones(9)],
    ],
    ids=["equal", "dominated", "six hundred decades", "subnormal", "huge", "an ulp apart", "mixed", "zero"],
)
def test_extreme_logits_are_never_bounded_from_below_the_truth(logits: NDArray[np.float64]) -> None:
    scores = np.array(sorted(sums([Fraction(value) for value in logits.tolist()])))
    for place in (*range(len(scores) - 40, len(scores)), *range(len(scores) // 2, len(scores), 99)):
        score = float(scores[place])
        count = len(scores) - bisect.bisect_left(scores, Fraction(score))
        assert Decimal(log10_tail(logits, score)) >= exact_log10(count, len(logits))


@given(st.lists(st.integers(-128, 128), min_size=1, max_size=60), st.data())
@settings(max_examples=80)
def test_the_bound_falls_with_the_score_and_stops_at_two_to_the_minus_k(
    logits: list[int], data: st.DataObject
) -> None:
    total = sum(map(abs, logits))
    score = data.draw(st.integers(-total - 3, total + 1))
    here, there = log10_tail(logits, score), log10_tail(logits, score + 1)
    assert there <= here <= 0
    assert score > total or here >= -len(logits) * math.log10(2)
    assert log10_tail(logits, -total) == 0
    assert log10_tail(logits, total + 1) == -math.inf
    relevant = sum(value != 0 for value in logits)
    assert log10_tail(logits, total) == pytest.approx(-relevant * math.log10(2), abs=1e-9)


def test_signs_order_and_unit_of_the_logits_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    logits = rng.integers(-128, 129, 256)
    expected = log10_tail(logits, 9000)
    assert log10_tail(-logits, 9000) == expected
    assert log10_tail(rng.permutation(logits), 9000) == expected
    assert log10_tail(logits / 16, 9000 / 16) == pytest.approx(expected, abs=1e-8)
    assert log10_tail(logits / 16, 9000 / 16) >= expected - 1e-9


def test_rows_are_bounded_one_by_one() -> None:
    logits = np.random.default_rng(6).integers(-20, 21, (5, 32))
    scores = np.array([10, 50, 90, 130, 400])
    together = log10_tail(logits, scores)
    assert together.tolist() == [log10_tail(row, s) for row, s in zip(logits, scores, strict=True)]


def test_one_in_q_random_keys_reaches_p_below_q() -> None:
    rng = np.random.default_rng(7)
    logits = rng.integers(-128, 129, 64)
    scores = (rng.integers(0, 2, (200_000, 64)) * 2 - 1) @ logits
    for q in (0.1, 1e-2, 1e-3):
        reached = int((scores >= score_at(logits, math.log10(q))).sum())
        # q is an upper bound, and the attainable tails are dense here: within 5 standard deviations.
        assert abs(reached - 200_000 * q) < 5 * math.sqrt(200_000 * q) + 5


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=40), st.floats(-14, -0.01))
@settings(max_examples=100)
def test_score_at_is_the_first_attainable_score_with_so_small_a_tail(logits: list[int], p: float) -> None:
    threshold = score_at(logits, p)
    total = sum(map(abs, logits))
    if threshold == math.inf:
        assert log10_tail(logits, total) > p
        return
    assert threshold <= total
    assert (total - threshold) % 2 == 0
    assert log10_tail(logits, threshold) <= p
    below = [s for s in range(int(threshold) - 1, -total - 1, -1) if log10_tail(logits, s) > p]
    assert not below or log10_tail(logits, threshold - 2 * math.gcd(*logits)) > p


def test_score_at_of_many_images_and_of_real_logits() -> None:
    logits = np.random.default_rng(8).normal(size=(6, 64))
    thresholds = score_at(logits, -5.0)
    assert thresholds.shape == (6,)
    assert (log10_tail(logits, thresholds) <= -5.0).all()
    assert (log10_tail(logits, thresholds - 0.01) > -5.1).all()


@given(st.lists(st.integers(-128, 128), min_size=1, max_size=64), st.floats(-0.2, 1))
@settings(max_examples=150)
def test_chernoff_is_a_bound_too_and_less_than_two_decades_looser(logits: list[int], share: float) -> None:
    score = math.floor(share * sum(map(abs, logits)))
    exact, loose = log10_tail(logits, score), chernoff_log10(logits, score)
    assert loose >= exact - 1e-9
    assert loose <= 0
    assert loose < exact + 2


def test_chernoff_of_certain_bits_stays_above_the_ceiling() -> None:
    # A clamp inside log cosh once claimed 95 decades here, where 64 bits can give 19.27.
    for size in (1.0, 50.0, 1e4, 1e12):
        bound = chernoff_log10(np.full(64, size), 64 * size)
        assert -64 * math.log10(2) <= bound < -19


def test_chernoff_of_rows_is_that_of_each_row() -> None:
    logits = np.random.default_rng(9).integers(-128, 129, (4, 256))
    scores = np.array([0, 3000, 6000, 12000])
    rows = [chernoff_log10(row, score) for row, score in zip(logits, scores, strict=True)]
    assert np.allclose(chernoff_log10(logits, scores), rows)


@given(st.floats(-700, 700))
def test_log_cosh_is_that_of_the_definition(x: float) -> None:
    assert log_cosh(np.array([x]))[0] == pytest.approx(math.log(math.cosh(x)), abs=1e-12, rel=1e-12)


def test_log_cosh_of_huge_values_is_linear() -> None:
    assert log_cosh(np.array([1e300, -1e300])).tolist() == [1e300, 1e300]


def test_the_family_bound_multiplies_and_never_exceeds_one() -> None:
    assert log10_family(-12.0, 10**5) == pytest.approx(-7)
    assert log10_family(-12.0, 10**5, acceptance=0.5) == pytest.approx(-7 + math.log10(2))
    assert log10_family(-3.0, 10**5) == 0
    assert log10_family(-3.0, 0) == -3


@pytest.mark.parametrize(
    ("logits", "score"),
    [
        ([1.0, math.nan], 0.0),
        ([1.0, math.inf], 0.0),
        ([1.0, 2.0], math.nan),
        ([], 0.0),
        (np.ones(5000), 0.0),
        (np.ones((2, 3)), np.ones(3)),
        ([1e308, 1e308], 0.0),
    ],
)
def test_input_that_proves_nothing_is_refused(logits: object, score: object) -> None:
    with pytest.raises(ValueError):
        log10_tail(logits, score)  # type: ignore[call-overload]


def test_logits_that_are_all_zero_say_nothing() -> None:
    assert log10_tail([0, 0, 0], 0) == 0
    assert log10_tail([0, 0, 0], 1) == -math.inf


def test_a_threshold_of_probability_one_or_more_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        score_at([1, 2], 0.0)


BIAS_STEPS = st.integers(1, 2**16 - 1)


def decimal_log10(value: Fraction) -> Decimal:
    with localcontext() as context:
        context.prec = 50
        return (Decimal(value.numerator) / Decimal(value.denominator)).log10() if value else Decimal("-Inf")


@given(st.lists(st.tuples(st.integers(-128, 128), BIAS_STEPS), min_size=1, max_size=8), st.data())
@settings(max_examples=40)
def test_biased_keys_are_bounded_from_above_and_tightly(
    bits: list[tuple[int, int]], data: st.DataObject
) -> None:
    logits = [logit for logit, _ in bits]
    plus = np.array([step / 65536 for _, step in bits])
    chances: dict[int, Fraction] = {}
    for key in itertools.product((-1, 1), repeat=len(bits)):
        score = sum(sign * logit for sign, logit in zip(key, logits, strict=True))
        chance = Fraction(1)
        for sign, (_, step) in zip(key, bits, strict=True):
            chance *= Fraction(step if sign > 0 else 65536 - step, 65536)
        chances[score] = chances.get(score, Fraction(0)) + chance
    tested = data.draw(st.lists(st.sampled_from(sorted(chances)), min_size=1, max_size=6))
    for score in [*tested, max(chances), max(chances) + 1]:
        truth = decimal_log10(sum((c for s, c in chances.items() if s >= score), Fraction(0)))
        bound = log10_tail(logits, score, plus)
        assert Decimal(bound) >= truth
        assert truth.is_infinite() or Decimal(bound) - truth < Decimal("1e-9")
        assert chernoff_log10(logits, score, plus) >= bound - 1e-9
    level = data.draw(st.floats(-6, -0.01))
    least = score_at(logits, level, plus)
    assert all((s >= least) == (log10_tail(logits, s, plus) <= level) for s in chances)


def test_long_biased_keys_keep_their_bound_down_to_the_rarest() -> None:
    """256 bits, exactly; the first score is that of the one key that agrees everywhere."""
    rng = np.random.default_rng(3)
    logits = rng.integers(-16, 17, 256)
    steps = np.where(rng.random(256) < 0.5, 13849, 51687)
    misses = [
        Fraction(int(65536 - step if logit > 0 else step), 65536)
        for logit, step in zip(logits, steps, strict=True)
    ]
    # In 2^-16ths with integers, not fractions: the same numbers, a hundred times faster.
    masses = np.zeros(int(np.abs(logits).sum()) + 1, object)
    masses[0] = 1
    for logit, miss in zip(np.abs(logits).tolist(), misses, strict=True):
        missed = int(miss * 65536)
        kept = masses * (65536 - missed)
        kept[logit:] += masses[: len(masses) - logit] * missed
        masses = kept
    sums, total = np.cumsum(masses), int(np.abs(logits).sum())
    for flips in (0, 1, 40, 150, 300, 600, total // 2):
        truth = decimal_log10(Fraction(int(sums[flips]), 65536**256))
        bound = log10_tail(logits, total - 2 * flips, steps / 65536)
        assert Decimal(bound) >= truth
        assert Decimal(bound) - truth < Decimal("1e-9")


def test_uniform_keys_are_biased_ones_of_a_half() -> None:
    logits = np.random.default_rng(4).integers(-128, 129, 200)
    for score in (0, 1000, 3000, int(np.abs(logits).sum())):
        assert log10_tail(logits, score, np.full(200, 0.5)) == pytest.approx(
            log10_tail(logits, score), abs=1e-9
        )


@pytest.mark.parametrize("plus", [[0.5], [0.0, 0.5], [1.0, 0.5], [0.5, 2.0**-60], [np.nan, 0.5]])
def test_biases_that_prove_nothing_are_refused(plus: list[float]) -> None:
    with pytest.raises(ValueError, match="biases"):
        log10_tail([1, 2], 3, np.array(plus))
