from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import StateError
from registry.keys.screening import Q_TEXT, Q, Screen
from registry.keys.service import MOST_REDRAWS, _draw
from verifier.evidence import log10_tail
from verifier.phi import ModelSecret, unpack

BITS = 64


def test_q_is_what_documents_say() -> None:
    assert float(Q_TEXT) == Q


def test_without_foreign_images_every_key_passes() -> None:
    screen = Screen.against(np.zeros((0, BITS), np.int16))
    assert not screen.rejects(np.zeros((5, BITS // 8), np.uint8)).any()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_rejected_is_exactly_who_has_a_tail_of_at_most_q(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-128, 129, (6, BITS)).astype(np.int16)
    packed = rng.integers(0, 256, (40, BITS // 8)).astype(np.uint8)
    # Keys near the foreign answers, some just inside and some just outside the threshold.
    for row, foreign in enumerate(logits):
        near = np.where(rng.random(BITS) < 0.1 * row / 2, -1, 1) * np.sign(foreign + 0.5)
        packed[row] = np.packbits(near > 0)
    q = 1e-3
    screen = Screen.against(logits, q)
    scores = unpack(packed).astype(np.int64) @ logits.T.astype(np.int64)
    tails = np.array(
        [[log10_tail(row, float(s)) for row, s in zip(logits, key, strict=True)] for key in scores]
    )
    assert (screen.rejects(packed) == (tails <= np.log10(q)).any(axis=1)).all()


def test_an_unlucky_key_is_drawn_again_and_says_so() -> None:
    secret = ModelSecret(bytes(32))
    ids = [bytes([i]) * 12 for i in range(8)]
    first = secret.bits(ids, [0] * 8, BITS)
    screen = Screen.against((unpack(first[3:4]) * 100).astype(np.int16))
    redraws, packed = _draw(secret, ids, BITS, screen)
    assert redraws.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert (packed == secret.bits(ids, redraws.tolist(), BITS)).all()
    assert not screen.rejects(packed).any()


def test_a_screen_that_nothing_passes_is_an_error() -> None:
    everything = Screen(np.ones((1, 8), np.int16), np.array([-8.0]))
    with pytest.raises(StateError, match="refuses nearly every key"):
        _draw(ModelSecret(bytes(32)), [bytes(12)], 8, everything)
    assert MOST_REDRAWS == 2**16 - 1
