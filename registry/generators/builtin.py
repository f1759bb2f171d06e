"""Reference generators shipped with the project, named ``builtin:<name>@<version>``.

A builtin is never replaced: better weights get a new version. Each is a folder
``registry/builtins/<name>/<version>/`` with the model, its basis, its attribution network and a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.errors import InputError

PREFIX = "builtin:"
ROOT = Path(__file__).resolve().parent.parent / "builtins"


@dataclass(frozen=True)
class Builtin:
    """Paths of one builtin: model folder, basis file, network package and lineage, where shipped."""

    weights: Path
    basis: Path | None
    network: Path | None
    lineage: Path | None


def known_builtins() -> list[str]:
    """Names of all shipped builtins, e.g. ``flowers-ldm@1``."""
    return sorted(f"{path.parent.parent.name}@{path.parent.name}" for path in ROOT.glob("*/*/model"))


def resolve_builtin(name: str) -> Builtin:
    """The builtin ``builtin:<name>@<version>``; :class:`InputError` lists the known ones."""
    label = name.removeprefix(PREFIX)
    if label not in known_builtins():
        raise InputError(f"unknown builtin {name!r}.", f"Known: {', '.join(known_builtins())}.")
    base, _, version = label.rpartition("@")
    folder = ROOT / base / version
    basis, network = folder / "basis.safetensors", folder / "network"
    lineage = folder / "lineage.json"
    return Builtin(
        weights=folder / "model",
        basis=basis if basis.is_file() else None,
        network=network if network.is_dir() else None,
        lineage=lineage if lineage.is_file() else None,
    )
