from __future__ import annotations

import importlib

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from registry.accounts import passwords
from registry.errors import InputError, StateError
from tests.registry.accounts.support import PASSWORD


def test_production_hashes_as_rfc_9106_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    fresh = importlib.reload(passwords)
    used = extract_parameters(fresh.hash_password(PASSWORD))
    assert used.type is Type.ID
    assert used.memory_cost >= 64 * 1024  # KiB: the second recommended option
    assert used.time_cost >= 3
    assert extract_parameters(fresh._NOBODY) == used


def test_a_hash_fits_its_password_only() -> None:
    stored = passwords.hash_password(PASSWORD)
    assert passwords.hash_password(PASSWORD) != stored
    assert passwords.verify(stored, PASSWORD)
    assert not passwords.verify(stored, PASSWORD + " ")
    assert not passwords.verify(None, "nobody")
    assert not passwords.verify("not a hash", PASSWORD)


def test_one_password_typed_on_two_keyboards_is_one() -> None:
    stored = passwords.hash_password("Zu\u0308rich am Abend")
    assert passwords.verify(stored, "Z\u00fcrich am Abend")


def test_only_hashes_of_other_parameters_are_outdated() -> None:
    assert not passwords.outdated(passwords.hash_password(PASSWORD))
    assert passwords.outdated(PasswordHasher(time_cost=2, memory_cost=64).hash(PASSWORD))


@pytest.mark.parametrize(
    "password", ["", "short", "x" * 201, "aaaaaaaaaaaaaaaa", "ada@example.orgada@example.org"]
)
def test_passwords_that_are_guessed_are_refused(password: str) -> None:
    with pytest.raises((InputError, StateError), match="password"):
        passwords.check_password("ada@example.org", password)
