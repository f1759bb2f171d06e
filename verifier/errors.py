"""The verifier's exceptions: one tree; each carries an exit code and a sentence on what to do."""

from __future__ import annotations


class VerifierError(Exception):
    """Root of all errors a user may see. ``hint`` says what to do about it."""

    exit_code = 4

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def diagnostics(self) -> str:
        """The message and the hint on one line."""
        return f"{self} {self.hint}".strip()


class InputError(VerifierError):
    """A request, file or value that cannot be used (exit code 2)."""

    exit_code = 2


class TrustError(VerifierError):
    """A signature, digest, proof or validity period that does not hold (exit code 3)."""

    exit_code = 3
