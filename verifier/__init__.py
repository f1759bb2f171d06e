"""Hallmark verifier: whose copy of a generative model made this image, with a proved error bound.

from verifier import Verifier

verifier = Verifier.from_bundle("flowers.bundle")
for finding in verifier.check(["suspect.png"]):
    print(finding.statement())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.check import Verifier

__all__ = ["Verifier"]


def __getattr__(name: str) -> Any:
    """Import :class:`Verifier` when it is first asked for: the formats alone need no onnxruntime."""
    if name == "Verifier":
        from verifier.check import Verifier

        return Verifier
    raise AttributeError(f"module 'verifier' has no attribute {name!r}")
