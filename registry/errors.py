"""The registry's exceptions: one tree, each with a sentence on what to do."""

from __future__ import annotations


class RegistryError(Exception):
    """Root of all errors a user may see. ``hint`` says what to do about it."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def diagnostics(self) -> str:
        """The message and the hint on one line."""
        return f"{self} {self.hint}".strip()


class InputError(RegistryError):
    """A file, option or value that the user gave cannot be used."""


class NotFoundError(InputError):
    """What was named does not exist, or not for whoever asks."""


class ForbiddenError(RegistryError):
    """Whoever asks may not do this."""


class AuthenticationError(RegistryError):
    """Whoever asks has not shown who he is."""


class ThrottledError(RegistryError):
    """Too much was asked at once; ``wait`` is in seconds."""

    def __init__(self, message: str, hint: str, wait: int) -> None:
        super().__init__(message, hint)
        self.wait = wait


class StateError(RegistryError):
    """The request does not fit the registry's present state."""


class UnavailableError(StateError):
    """Something that the registry stands on does not answer at present."""


class IntegrityError(RegistryError):
    """Stored data contradicts its own digest, signature or proof."""

    exit_code = 3
