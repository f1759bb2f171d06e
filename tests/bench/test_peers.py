"""The comparison's own arithmetic, and the real peer where it is installed."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from bench.peers import SIDE, Peer, Row, figures_of, mean_psnr, peer_evidence, stronger
from tests.absent import absent

N, BITS = 400, 32


def payloads(n: int = N, bits: int = BITS) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (n, bits))


def test_perfect_readings_are_worth_every_bit_and_random_ones_nothing() -> None:
    signs = payloads()
    assert peer_evidence(signs, signs) == pytest.approx(np.full(N, BITS * np.log10(2)), abs=1e-6)
    strangers = np.random.default_rng(1).choice(np.array([-1, 1], np.int8), signs.shape)
    for few in (6, N):
        assert np.median(peer_evidence(strangers[:few], signs[:few])) < 1


def test_bits_that_are_never_read_right_do_not_spoil_the_others() -> None:
    signs = payloads()
    read = signs.copy()
    read[:, BITS // 2 :] = np.random.default_rng(1).choice(np.array([-1, 1], np.int8), (N, BITS // 2))
    weighted = np.median(peer_evidence(read, signs))
    assert weighted > 0.9 * BITS / 2 * np.log10(2)


def row(comparison: str, scheme: str, bits: int, attack: str, evidence: float) -> Row:
    return Row(comparison, scheme, bits, 40.0, attack, 1.0, evidence, evidence, 1.0)


def test_the_lead_is_over_the_best_payload_at_the_worst_attack() -> None:
    rows = [
        row("shipped", "ours for dwtDct", 256, "clean", 30.0),
        row("shipped", "ours for dwtDct", 256, "jpeg", 8.0),
        row("shipped", "dwtDct", 32, "clean", 9.6),
        row("shipped", "dwtDct", 64, "clean", 19.0),
        row("shipped", "dwtDct", 32, "jpeg", 9.0),
        row("shipped", "dwtDct", 64, "jpeg", 2.0),
        row("stronger", "ours", 256, "clean", 45.0),
    ]
    figures = figures_of(rows, "ours", ["dwtDct", "rivaGan"])
    assert figures == {
        "dwtDct shipped 32_bits least_lead": -1.0,
        "dwtDct shipped 32_bits attacks_ahead": 0.5,
        "dwtDct shipped any_payload least_lead": -1.0,
        "dwtDct shipped any_payload attacks_ahead": 0.5,
    }
    rows[2] = row("shipped", "dwtDct", 32, "jpeg", 7.0)
    rows[3] = row("shipped", "dwtDct", 64, "jpeg", 8.5)
    changed = figures_of(rows[:4], "ours", ["dwtDct"])
    assert changed["dwtDct shipped 32_bits least_lead"] == 1.0
    assert changed["dwtDct shipped any_payload least_lead"] == -0.5


def test_a_peer_that_is_made_stronger_still_reads_itself() -> None:
    if importlib.util.find_spec("imwatermark") is None:
        absent("invisible-watermark is not installed; `make test` installs it")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(40, 216, (8, 8, 3), dtype=np.uint8))
    clean = [coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)]
    signs, peer = payloads(1), Peer("dwtDctSvd", BITS)
    shipped = mean_psnr(peer.mark(clean, signs), clean)
    louder, marked = stronger(peer, signs, clean, shipped - 3)
    assert louder.gain > 1
    assert shipped - 5 < mean_psnr(marked, clean) <= shipped - 3
    assert (louder.read(marked[0]) == signs[0]).mean() > 0.95
