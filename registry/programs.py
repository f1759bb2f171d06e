"""Programs of the operator's that keep keys elsewhere, such as with a key management service.

    command = command_of(settings, "master")              # ["/usr/local/bin/kms", "--region", "eu"]
    wrapped = run_program(command, ["wrap"], key)

A program gets bytes on standard input and answers on standard output; it fails with an exit code that is not
0 and a sentence on standard error. Nothing secret stands in its arguments.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from registry.errors import InputError, StateError

LONGEST_SECONDS = 30


def program(where: str, command: object) -> Sequence[str]:
    """A command in the configuration: a list of texts; :class:`InputError` for anything else."""
    if not isinstance(command, list) or not command or not all(isinstance(p, str) and p for p in command):
        raise InputError(f"{where} command is no list of texts.", 'Write command = ["PROGRAM", "ARGUMENT"].')
    return [str(part) for part in command]


def run_program(command: Sequence[str], arguments: Sequence[str], given: bytes = b"") -> bytes:
    """What a program writes for ``given``; :class:`StateError` with its own last words where it fails."""
    try:
        done = subprocess.run(
            [*command, *arguments], input=given, capture_output=True, timeout=LONGEST_SECONDS, check=False
        )
    except OSError as error:
        raise StateError(
            f"{command[0]} cannot be started ({error.strerror}).", "Correct config.toml."
        ) from None
    except subprocess.TimeoutExpired:
        raise StateError(
            f"{command[0]} {arguments[0]} took over {LONGEST_SECONDS} s.", "Try again."
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise StateError(f"{command[0]} {arguments[0]} failed: {said[-1]}", "Is the key service available?")
    return done.stdout
