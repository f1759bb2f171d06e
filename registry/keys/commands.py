"""`registry key`: what is done with one issued key in a dispute."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from registry.command_line import OUT, home_option, opened
from registry.errors import InputError


@click.group()
def key() -> None:
    """Open a key's commitment in a dispute."""


@key.command("open")
@click.argument("key_id")
@click.option("--reason", required=True, help="Why; kept in the security log.")
@click.option("--out", type=OUT, metavar="FILE", help="New file to write (mode 0600) [default: print it].")
@home_option
def key_open(key_id: str, reason: str, out: Path | None) -> None:
    """Disclose the bits and the blinder of the key KEY_ID (or copy id), so that anyone can check a verdict.

    Give the file to whoever checks a report: `verifier report --check REPORT --opening FILE`. Whoever has it
    can also read and forge this one fingerprint. The security log keeps who opened it and why.
    """
    from registry.keys import openings

    descriptor = None if out is None else _create(out)
    try:
        with opened() as home:
            document = openings.open_commitment(home, key_id, reason)
    except BaseException:
        if descriptor is not None and out is not None:
            os.close(descriptor)
            out.unlink()
        raise
    text = json.dumps(document, indent=2) + "\n"
    if descriptor is None or out is None:
        click.echo(text, nl=False)
        return
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        out.unlink(missing_ok=True)
        raise InputError(f"cannot write {out}: {error.strerror}.", "Make room, and open it again.") from None
    click.echo(
        f"{out}: bits and blinder of {document['certificate']['copy_id']}; hand it to who may see them."
    )


def _create(path: Path) -> int:
    """A new file for secrets, before anything is disclosed for it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{path} exists already.", "Name a new file.") from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}.", "Name a file that can be made.") from None
