"""`registry ledger`: checking the log, and proofs from it for outsiders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from registry.command_line import OUT, home_option, json_option, opened, print_json, shown

out_option = click.option("--out", type=OUT, metavar="FILE", help="Write it here instead of printing it.")


@click.group()
def ledger() -> None:
    """Check the append-only log, and prove to outsiders what is in it."""


@ledger.command("verify")
@home_option
@json_option
def ledger_verify(as_json: bool) -> None:
    """Recompute the ledger from the records and check every signature and hash in it."""
    from registry.verification import verify_ledger

    with opened() as home, shown("ledger entries") as progress:
        report = verify_ledger(home, progress)
    if as_json:
        print_json({"size": report.size, "root": report.root, "checkpoints": report.checkpoints})
    else:
        click.echo(f"The ledger holds: {report.size} entries, root {report.root}.")


@ledger.command("checkpoint")
@home_option
@out_option
def ledger_checkpoint(out: Path | None) -> None:
    """Print the newest signed tree head (a C2SP signed note).

    Whoever keeps it can have it proved later that the log only grew (`registry ledger consistency`).
    """
    from registry.ledger import service

    with opened() as home, home.database.read() as session:
        _give(service.checkpoint(session), out)


@ledger.command("prove")
@click.argument("entry", metavar="INDEX|SHA256")
@click.option(
    "--size", type=click.IntRange(1), metavar="N", help="In the tree of N entries [default: newest]."
)
@home_option
@out_option
def ledger_prove(entry: str, size: int | None, out: Path | None) -> None:
    """Prove that an entry, or the record with this SHA-256, is in the ledger (JSON)."""
    from registry.errors import InputError
    from registry.ledger import service

    with opened() as home, home.database.read() as session:
        if entry.isascii() and entry.isdecimal() and len(entry) < 19:
            logged = service.entry(session, int(entry))
        elif len(entry) == 64 and set(entry) <= set("0123456789abcdef"):
            logged = service.find_entry(session, bytes.fromhex(entry))
        else:
            raise InputError(f"{entry} is no index and no SHA-256.", "Give one of the two.")
        _give(_text(service.describe_inclusion(session, home.identity, logged, size)), out)


@ledger.command("consistency")
@click.argument("old", type=click.IntRange(1))
@click.argument("new", type=click.IntRange(1), required=False)
@home_option
@out_option
def ledger_consistency(old: int, new: int | None, out: Path | None) -> None:
    """Prove that the ledger of NEW entries [default: all] extends that of OLD entries (JSON)."""
    from registry.ledger import service

    with opened() as home, home.database.read() as session:
        _give(_text(service.describe_consistency(session, home.identity, old, new)), out)


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _give(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
