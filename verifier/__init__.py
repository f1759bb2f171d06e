"""Hallmark verifier: whose copy of a generative model made this image, with a proved error bound.

    from verifier import Verifier

    verifier = Verifier.from_bundle("flowers.bundle")
    for finding in verifier.check(["suspect.png"]):
        print(finding.statement())

What is named here is the library's interface; each name is imported when it is first asked for, so that the
formats alone need no onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.bundle import Bundle
    from verifier.check import Checker, Verifier
    from verifier.errors import InputError, TrustError, VerifierError
    from verifier.finding import Finding, OnlineFinding
    from verifier.online import OnlineVerifier

__all__ = [
    "Bundle",
    "Checker",
    "Finding",
    "InputError",
    "OnlineFinding",
    "OnlineVerifier",
    "TrustError",
    "Verifier",
    "VerifierError",
]

_MODULES = {
    "Bundle": "bundle",
    "Checker": "check",
    "Finding": "finding",
    "InputError": "errors",
    "OnlineFinding": "finding",
    "OnlineVerifier": "online",
    "TrustError": "errors",
    "Verifier": "check",
    "VerifierError": "errors",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"verifier.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'verifier' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
