"""The bench that counts false accusations: its arithmetic by other means, and that it would see a fault."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bench import false_accusation
from bench.false_accusation import (
    ALPHAS,
    IssuedKeys,
    Row,
    Source,
    Suspect,
    at_each,
    binomial_tail,
    by_chance,
    figures_of,
    lower_limit,
    measure,
    read,
    synthetic,
    verdict_levels,
)
from bench.marked import Reference, keys_for, open_reference
from registry.keys.screening import Screen
from verifier.evidence import log10_family, log10_tail
from verifier.phi import unpack

BITS = 64
NAME = "flowers-stylegan2@1"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return open_reference(NAME)


@pytest.fixture(scope="module")
def keys(reference: Reference) -> IssuedKeys:
    return IssuedKeys.draw(reference, 5000)


def suspect(tests: int, seed: int = 0, scale: float = 20) -> Suspect:
    rng = np.random.default_rng(seed)
    weights = np.array([0.9, *[0.1 / (tests - 1)] * (tests - 1)]) if tests > 1 else np.ones(1)
    return Suspect(np.rint(rng.normal(0, scale, (tests, BITS))).clip(-128, 127).astype(np.int16), weights)


@pytest.mark.parametrize("tests", [1, 3, 12])
def test_levels_are_those_of_the_exact_bound_over_all_weighted_tests(tests: int) -> None:
    image, rng = suspect(tests), np.random.default_rng(1)
    packed = rng.integers(0, 256, (60, BITS // 8), np.uint8)
    for row in range(30):  # keys near a reading, so that every level comes up
        near = np.where(rng.random(BITS) < row / 60, -1, 1) * np.sign(image.logits[row % tests] + 0.5)
        packed[row] = np.packbits(near > 0)
    signs = unpack(packed).astype(np.int64)
    log10_p = np.array(
        [
            min(
                log10_tail(logits, int(logits @ key)) - math.log10(weight)
                for logits, weight in zip(image.logits.astype(np.int64), image.weights, strict=True)
            )
            for key in signs
        ]
    )
    expected = (log10_p[:, None] <= np.log10(ALPHAS)).sum(axis=1)
    levels = image.levels(packed)
    assert levels.tolist() == expected.tolist()
    assert set(levels.tolist()) >= {0, len(ALPHAS)}
    assert [image.log10_p(key) for key in packed] == pytest.approx(log10_p)
    assert at_each(levels).tolist() == [(expected > a).sum() for a in range(len(ALPHAS))]


def test_parts_of_many_keys_are_judged_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = np.random.default_rng(1).integers(0, 256, (2000, BITS // 8), np.uint8)
    whole = suspect(12).levels(packed)
    monkeypatch.setattr(false_accusation, "SCORES_AT_ONCE", 12 * 300)
    assert (suspect(12).levels(packed) == whole).all()


def test_hard_bits_are_the_binomial_test() -> None:
    image = suspect(3)
    packed = np.random.default_rng(2).integers(0, 256, (20_000, BITS // 8), np.uint8)
    matches = (np.where(image.logits[0] < 0, -1, 1) == unpack(packed)).sum(axis=1)
    tails = np.cumsum([float(math.comb(BITS, i)) for i in range(BITS, -1, -1)])[::-1] / 2.0**BITS
    expected = (tails[matches][:, None] <= np.array(ALPHAS)).sum(axis=1)
    assert (image.hard().levels(packed) == expected).all()
    every = np.max(
        [Suspect(image.logits[i : i + 1], np.ones(1)).hard().levels(packed) for i in range(3)], axis=0
    )
    assert (image.hard(None).levels(packed) == every).all()


@pytest.mark.parametrize(
    ("successes", "n", "limit"),
    [
        (0, 10, 0.0),
        (10, 10, 0.01 ** (1 / 10)),
        (1, 100, 1 - 0.99 ** (1 / 100)),  # P(X >= 1) = 1 - (1 - p)^n
        (3, 20, 0.022),  # by the sum of binomial terms, to three places
    ],
)
def test_lower_limits_are_clopper_and_pearsons(successes: int, n: int, limit: float) -> None:
    assert lower_limit(successes, n, 0.99) == pytest.approx(limit, abs=1e-3, rel=1e-3)


def test_the_tail_is_the_sum_of_binomial_terms() -> None:
    for successes, n, share in ((3, 20, 0.1), (1, 1000, 5e-4), (40, 1000, 0.03), (20, 20, 0.5)):
        exact = sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(successes, n + 1))
        assert binomial_tail(successes, n, share) == pytest.approx(exact, rel=1e-9)
    large = binomial_tail(1_003_000, 10**8, 0.01)  # three standard deviations above the mean
    assert large == pytest.approx(0.5 * math.erfc(3.0146 / math.sqrt(2)), rel=0.05)


def test_the_worst_key_by_chance() -> None:
    rng = np.random.default_rng(0)
    worst = [rng.binomial(200, 0.01, 10_000).max() for _ in range(31)]
    assert abs(by_chance(200, 10_000, 0.01) - np.median(worst)) <= 1


def test_issued_keys_pass_the_screen_and_only_refused_ones_differ(
    reference: Reference, keys: IssuedKeys
) -> None:
    assert (keys.issued, len(keys.packed)) == (5000, 5000 + len(keys.refused))
    rejected = Screen.against(np.load(reference.package / "foreign.npz")["logits"]).rejects
    assert np.flatnonzero(rejected(keys.unscreened(keys.packed))).tolist() == keys.refused.tolist()
    assert not rejected(keys.screened(keys.packed)).any()
    assert 0 < len(keys.refused) < 50


def test_verdicts_are_the_verifiers(keys: IssuedKeys) -> None:
    image = suspect(3, scale=40)
    guilty = 17
    image.logits[1] = unpack(keys.packed[guilty]) * 30
    levels = image.levels(keys.packed)
    named = verdict_levels(image, keys, levels)
    assert np.flatnonzero(named).tolist() == [guilty]
    family = log10_family(image.log10_p(keys.packed[guilty]), keys.issued, keys.acceptance)
    assert named[guilty] == sum(family <= math.log10(alpha) for alpha in ALPHAS) == len(ALPHAS)


def test_images_that_do_depend_on_keys_are_seen(keys: IssuedKeys) -> None:
    honest = [suspect(1, seed) for seed in range(20)]
    row = measure("net", "random", honest, keys, 2000, seed=1)
    figures, goals = figures_of([row], {"net": keys}, 0.99)
    assert all(goal.met(figures[name]) for name, goal in goals.items())
    assert figures["comparisons"] == 20 * (2000 + 5000)
    guilty = [Suspect((unpack(keys.packed[3])[None] * 30).astype(np.int16), np.ones(1))] * 4
    row = measure("net", "of key 3", guilty, keys, 2000, seed=1)
    figures, goals = figures_of([row], {"net": keys}, 0.99)
    assert figures["worst_screened_key_accusations_at_1e-6"] == 4
    assert row.image_verdicts[0, :, -1].tolist() == [1, 1]
    assert row.image_hard[:, -1].min() >= 1
    too_many = Row(**{**row.__dict__, "fresh": np.array([8000, 8, 0, 0, 0])})
    assert figures_of([too_many], {"net": keys}, 0.99)[0]["cells_above_nominal"] == 1


def test_readings_are_kept_and_taken_up_again(reference: Reference, tmp_path: Path) -> None:
    asked = []

    def images(_: Reference, n: int) -> list[Image.Image]:
        asked.append(n)
        return synthetic(n)

    source = Source("synthetic", images)
    first, again = (read(reference, source, 7, tmp_path) for _ in range(2))
    assert asked == [7]
    for one, other in zip(first, again, strict=True):
        assert (one.logits == other.logits).all()
        assert (one.weights == other.weights).all()
        assert one.weights.sum() == pytest.approx(1)
    read(reference, source, 5, tmp_path)
    assert asked == [7, 5]


def test_ascent_raises_confidence_and_reaches_a_key_of_ones_own(reference: Reference) -> None:
    start = Source("synthetic", lambda _, n: synthetic(n))

    def confidence(images: list[Image.Image]) -> float:
        return float(np.mean([r.confidence for r in reference.network.read_all(images, pose_search=False)]))

    plain = confidence(synthetic(5))
    for to_a_key in (False, True):
        climbed = false_accusation.adversarial(start, reference, 5, to_a_key=to_a_key)
        assert confidence(climbed) > 2 * plain
    wanted = keys_for(5, BITS, 1, seed=5)
    read_signs = [np.sign(r.logits) for r in reference.network.read_all(climbed, pose_search=False)]
    assert np.mean(read_signs == wanted) > 0.8


def test_a_run_ends_with_its_figures_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        false_accusation, "sources", lambda _: [Source("synthetic", lambda _, n: synthetic(n))]
    )
    plot = tmp_path / "plot.svg"
    arguments = ["--read", NAME, "5", "--keys", "3000", "--fresh", "1000", "--plot", str(plot)]
    result = CliRunner().invoke(false_accusation.main, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["bench"], summary["met"]) == ("false_accusation", True)
    assert summary["figures"]["comparisons"] == 5 * 4000
    drawn = ElementTree.parse(plot).getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == 3 * len(ALPHAS)
    assert "3,000 screened" in result.stdout


def test_photographs_are_the_half_that_no_key_was_screened_against(tmp_path: Path) -> None:
    folder = tmp_path / "photos256"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (i * 20, 0, 0)).save(folder / f"{i}.png")
    odd = [path for path in folder.iterdir() if false_accusation._odd(path.read_bytes())]
    assert 0 < len(odd) < 12
    assert len(false_accusation.photographs(tmp_path)) == len(odd)
    with pytest.raises(Exception, match="no imagenet32"):
        false_accusation.small_photographs(tmp_path, 3)
