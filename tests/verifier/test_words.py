"""The words about verdicts: numbers never smaller than proved, and no accusation beyond the evidence."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier import words
from verifier.finding import (
    CopyEntry,
    EvidenceEntry,
    Finding,
    ImageEntry,
    LedgerEntry,
    ModelEntry,
    NetworkEntry,
    OnlineFinding,
)

COPY = CopyEntry(
    "copy-" + "ab" * 12, "ab" * 12, None, "ada@example.com", "2026-01-01T00:00:00Z", False, 60, -20.0, -15.0
)


def finding(images: int = 1, copies: tuple[CopyEntry, ...] = (COPY,), **changes: object) -> Finding:
    made = Finding(
        images=[
            ImageEntry(f"{i}.png", "0" * 64, 8, 8, log10_p=-3.0 if copies else None) for i in range(images)
        ],
        verdict="attributed" if copies else "not-attributed",
        copies=list(copies),
        model=ModelEntry("flowers", 1, "sha256:00") if copies else None,
        lineage=None,
        evidence=EvidenceEntry(64, 1000, 1e-6, 1),
        network=NetworkEntry("0" * 64, "cpu"),
        ledger=LedgerEntry(3 if copies else None, 51, True),
        elapsed_ms=1.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def number(odds: str) -> Fraction:
    """N of "1 in N"."""
    digits = odds.removeprefix("1 in ").replace(",", "")
    if "×" in digits:
        mantissa, power = digits.split(" × 10")
        return Fraction(mantissa) * 10 ** int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")))
    value, _, scale = digits.partition(" ")
    return Fraction(value) * {"": 1, "million": 10**6, "billion": 10**9, "trillion": 10**12}[scale]


@given(st.floats(-300, 0))
def test_odds_never_claim_more_than_was_proved(log10_p: float) -> None:
    claimed = number(words.odds(log10_p))
    assert math.log10(claimed) <= -log10_p + 1e-12
    assert math.log10(claimed) >= -log10_p - (0.31 if log10_p > -1 else 0.05)


@pytest.mark.parametrize(
    ("log10_p", "odds"),
    [
        (0.0, "1 in 1"),
        (-0.31, "1 in 2"),
        (-2.0, "1 in 100"),
        (-4.2, "1 in 15,000"),
        (-6.0, "1 in 1 million"),
        (-7.09, "1 in 12 million"),
        (-38.62, "1 in 4.1 × 10³⁸"),
    ],
)
def test_odds_as_people_read_them(log10_p: float, odds: str) -> None:
    assert words.odds(log10_p) == odds


def test_an_accusation_says_what_it_is_and_what_it_is_not() -> None:
    text = " ".join([words.headline(finding()), words.chance(finding()), *words.meaning(finding())])
    assert "This image depends on the key of copy-abab" in text
    assert "at most 1 in 1 × 10¹⁵" in text
    assert "not the probability that the holder of the copy is innocent" in text
    assert "does not say who made or published anything" in text
    # Persons are not named in verdicts, and nobody is called guilty.
    assert not re.search(r"ada@|guilty|proves that|certain", text)


def test_a_set_accuses_at_least_one_image() -> None:
    text = " ".join([words.headline(finding(3)), *words.meaning(finding(3))])
    assert "At least one of these images depends" in text
    assert "It does not say that all of them do" in text
    errors = [ImageEntry("x.png", error="not an image")]
    one = replace(finding(1), images=[*finding(1).images, *errors])
    assert "This image depends" in words.headline(one)


def test_below_alpha_nothing_is_hinted_at() -> None:
    for images in (1, 4):
        nobody = finding(images, ())
        text = " ".join(
            [words.headline(nobody), words.chance(nobody), *words.meaning(nobody), *words.limits(nobody)]
        )
        assert "copy-" not in text
        assert "not a finding that no copy made" in text
        assert set(re.findall(r"1 in [\d.]+", text)) == {"1 in 1"}  # of "1 in 1 million": alpha alone


def test_what_a_registry_does_not_disclose_is_not_made_up() -> None:
    hidden = replace(COPY, id=None, key_id="p-1", matching_bits=None, log10_p=None, log10_p_family=None)
    asked = OnlineFinding(**vars(finding(copies=(hidden,))), resolution="r1", provisional=True)
    assert "by how much the evidence is stronger, the registry does not disclose" in words.chance(asked)
    assert "pseudonym p-1" in words.headline(asked)
    assert "provisional" in words.meaning(asked)[-1]


def test_revocation_mixtures_and_unreadable_files_are_told() -> None:
    assert "was revoked" in words.meaning(finding(copies=(replace(COPY, revoked=True),)))[-1]
    two = finding(copies=(COPY, replace(COPY, id="copy-" + "cd" * 12)))
    assert any("More than one copy is named" in text for text in words.meaning(two))
    one, other = finding(2, ()).images
    contrary = [replace(one, alone=["copy-1"]), replace(other, alone=["copy-2"])]
    apart = replace(finding(2, ()), images=contrary)
    assert "contradict each other" in words.headline(apart)
    assert "for different copies, so nobody is named" in words.chance(apart)
    broken = replace(finding(1, ()), images=[ImageEntry("x.png", error="not an image")])
    assert words.chance(broken) == "Nothing was tested."
    assert len(words.meaning(broken)) == 1
