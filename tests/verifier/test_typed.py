"""Typed values from JSON: round trips, and a named place for everything that is otherwise."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.typed import load, parse_json


@dataclass(frozen=True)
class Inner:
    number: int
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    inner: Inner | None
    many: list[Inner] = field(default_factory=list)
    table: dict[str, list[int]] = field(default_factory=dict)
    either: int | str = 0
    free: Any = None


INNER = st.builds(Inner, st.integers(-(2**60), 2**60), st.floats(-1e9, 1e9))
OUTER = st.builds(
    Outer,
    st.text(),
    st.sampled_from(["a", "b"]),
    st.none() | INNER,
    st.lists(INNER, max_size=3),
    st.dictionaries(st.text(), st.lists(st.integers(-9, 9), max_size=3), max_size=3),
    st.integers(-9, 9) | st.text(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(OUTER)
def test_values_come_back(value: Outer) -> None:
    assert load(Outer, parse_json(json.dumps(asdict(value))), "it") == value


@given(JSON)
def test_anything_else_is_a_value_error(value: object) -> None:
    with suppress(ValueError):
        assert isinstance(load(Outer, value, "it"), Outer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "it.name is not a text"),
        ({"kind": "c"}, "it.kind is not 'a' or 'b'"),
        ({"inner": {"number": True}}, "it.inner.number is not a whole number"),
        ({"inner": {"number": 1.0}}, "it.inner.number is not a whole number"),
        ({"inner": {"number": 1, "ratio": "1"}}, "it.inner.ratio is not a number"),
        ({"inner": {}}, "it.inner.number is missing"),
        ({"many": [{"number": 1}, 2]}, r"it.many\[1\] is not an object"),
        ({"many": {}}, "it.many is not a list"),
        ({"table": {"x": [1, "y"]}}, r"it.table.x\[1\] is not a whole number"),
        ({"either": []}, "it.either is of none of the kinds"),
        ({"surprise": 1}, "it has a field 'surprise'"),
    ],
)
def test_errors_name_the_place(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(Outer, {"name": "x", "kind": "a", "inner": None, **change}, "it")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": 1, "a": 2}', "", "{", "[" * 100_000])
def test_only_strict_json_is_parsed(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
