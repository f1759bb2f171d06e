"""``python -m verifier``: the same as the ``verifier`` command."""

from __future__ import annotations

from verifier.cli import main

main()
