"""The verdict is the verifier's: the same test, held against its bound key by key."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InputError
from registry.resolve import deciding
from registry.resolve.tables import Keys, _Issued
from verifier import evidence, phi
from verifier.check import weighted_tests
from verifier.network import NetworkSpec, PoseRule
from verifier.resolve import KeyIndex

BITS = 64
SPEC = NetworkSpec(1, BITS, 16, "", "bicubic", 128, 8.0, 1 / 16, PoseRule((), 1, 0, 0, 0.9))


def table(count: int, seed: int = 0) -> Keys:
    packed = np.random.default_rng(seed).integers(0, 256, (count, BITS // 8), np.uint8)
    half = count // 2
    ids = np.arange(100, 100 + count)
    recent = _Issued(ids[half:], ids[half:], packed[half:])
    return Keys(KeyIndex.of(packed[:half]), ids[:half], 100 + half - 1, recent)


def key(keys: Keys, row: int) -> np.ndarray:
    return phi.unpack(keys.packed()[row]).astype(int)


@given(st.integers(0, 2**32), st.integers(0, 40), st.sampled_from([1e-6, 1e-9, 1e-14]), st.integers(1, 3))
@settings(max_examples=60)
def test_a_key_is_named_exactly_where_the_verifiers_bound_is_within_alpha(
    seed: int, wrong: int, alpha: float, poses: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = table(300, 5)
    row = int(rng.integers(300))
    readings = rng.integers(-128, 129, (poses, BITS))
    flips = np.where(rng.permutation(BITS) < wrong, -1, 1)
    readings[0] = np.abs(readings[0]) * key(keys, row) * flips
    tests = deciding.tests_of(SPEC, [readings.tolist()])
    named = deciding.attributed(keys, tests, alpha, 0.99).named
    expected = set()
    for test in tests:
        hypotheses = math.ceil(300 / test.weight)
        for candidate in range(300):
            score = int(test.logits @ key(keys, candidate))
            log10_p = evidence.log10_tail(test.logits, score)
            if evidence.log10_family(log10_p, hypotheses, 0.99) <= math.log10(alpha):
                expected.add(100 + candidate)
    assert set(named) == expected


def test_the_tests_are_those_of_the_verifier() -> None:
    rng = np.random.default_rng(2)
    images = [rng.integers(-128, 129, (3, BITS)).tolist() for _ in range(2)]
    tests = deciding.tests_of(SPEC, images)
    assert sum(test.weight for test in tests) == pytest.approx(1.0)
    assert len(tests) == 1 + 6
    ranked = [deciding._ranked(SPEC, image) for image in images]
    assert [test.weight for test in tests] == [test.weight for test in weighted_tests(ranked)]
    for readings in ranked:
        confidences = [reading.confidence for reading in readings]
        assert confidences == sorted(confidences, reverse=True)


def test_colluders_are_all_named() -> None:
    keys = table(100)
    both = 64 * (key(keys, 10) + key(keys, 90))
    named = deciding.attributed(keys, deciding.tests_of(SPEC, [[both.tolist()]]), 1e-6, 1.0).named
    # Two of 64 bits agree on half: each has a score of all of the weight there is.
    assert set(named) <= {110, 190}
    alone = deciding.attributed(keys, deciding.tests_of(SPEC, [[(128 * key(keys, 10)).tolist()]]), 1e-6, 1.0)
    assert alone.named == [110]
    assert alone.alone == {0: [110]}


def test_images_of_a_set_that_name_different_keys_contradict_each_other() -> None:
    keys = table(100)
    mine, other = ([(128 * key(keys, row)).tolist()] for row in (10, 90))
    silent = [np.random.default_rng(3).integers(-128, 129, BITS).tolist()]
    found = deciding.attributed(keys, deciding.tests_of(SPEC, [mine, silent, other, mine]), 1e-6, 1.0)
    assert found.named == [110, 190]
    assert found.alone == {0: [110], 2: [190], 3: [110]}
    assert found.contradiction == (0, 2)
    assert found.shown == {0: [110], 2: [190]}
    found = deciding.attributed(keys, deciding.tests_of(SPEC, [silent, mine, mine]), 1e-6, 1.0)
    assert (found.named, found.contradiction) == ([110], None)
    assert found.shown == {1: [110]}, "of a set no more than the first image that names somebody"


def test_no_key_was_issued_and_nothing_was_read() -> None:
    tests = deciding.tests_of(SPEC, [[[128] * BITS]])
    assert not deciding.attributed(table(0), tests, 1e-6, 1.0).named
    assert not deciding.attributed(table(9), deciding.tests_of(SPEC, [[[0] * BITS]]), 1e-6, 1.0).named


@pytest.mark.parametrize("reading", [[0] * (BITS - 1), [129] + [0] * (BITS - 1)])
def test_readings_of_another_network_are_refused(reading: list[int]) -> None:
    with pytest.raises(InputError):
        deciding.tests_of(SPEC, [[reading]])


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 20))
@settings(max_examples=40)
def test_later_keys_are_neither_named_nor_counted(seed: int, issued: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    keys = table(300, 5)
    logits = rng.integers(-128, 129, (3, BITS)).astype(np.int64)
    scores = phi.unpack(keys.packed()).astype(np.int64)[:issued] @ logits.T
    for column, (rows, found) in enumerate(deciding.best_of(keys, logits, m, issued)):
        best = np.sort(scores[:, column])[::-1][:m]
        assert found.tolist() == best.tolist()
        assert (rows < issued).all()


def test_a_key_issued_later_is_left_out_however_well_it_fits() -> None:
    keys = table(300)
    reading = (128 * key(keys, 200)).tolist()
    tests = deciding.tests_of(SPEC, [[reading]])
    assert deciding.attributed(keys, tests, 1e-6, 1.0).named == [300]
    assert deciding.attributed(keys, tests, 1e-6, 1.0, issued=201).named == [300]
    assert deciding.attributed(keys, tests, 1e-6, 1.0, issued=200).named == []
