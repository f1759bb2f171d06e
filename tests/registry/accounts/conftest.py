"""Hashing as it is done, only with less work: what production does is checked in ``test_passwords.py``."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from registry.accounts import passwords


@pytest.fixture(autouse=True)
def _quick_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", quick)
    monkeypatch.setattr(passwords, "_NOBODY", quick.hash("nobody"))
