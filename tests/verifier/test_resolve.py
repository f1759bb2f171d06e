"""The search is exact: it is held against a brute-force matrix product in integers."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from verifier import phi, resolve
from verifier.resolve import AdaptiveKeys, KeyIndex, Keys, KeysInTurn, KeyTable


def brute_force(packed: NDArray[np.uint8], logits: NDArray[np.int64], m: int) -> tuple[list[int], list[int]]:
    """Rows and scores of the m best keys, equals by row."""
    scores = phi.unpack(packed).astype(np.int64) @ logits
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:m]
    return order, scores[order].tolist()


def random_case(seed: int, n: int, octets: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, octets), np.uint8), rng.integers(-size, size + 1, 8 * octets)


@given(
    st.integers(0, 2**32),
    st.integers(1, 70),
    st.integers(1, 9),
    st.sampled_from([0, 1, 128, 10**6]),
    st.data(),
)
@settings(max_examples=120)
def test_top_is_that_of_brute_force(seed: int, n: int, octets: int, size: int, data: st.DataObject) -> None:
    packed, logits = random_case(seed, n, octets, size)
    m = data.draw(st.integers(1, n + 3))
    rows, scores = KeyTable(packed).top(logits, m)
    assert (rows.tolist(), scores.tolist()) == brute_force(packed, logits, m)


@pytest.mark.parametrize("size", [128, 200_000])
@pytest.mark.parametrize("readings", [1, 3, 40])
def test_many_readings_find_what_each_finds(
    readings: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "CHUNK", 256)  # several chunks, and a last one that is not full
    monkeypatch.setattr(resolve, "UNPACKED", 64)
    packed, _ = random_case(1, 1000, 32, 1)
    logits = np.random.default_rng(2).integers(-size, size + 1, (readings, 256))
    found = KeyTable(packed).top_batch(logits, 5)
    assert [(r.tolist(), s.tolist()) for r, s in found] == [brute_force(packed, row, 5) for row in logits]


def test_equal_keys_come_in_order_of_their_rows_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "CHUNK", 16)
    table = KeyTable(np.repeat(np.array([[0x0F, 0xF0]], np.uint8), 100, axis=0))
    logits = np.ones(16, np.int64)
    for rows, scores in [table.top(logits, 4), *table.top_batch(np.stack([logits] * 10), 4)]:
        assert rows.tolist() == [0, 1, 2, 3]
        assert scores.tolist() == [0, 0, 0, 0]


def test_the_key_itself_has_the_largest_score() -> None:
    packed, _ = random_case(3, 5000, 32, 1)
    table = KeyTable(packed)
    logits = table.signs(1234).astype(np.int64) * 100
    rows, scores = table.top(logits, 2)
    assert rows[0] == 1234
    assert scores[0] == 25600 > scores[1]


def test_keys_of_another_memory_layout_are_read_alike() -> None:
    packed, logits = random_case(4, 60, 4, 9)
    wide = np.zeros((60, 8), np.uint8)
    wide[:, ::2] = packed
    assert KeyTable(wide[:, ::2]).scores(logits).tolist() == KeyTable(packed).scores(logits).tolist()
    read_only = np.frombuffer(packed.tobytes(), np.uint8).reshape(60, 4)
    assert KeyTable(read_only).scores(logits).tolist() == KeyTable(packed).scores(logits).tolist()


@pytest.mark.parametrize(
    "logits", [np.ones(8, np.int64), np.ones(16), np.full(16, 2**30), np.ones((1, 1, 16), np.int64)]
)
def test_logits_that_do_not_fit_the_table_are_refused(logits: NDArray[np.int64]) -> None:
    with pytest.raises(ValueError):
        KeyTable(np.zeros((3, 2), np.uint8)).top(logits, 1)


@pytest.mark.parametrize(
    "packed", [np.zeros((3, 2), np.int8), np.zeros(3, np.uint8), np.zeros((3, 0), np.uint8)]
)
def test_tables_that_are_not_packed_keys_are_refused(packed: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="packed keys"):
        KeyTable(packed)


def test_no_key_or_fewer_than_one_wanted() -> None:
    table = KeyTable(np.zeros((0, 2), np.uint8))
    rows, scores = table.top(np.ones(16, np.int64), 3)
    assert len(table) == len(rows) == len(scores) == 0
    with pytest.raises(ValueError, match="at least one"):
        KeyTable(np.zeros((4, 2), np.uint8)).top(np.ones(16, np.int64), 0)


@pytest.mark.parametrize("octets", [1, 8, 32, 128])
@pytest.mark.parametrize("size", [1, 128, 100_000])
def test_the_index_gives_what_brute_force_gives(octets: int, size: int) -> None:
    packed, _ = random_case(3, 9000, octets, 1)
    table = KeyIndex.of(packed)
    logits = np.random.default_rng(4).integers(-size, size + 1, (12, 8 * octets))
    logits[0], logits[1, 1:] = 0, 0
    logits[2] = phi.unpack(packed[17]).astype(np.int64) * np.abs(logits[2])
    for m in (1, 16, 200):
        found = table.top_batch(logits, m)
        assert [(r.tolist(), s.tolist()) for r, s in found] == [brute_force(packed, row, m) for row in logits]
    rows, scores = table.top(logits[2], 1)
    assert scores[0] == np.abs(logits[2]).sum()
    assert rows[0] <= 17


def test_the_index_answers_unless_its_shortlist_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed, logits = random_case(5, 20_000, 32, 128)
    packed[7000:7300] = packed[42]  # 301 equal keys: more ties than the first shortlist holds
    table, exhaustive = KeyIndex.of(packed), []
    scores = KeyTable.scores
    monkeypatch.setattr(KeyTable, "scores", lambda self, row: exhaustive.append(1) or scores(self, row))
    rows, _ = table.top(logits, 8)
    assert rows.tolist() == brute_force(packed, logits, 8)[0]
    assert not exhaustive
    tied = phi.unpack(packed[42]).astype(np.int64) * 100
    assert table.top(tied, 8)[0].tolist() == [42, *range(7000, 7007)]
    assert not exhaustive  # settled by the second, longer shortlist
    assert table.top(np.zeros(256, np.int64), 3)[0].tolist() == [0, 1, 2]
    assert not exhaustive
    monkeypatch.setattr(resolve, "SHORTLISTS", (128,))
    assert table.top(tied, 8)[0].tolist() == [42, *range(7000, 7007)]
    assert exhaustive  # no shortlist of 128 can hold 301 equals


@given(st.integers(0, 2**32), st.integers(1, 700), st.sampled_from([1, 2, 128]), st.integers(1, 9))
@settings(max_examples=40)
def test_segments_are_searched_as_one_table(seed: int, n: int, size: int, m: int) -> None:
    """Few distinct logits make many equals, which the rounded scores cannot put in order."""
    packed, _ = random_case(seed, n, 3, 1)
    logits = np.random.default_rng(seed).integers(-size, size + 1, (5, 24))
    before = resolve.SEGMENT, resolve.SHORTLISTS
    resolve.SEGMENT, resolve.SHORTLISTS = 64, (16, 64)
    try:
        index = KeyIndex.of(packed, threads=2)
        found = index.top_batch(logits, m)
        rows = np.array([n - 1, 0, n // 2])
        assert (index.rows(rows) == packed[rows]).all()
    finally:
        resolve.SEGMENT, resolve.SHORTLISTS = before
    assert [(r.tolist(), s.tolist()) for r, s in found] == [brute_force(packed, row, m) for row in logits]


@pytest.mark.parametrize("table", [KeyTable, KeyIndex.of])
def test_with_a_floor_only_what_reaches_it_is_found(table: Callable[..., Keys]) -> None:
    packed, _ = random_case(8, 20_000, 8, 1)
    logits = np.random.default_rng(9).integers(-128, 129, (10, 64))
    everyone = KeyTable(packed).top_batch(logits, 16)
    floors = np.array([scores[number] for number, (_, scores) in enumerate(everyone)], np.float64)
    floors[0], floors[9] = np.inf, -np.inf
    for (rows, scores), (all_rows, all_scores), floor in zip(
        table(packed).top_batch(logits, 16, floors), everyone, floors, strict=True
    ):
        assert rows.tolist() == all_rows[all_scores >= floor].tolist()
        assert scores.tolist() == all_scores[all_scores >= floor].tolist()


def test_a_floor_that_nobody_can_reach_needs_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where logits are all alike, hundreds of keys are equal; they are not looked at one by one."""
    packed, _ = random_case(10, 50_000, 8, 1)
    monkeypatch.setattr(KeyTable, "scores", lambda self, row: pytest.fail("every key was scored"))
    monkeypatch.setattr(resolve, "SHORTLISTS", (128,))
    ((rows, _),) = KeyIndex.of(packed).top_batch(np.ones((1, 64), np.int64), 16, np.array([60]))
    assert rows.tolist() == []


def test_tables_in_turn_are_one_table() -> None:
    packed, _ = random_case(11, 20_500, 8, 1)
    packed[20_400] = packed[3]  # equals in two tables
    parts = KeysInTurn([KeyIndex.of(packed[:20_000]), KeyTable(packed[20_000:])])
    logits = np.random.default_rng(12).integers(-128, 129, (3, 64))
    logits[0] = phi.unpack(packed[3])
    found = parts.top_batch(logits, 9)
    assert [(r.tolist(), s.tolist()) for r, s in found] == [brute_force(packed, row, 9) for row in logits]
    assert (parts.signs(20_400) == parts.signs(3)).all()
    assert len(parts) == 20_500
    assert parts.bits == 64


def test_an_index_is_made_once_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, logits = random_case(13, 20_000, 8, 128)
    made: list[int] = []
    of = KeyIndex.of
    monkeypatch.setattr(KeyIndex, "of", lambda packed: made.append(len(packed)) or of(packed))
    table, expected = AdaptiveKeys(packed), brute_force(packed, logits, 4)
    for asked in range(resolve.WORTH + 2):
        assert made == ([20_000] if asked >= resolve.WORTH else [])
        rows, scores = table.top(logits, 4)
        assert (rows.tolist(), scores.tolist()) == expected
    few = AdaptiveKeys(packed[:100])
    few.top_batch(np.stack([logits] * 100), 1)
    assert made == [20_000]


def test_without_faiss_the_blocks_are_searched_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, logits = random_case(14, 3000, 8, 128)
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows, scores = KeyIndex.of(packed).top(logits, 5)
    assert (rows.tolist(), scores.tolist()) == brute_force(packed, logits, 5)


def test_a_small_table_and_long_keys_need_no_index() -> None:
    packed, logits = random_case(6, 5, 2, 9)
    rows, scores = KeyIndex.of(packed).top(logits, 9)
    assert (rows.tolist(), scores.tolist()) == brute_force(packed, logits, 9)
    packed, logits = random_case(7, 300, 129, 9)
    rows, scores = KeyIndex.of(packed).top(logits, 9)
    assert (rows.tolist(), scores.tolist()) == brute_force(packed, logits, 9)
    with pytest.raises(ValueError, match="expected 1032 logits"):
        KeyIndex.of(packed).top(np.zeros(8, np.int64), 1)
