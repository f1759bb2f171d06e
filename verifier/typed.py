"""JSON from outside into typed values: each field is there, of its type, and nothing else is.

    finding = load(Finding, json_value, "finding.json")   # ValueError: "finding.json.copies[0].id is missing"
    value = parse_json(content)                           # ValueError for what is no strict JSON

Knows dataclasses, ``list[T]``, ``dict[str, T]``, unions, ``Literal``, ``Any``, ``str``, ``int``, ``float``,
``bool`` and ``None``. Numbers are finite; whole numbers are floats where floats are wanted, never the other
way round.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeVar, Union

T = TypeVar("T")

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_LARGEST = 1 << 63


def parse_json(content: bytes | str) -> Any:
    """The value of strict JSON (no NaN, no repeated names); ``ValueError`` for anything else."""
    try:
        return json.loads(content, parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load(kind: type[T], value: Any, where: str) -> T:
    """``value`` as a ``kind``; ``ValueError`` names the place in it that is otherwise."""
    return typing.cast(T, _load(kind, value, where))


def _load(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if kind is None or kind is type(None):
        return _expect(value is None, value, where, "null")
    if origin is Literal:
        return _expect(value in arguments, value, where, " or ".join(map(repr, arguments)))
    if origin in (Union, types.UnionType):
        return _load_union(arguments, value, where)
    if origin is list:
        items = _expect(isinstance(value, list), value, where, "a list")
        return [_load(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items)]
    if origin is dict:
        _expect(isinstance(value, dict), value, where, "an object")
        return {name: _load(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _load_fields(kind, value, where)
    return _load_plain(kind, value, where)


def _load_plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number and abs(value) < 1e300 and math.isfinite(value), value, where, _NAMES[float])
        return float(value)
    if kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return _expect(whole and abs(value) < _LARGEST, value, where, _NAMES[int])
    return _expect(isinstance(value, kind), value, where, _NAMES[kind])


def _load_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """Of ``X | None`` and the like: the kind that is wanted unless the value is null."""
    if value is None and type(None) in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not type(None)]
    if len(wanted) == 1:
        return _load(wanted[0], value, where)
    for kind in wanted:
        try:
            return _load(kind, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where} is of none of the kinds that may stand there")


def _load_fields(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where, "an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise ValueError(f"{where} has a field {name!r} that is not known here")
    hints = _hints(kind)
    given: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            given[name] = _load(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{name} is missing")
    return kind(**given)


@lru_cache(maxsize=128)
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expect(holds: bool, value: Any, where: str, what: str) -> Any:
    if not holds:
        raise ValueError(f"{where} is not {what}")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found
