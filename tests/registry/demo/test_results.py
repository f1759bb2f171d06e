from __future__ import annotations

import pytest

from registry.demo.results import Report, Result, Truth, tally

ADA = Truth("ada@example.com", "copy-a")
NOBODY = Truth()


def attributed(copies: tuple[str, ...], truth: Truth = ADA, attack: str = "clean") -> Result:
    return Result(("a.png",), attack, truth, "attributed", "someone", copies, -20.0)


def unattributed(truth: Truth = ADA, attack: str = "clean") -> Result:
    return Result(("a.png",), attack, truth, "not-attributed", None, (), None)


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (attributed(("copy-a",)), "right"),
        (attributed(("copy-b",)), "wrong"),
        (attributed(("copy-a", "copy-b")), "wrong"),
        (attributed((), NOBODY), "wrong"),
        (attributed(("copy-a",), NOBODY), "wrong"),
        (unattributed(), "none"),
        (unattributed(NOBODY), "none"),
    ],
)
def test_outcome(result: Result, outcome: str) -> None:
    assert result.outcome == outcome


def report(clean: int = 100, jpeg: int = 100, sets: int = 100, foreign: Result | None = None) -> Report:
    """A report in which so many of 100 findings are right and the rest are missing."""
    right, none = attributed(("copy-a",)), unattributed()
    jpeg_right, jpeg_none = attributed(("copy-a",), attack="jpeg"), unattributed(attack="jpeg")
    singles = [right] * clean + [none] * (100 - clean) + [jpeg_right] * jpeg + [jpeg_none] * (100 - jpeg)
    together = [right] * sets + [none] * (100 - sets)
    return Report(singles, together, [foreign or unattributed(NOBODY, "base")], [])


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (report(), []),
        (report(clean=99, jpeg=90, sets=99), []),
        (report(clean=98), ["clean"]),
        (report(jpeg=89), ["jpeg"]),
        (report(sets=98), ["sets"]),
        (report(foreign=attributed(("copy-b",), NOBODY, "base")), ["1 findings"]),
        (report(clean=0, jpeg=0, sets=0), ["clean", "jpeg", "sets"]),
    ],
)
def test_a_run_fails_when_a_goal_is_missed(found: Report, missed: list[str]) -> None:
    failures = found.failures()
    assert len(failures) == len(missed)
    for sentence, word in zip(failures, missed, strict=True):
        assert word in sentence


def test_one_wrong_attribution_fails_the_run_however_good_the_rest_is() -> None:
    good = report()
    bad = Report([*good.singles, attributed(("copy-b",))], good.sets, good.foreign, good.foreign_sets)
    assert tally(bad.singles).wrong == 1
    assert len(bad.failures()) == 1


def test_record_has_the_documented_fields() -> None:
    record = report(clean=99).record()
    assert len(record["results"]) == 201
    fields = {"image", "attack", "true_recipient", "verdict", "recipient", "log10_p_family"}
    assert all(set(entry) == fields for entry in record["results"])
    assert record["totals"]["images"] == {"right": 199, "wrong": 0, "none": 1}
    assert record["totals"]["attacks"]["clean"]["images"] == {"right": 99, "wrong": 0, "none": 1}
    assert record["totals"]["foreign"] == {"right": 0, "wrong": 0, "none": 1}


def test_a_set_is_recorded_with_all_its_images() -> None:
    result = Result(("a.png", "b.png"), "clean", ADA, "not-attributed", None, (), None)
    assert result.record()["images"] == ["a.png", "b.png"]
