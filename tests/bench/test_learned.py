"""The comparison's figures from known results; the study that makes these has tests of its own."""

from __future__ import annotations

import pytest

from bench.learned import LEAST, evidence_figures, frechet_figures
from registry.attribution.study.plan import Point
from registry.attribution.study.results import CLEAN, MIX, Result
from registry.fingerprints.frechet import Increase


def result(scheme: str, evidence_5: float, evidence_50: float) -> Result:
    read = {"bits_right": 0.7, "evidence_5": evidence_5, "evidence_50": evidence_50}
    quality = {"psnr_db": 30.0, "perceptual": 0.1, "frechet": 0.2}
    return Result(Point(scheme, 0, 64, psnr=30.0), 1.0, quality, {CLEAN: read, MIX: read}, 300)


def test_the_learned_scheme_s_evidence_is_compared_with_pca_s() -> None:
    figures = evidence_figures([result("pca", 2.0, 4.0), result("learned", 3.0, 10.0)])
    assert figures["evidence_5_mix_ratio"] == pytest.approx(1.5)
    assert figures["evidence_50_mix_ratio"] == figures["evidence_50_clean_ratio"] == pytest.approx(2.5)
    assert figures["learned_evidence_5_mix"] == 3.0


def test_no_ratio_is_taken_to_evidence_that_is_none() -> None:
    figures = evidence_figures([result("pca", 0.001, 0.0), result("learned", 0.002, 1.0)])
    assert figures["evidence_5_mix_ratio"] == 1.0, "neither has any"
    assert figures["evidence_50_mix_ratio"] == pytest.approx(1.0 / LEAST)


def test_increases_have_a_ratio_only_where_pca_s_is_one() -> None:
    learned = Increase(1.0, 1.1, 0.05, 0.15)
    figures = frechet_figures({"pca": Increase(1.0, 1.2, 0.1, 0.3), "learned": learned})
    assert figures["frechet_increase_ratio"] == pytest.approx(0.5)
    assert figures["pca_frechet_increase_low"] == 0.1
    figures = frechet_figures({"pca": Increase(1.0, 1.2, -0.1, 0.5), "learned": learned})
    assert "frechet_increase_ratio" not in figures
