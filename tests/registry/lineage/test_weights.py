from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.lineage.weights import Weights
from registry.storage import Storage
from tests.registry.object_store import ObjectStore

NAMES = [f"layers.{number}.weight" for number in range(8)]
ENTRY = {"dtype": "F32", "shape": [64, 64], "data_offsets": [0, 16384]}


def likeness(storage: Storage, first: str, second: str) -> float | None:
    return Weights(storage, first).likeness(Weights(storage, second))


def put(
    storage: Storage, name: str, folder: Path, seed: int, spare: bytes | None = None, side: int = 64
) -> None:
    """A stored model of its own numbers, with a file that nothing loads."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    tensors = {each: rng.normal(size=(side, side)).astype(np.float32) for each in NAMES}
    save_file(tensors, folder / "w.safetensors")
    if spare is not None:
        (folder / "spare.safetensors").write_bytes(spare)
    storage.put_folder(name, folder)


def written(header: Any) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "spare",
    [
        b"",
        b"\xff" * 100,
        written(b"[" * 100_000),
        written([]),
        written({"a": 3}),
        written({"a": {**ENTRY, "shape": [10**30, 64]}}),
        written({"a": {**ENTRY, "shape": None}}),
        written({name: {**ENTRY, "shape": [4.0, 16.0], "data_offsets": [-0.5, 0]} for name in NAMES})
        + bytes(256),
        written({"a": {**ENTRY, "dtype": []}}),
        written({"a": {**ENTRY, "data_offsets": [10**30, 0]}}),
        written({"a": {**ENTRY, "data_offsets": [-(10**6), 0]}}),
        written({"a": ENTRY}),
    ],
)
def test_files_that_nothing_loads_may_hold_anything(tmp_path: Path, spare: bytes) -> None:
    storage = Storage(str(tmp_path / "storage"))
    put(storage, "first", tmp_path / "a", 1, spare)
    put(storage, "again", tmp_path / "b", 1, spare)
    put(storage, "other", tmp_path / "c", 2)
    assert likeness(storage, "first", "again") == 1
    found = likeness(storage, "first", "other")
    assert found is not None
    assert abs(found) < 0.2


def test_an_object_store_sends_little(
    tmp_path: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs.core import S3File  # type: ignore[import-untyped]

    sent, fetch = [], S3File._fetch_range

    def counted(self: Any, start: int, end: int) -> Any:
        sent.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    storage = Storage(s3.bucket())
    for name in ("first", "again"):
        put(storage, name, tmp_path / name, 1, side=512)  # 8 MB
    assert likeness(storage, "first", "again") == 1
    assert 0 < sum(sent) < 2 * (len(NAMES) + 1) * 20_000
