"""What kinds of jobs there are: each feature registers its own in its ``jobs.py``.

    @job("train-model", TrainModel, Permission.WRITE_MODELS)
    def train_model(run: Run, wanted: TrainModel) -> dict[str, Any]: ...

The arguments are a pydantic model, the result a JSON object. A job may be run again from its start at any
time (after a crash, a shutdown, a failure): it goes on from what it kept, and doing what is done already
changes nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from registry.accounts.permissions import Permission
from registry.api.schemas import Body
from registry.errors import InputError

FEATURES = ("attribution", "bundles", "cases", "generators")
"""Packages of ``registry`` with a module ``jobs``."""

Work = TypeVar("Work", bound=Callable[..., dict[str, Any]])


@dataclass(frozen=True)
class Kind:
    """One kind of job: what it is given, what whoever starts it or takes its files must be permitted."""

    name: str
    arguments: type[Body]
    permission: Permission
    work: Callable[..., dict[str, Any]]


_kinds: dict[str, Kind] = {}


def job(name: str, arguments: type[Body], permission: Permission) -> Callable[[Work], Work]:
    """Register a function as the work of jobs of kind ``name``."""

    def register(work: Work) -> Work:
        if name in _kinds:
            raise RuntimeError(f"two kinds of jobs are called {name}")
        _kinds[name] = Kind(name, arguments, permission, work)
        return work

    return register


def kind(name: str) -> Kind:
    """The kind called ``name``; :class:`InputError` where there is none."""
    for feature in FEATURES:
        importlib.import_module(f"registry.{feature}.jobs")
    found = _kinds.get(name)
    if found is None:
        raise InputError(f"there are no jobs of kind {name}.", f"Known: {', '.join(sorted(_kinds))}.")
    return found
