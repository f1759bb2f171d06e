"""The installed command lines, as a script would call them.

commands = Commands(Path("demo/home"))
certificate = commands.registry("issue", "--model", "flowers", "--to", "ada@example.com")
findings = commands.check(images, bundle)
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.errors import StateError

ATTRIBUTED_OR_NOT = (0, 1)


class Commands:
    """``registry`` and ``verifier`` of this environment, working on one registry home."""

    def __init__(self, home: Path, **settings: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HALLMARK_")}
        self._home = home
        # Several commands run at a time, so each computes with one thread.
        own = {"HALLMARK_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._environment = {**inherited, **own, **settings}

    def trusting(self, registry: str) -> Commands:
        """The same, with the verifier accepting only bundles of the registry with this id."""
        return Commands(self._home, HALLMARK_TRUST=registry)

    def registry(self, *arguments: str | Path, typed: str | None = None) -> str:
        """Standard output of ``registry ARGUMENTS``; :class:`StateError` with its message if it fails.

        ``typed`` is what it reads from standard input.
        """
        return self._run("registry", arguments, (0,), typed)

    def verifier(self, *arguments: str | Path) -> str:
        """Standard output of ``verifier ARGUMENTS``."""
        return self._run("verifier", arguments, ATTRIBUTED_OR_NOT)

    def start(self, program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start ``program ARGUMENTS`` quietly in a process group of its own, for the caller to stop."""
        return subprocess.Popen(
            [_installed(program), *map(str, arguments)],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def check(self, images: Sequence[Path], bundle: Path, *options: str) -> list[dict[str, Any]]:
        """The findings of ``verifier check IMAGES --json``."""
        return json_objects(self.verifier("check", *images, "--bundle", bundle, "--json", *options))

    def _run(
        self, program: str, arguments: Sequence[str | Path], accepted: Sequence[int], typed: str | None = None
    ) -> str:
        command = [_installed(program), *map(str, arguments)]
        try:
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, check=False, input=typed
            )
        except FileNotFoundError:
            raise StateError(
                f"{command[0]}: not installed.", "Install with pip install 'hallmark[registry]'."
            ) from None
        if done.returncode not in accepted:
            said = done.stderr.strip().splitlines() or ["it gave no reason."]
            shown = " ".join((program, *map(str, arguments[:2])))
            raise StateError(f"`{shown}` ended with {done.returncode}: {said[-1]}")
        return done.stdout


def _installed(program: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / program)


def json_objects(text: str) -> list[dict[str, Any]]:
    """All JSON objects in ``text``, one after another with white space between."""
    decoder, objects, position = json.JSONDecoder(), [], 0
    while (start := text.find("{", position)) >= 0:
        value, position = decoder.raw_decode(text, start)
        objects.append(value)
    return objects
