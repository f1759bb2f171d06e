"""Passwords: argon2id, and one answer in one time whether or not an account exists.

    stored = hash_password("correct horse battery staple")
    verify(stored, given), verify(None, given)             # the second is False after just as much work

Hashes made with older parameters are replaced at the next sign-in (:func:`outdated`).
"""

from __future__ import annotations

import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from registry.errors import InputError, StateError

SHORTEST, LONGEST = 12, 200
"""Characters. Length is what resists guessing (NIST SP 800-63B); composition rules are not imposed."""

AT_ONCE = 2
"""Passwords that a process hashes at a time, each in 64 MiB: more wait, and no crowd exhausts the memory."""

_hasher = PasswordHasher()
_turn = threading.BoundedSemaphore(AT_ONCE)
_NOBODY = _hasher.hash("nobody has this password")


def check_password(name: str, password: str) -> None:
    """:class:`InputError` for a password that is too short or too long, :class:`StateError` for one that is
    easily guessed of ``name``."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(
            f"the password has {len(password)} characters.", f"Choose {SHORTEST} to {LONGEST} of them."
        )
    lowered = password.lower()
    if len(set(lowered)) < 5 or lowered.replace(name.lower(), "").strip() == "":
        raise StateError("the password is easily guessed.", "Choose several unrelated words.")


def hash_password(password: str) -> str:
    """The hash to store, with its salt and parameters."""
    with _turn:
        return _hasher.hash(_normal(password))


def verify(stored: str | None, password: str) -> bool:
    """Whether ``password`` is the one behind ``stored``; without one, as much work is done for nothing."""
    try:
        with _turn:
            _hasher.verify(stored or _NOBODY, _normal(password))
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def outdated(stored: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(stored)


def _normal(password: str) -> str:
    """One spelling for what keyboards compose differently."""
    return unicodedata.normalize("NFKC", password)
