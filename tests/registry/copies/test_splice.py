from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from registry.copies import splice as module
from registry.copies.splice import splice, whole
from registry.errors import IntegrityError

TENSORS = {
    "a.bias": np.arange(5, dtype=np.float32),
    "b.weight": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
    "c": np.arange(7, dtype=np.float64),
    "d": np.arange(3, dtype=np.int64),
}
BASE = save(TENSORS, {"format": "pt"})


def spliced(deltas: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    plan = splice(io.BytesIO(BASE), len(BASE), deltas, metadata)
    content = b"".join(plan.chunks(io.BytesIO(BASE)))
    assert len(content) == plan.size
    return content


def header(content: bytes) -> dict[str, object]:
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    return json.loads(content[8 : 8 + length])


@given(st.sets(st.sampled_from(["a.bias", "b.weight", "c"])), st.integers(0, 2**32 - 1))
def test_only_the_given_tensors_change(names: set[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    deltas = {name: rng.standard_normal(TENSORS[name].shape) for name in sorted(names)}
    content = spliced(deltas, {"hallmark.certificate": '{"ü": 1}', "another": "x"})
    found = load(content)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        expected = (value.astype(np.float64) + deltas[name]).astype(value.dtype) if name in names else value
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == value.dtype
    assert header(content)["__metadata__"] == {
        "format": "pt",
        "hallmark.certificate": '{"ü": 1}',
        "another": "x",
    }
    assert content == spliced(deltas, {"another": "x", "hallmark.certificate": '{"ü": 1}'})


def test_bfloat16_rounds_to_nearest_even() -> None:
    import torch
    from safetensors.torch import load as load_torch
    from safetensors.torch import save as save_torch

    values = torch.linspace(-3, 3, 1001).bfloat16()
    base = save_torch({"w": values})
    delta = np.linspace(-1, 1, 1001) ** 3
    plan = splice(io.BytesIO(base), len(base), {"w": delta}, {})
    found = load_torch(b"".join(plan.chunks(io.BytesIO(base))))["w"]
    assert torch.equal(found, (values.double() + torch.from_numpy(delta)).float().bfloat16())


def test_memory_stays_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 16)
    plan = splice(io.BytesIO(BASE), len(BASE), {"c": np.ones(7)}, {})
    new = max(len(piece) for piece in plan.pieces if isinstance(piece, bytes))
    assert all(len(chunk) <= max(16, new) for chunk in plan.chunks(io.BytesIO(BASE)))
    assert sum(1 for _ in plan.chunks(io.BytesIO(BASE))) > len(plan.pieces)


def test_a_whole_file_is_copied() -> None:
    assert b"".join(whole(len(BASE)).chunks(io.BytesIO(BASE))) == BASE
    assert whole(0).size == 0
    assert list(whole(0).chunks(io.BytesIO(b""))) == []


@pytest.mark.parametrize(
    ("base", "deltas", "said"),
    [
        (b"", {}, "no safetensors"),
        (b"\xff" * 16, {}, "no safetensors"),
        (struct.pack("<Q", 4) + b"{{{{", {}, "unreadable header"),
        (BASE, {"none": np.zeros(1)}, "no tensor none"),
        (BASE, {"c": np.zeros(6)}, r"tensor c has shape \(7,\)"),
        (BASE, {"d": np.zeros(3)}, "tensor d is of type I64"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(
    base: bytes, deltas: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(IntegrityError, match=said):
        splice(io.BytesIO(base), len(base), deltas, {})


def test_a_base_that_shrinks_is_noticed() -> None:
    plan = splice(io.BytesIO(BASE), len(BASE), {}, {})
    with pytest.raises(IntegrityError, match="shorter"):
        list(plan.chunks(io.BytesIO(BASE[:-1])))
