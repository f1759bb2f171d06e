"""Two actors on this machine, one of them killed: the answer is right, or an error, and never of a part."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from verifier import resolve
from verifier.errors import InputError
from verifier.resolve import KeyTable
from verifier.segments import SavedIndex
from verifier.shards import ShardedKeys, ShardError, Source, _shared_out

ray: Any = pytest.importorskip("ray")

KEYS, SEGMENT, SECRET = 5000, 1024, bytes(range(32))

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def packed() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (KEYS, 8), np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, packed: NDArray[np.uint8]) -> Iterator[Source]:
    """Five segments that are smaller than usual; actors take their size from what they open."""
    before = resolve.SEGMENT
    resolve.SEGMENT = SEGMENT
    found = Source(tmp_path_factory.mktemp("search"), SECRET, "flowers", 8)
    saved = SavedIndex(found.folder, SECRET, "flowers", 8)
    with saved.extending():
        saved.extend(packed, range(KEYS), mark=KEYS)
    yield found
    resolve.SEGMENT = before


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        object_store_memory=100 << 20,
        runtime_env={"worker_process_setup_hook": _small_segments},
    )  # fmt: skip
    yield
    ray.shutdown()


def _small_segments() -> None:
    from verifier import resolve

    resolve.SEGMENT = 1024


@pytest.fixture
def logits(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    rng = np.random.default_rng(2)
    readings = rng.integers(-128, 129, (4, 64))
    for i, row in enumerate((0, 3071, 3072, KEYS - 1)):  # keys at the borders of the two parts
        readings[i] = resolve.phi.unpack(packed[row]).astype(np.int64) * np.abs(readings[i])
    return readings


def as_lists(found: list[resolve.Found]) -> list[tuple[list[int], list[int]]]:
    return [(rows.tolist(), scores.tolist()) for rows, scores in found]


def test_shards_answer_as_one_table_and_a_killed_one_is_replaced(
    source: Source, packed: NDArray[np.uint8], logits: NDArray[np.int64], tmp_path: Path
) -> None:
    expected = as_lists(KeyTable(packed).top_batch(logits, 9))
    floors = np.array([scores[3] for _, scores in expected])
    with ShardedKeys(source, 2, KEYS) as keys:
        assert as_lists(keys.top_batch(logits, 9)) == expected
        assert [len(rows) for rows, _ in keys.top_batch(logits, 9, floors)] == [4] * 4
        rows = np.array([4999, 0, 3072])
        assert (keys.rows(rows) == packed[rows]).all()
        ray.kill(keys._actors[1])
        assert as_lists(keys.top_batch(logits, 9)) == expected
        ray.kill(keys._actors[0])
        assert (keys.signs(5) == resolve.phi.unpack(packed[5])).all()
        ray.kill(keys._actors[0])
        moved = tmp_path / "moved"
        shutil.move(source.folder, moved)  # a new actor finds no index
        try:
            with pytest.raises(ShardError, match="keys 0 to 2047 cannot be searched, so there is no answer"):
                keys.top_batch(logits, 9)
        finally:
            shutil.move(moved, source.folder)


def test_a_part_that_searched_other_rows_is_no_answer(
    source: Source, logits: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardedKeys(source, 2, KEYS) as keys:
        whole = keys._asked("top_batch", (logits, 2, None), [0, 1])
        for answers in ([whole[0], whole[0]], [whole[1], whole[0]], [whole[0]], [whole[1]]):
            monkeypatch.setattr(keys, "_asked", lambda *_, answers=answers: answers)
            with pytest.raises(ShardError, match="there is no answer"):
                keys.top_batch(logits, 2)


def test_an_index_of_another_number_of_keys_is_refused(source: Source) -> None:
    with pytest.raises(InputError, match="holds 5000 keys, not 6000"):
        ShardedKeys(source, 2, 6000)


def test_segments_are_shared_out_evenly() -> None:
    assert [(part.first, part.end) for part in _shared_out([9, 9, 9, 9, 2], 2)] == [(0, 2), (2, 5)]
    assert [part.rows for part in _shared_out([9, 2], 5)] == [range(9), range(9, 11)]
    assert _shared_out([], 3) == []
    with pytest.raises(InputError, match="0 shards"):
        _shared_out([9], 0)
