from hypothesis import given
from hypothesis import strategies as st

from registry.attribution.study.plan import Point
from registry.attribution.study.results import ATTACKS, CLEAN, MIX, Result, front, pareto_front, recommend

VALUES = st.integers(0, 4).map(float)
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=20)


def result(
    evidence: float, psnr: float, perceptual: float, identified: float = 0.0, steps: int | None = 10
) -> Result:
    figures = {
        "every_bit": 0.0,
        "bits_right": 0.7,
        "identified": identified,
        "evidence_5": evidence,
        "evidence_50": evidence + 2,
    }
    return Result(
        point=Point("pca", 0, 64, strength=1.0),
        strength=1.0,
        quality={"psnr_db": psnr, "ssim": psnr / 50, "perceptual": perceptual, "frechet": perceptual},
        attacks=dict.fromkeys((CLEAN, *ATTACKS, MIX), figures),
        steps=steps,
    )


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


@given(ROWS)
def test_the_front_has_no_dominated_row_and_leaves_no_other_out(rows: list[tuple[float, ...]]) -> None:
    found = pareto_front(rows)
    assert found
    for i, row in enumerate(rows):
        assert (i in found) == (not any(dominates(other, row) for other in rows))


@given(ROWS)
def test_every_row_off_the_front_is_dominated_by_one_on_it(rows: list[tuple[float, ...]]) -> None:
    found = pareto_front(rows)
    for i, row in enumerate(rows):
        assert i in found or any(dominates(rows[j], row) for j in found)


def test_of_those_that_name_enough_the_gentlest_is_recommended() -> None:
    results = [
        result(30, 30, 0.30, identified=1.0),
        result(20, 34, 0.10, identified=0.98),
        result(15, 36, 0.05, identified=0.90),
        result(60, 50, 0.01, identified=1.0, steps=None),
    ]
    found = recommend(results)
    assert found.index == 1
    assert "2 of 3 points name at least 97%" in found.reason
    assert "34.0 dB" in found.reason
    assert front(results) == [0, 1, 2], "the basis in use is no candidate"


def test_where_none_names_enough_the_most_evidence_is_recommended() -> None:
    found = recommend([result(2, 36, 0.1), result(5, 32, 0.2), result(4, 40, 0.0)])
    assert found.index == 1
    assert "No point names 97%" in found.reason
    assert "about 2 images" in found.reason, "12 decades are needed and the median image has 7"


def test_a_point_that_fails_under_one_attack_does_not_pass() -> None:
    weak = result(30, 40, 0.01, identified=1.0)
    weak = Result(
        weak.point,
        1.0,
        weak.quality,
        {**weak.attacks, "noise": {**weak.attacks["noise"], "identified": 0.5}},
        10,
    )
    assert recommend([weak, result(20, 30, 0.5, identified=1.0)]).index == 1


def test_results_survive_json() -> None:
    import json

    found = result(3, 30, 0.5)
    assert Result.parse(json.loads(json.dumps(found.document()))) == found
