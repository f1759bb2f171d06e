"""`registry upgrade`, `registry backup` and `registry restore`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from registry.command_line import OUT, chosen_home, home_option, json_option, opened, print_json, shown
from registry.errors import InputError

PASSPHRASE_VARIABLE = "HALLMARK_BACKUP_PASSPHRASE"  # noqa: S105  (a name)
SHORTEST_PASSPHRASE = 12

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    help=f"Its first line is the passphrase [default: ${PASSPHRASE_VARIABLE}; without one: no encryption].",
)


@click.command()
@home_option
@json_option
def upgrade(as_json: bool) -> None:
    """Bring the database of an existing registry to this version's schema.

    Stop the registry's servers first and make a backup. The upgrade happens as a whole or not at all.
    """
    from registry.config import Settings
    from registry.db import Database

    database = Database(Settings.load(chosen_home()).database_url)
    try:
        before, after = database.upgrade()
    finally:
        database.close()
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        click.echo(f"The schema has revision {after} already.")
    else:
        click.echo(f"The schema was brought from revision {before} to {after}.")


@click.command()
@click.option("--out", type=OUT, required=True, help="New file to write.")
@passphrase_option
@home_option
@json_option
def backup(out: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Back up the whole registry into one file while it goes on working.

    The backup holds a snapshot of the database, all stored files and the configuration, and is signed. It
    never holds master.key, without which it cannot be restored: keep that in another place. The database has
    personal data, so encrypt the backup (scrypt, AES-256-GCM) unless its place is as safe as the database's.
    """
    from registry.backup import service

    passphrase = _passphrase(passphrase_file)
    with opened() as home, shown("bytes") as progress:
        manifest = service.backup(home, out, passphrase, progress)
    if as_json:
        print_json({name: manifest[name] for name in ("registry", "created_at", "revision", "ledger")})
        return
    click.echo(f"{out}: registry {manifest['registry']}, {manifest['ledger']['size']} ledger entries.")
    if passphrase is None:
        click.echo("It is not encrypted, and the database holds personal data.")


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--master-key",
    type=FILE,
    required=True,
    help="This registry's escrowed master key.",
)
@passphrase_option
@home_option
@json_option
def restore(file: Path, master_key: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Restore the backup FILE into a new home, an empty database and the storage.

    HALLMARK_DATABASE_URL and HALLMARK_STORAGE_URL name others than the backed-up configuration; the database
    may be of another kind. Everything in FILE is checked before anything is written, and the ledger is
    verified before the database is committed.
    """
    from registry.backup import service

    folder = chosen_home()
    with shown("bytes and rows") as progress:
        restored = service.restore(file, folder, master_key, _passphrase(passphrase_file), progress)
    report = restored.report
    if as_json:
        ledger = {"size": report.size, "root": report.root}
        print_json({"registry": restored.registry, "home": str(folder), "ledger": ledger})
        return
    click.echo(f"Registry {restored.registry} is restored in {folder}.")
    click.echo(f"Its ledger holds: {report.size} entries, root {report.root}.")


def _passphrase(path: Path | None) -> str | None:
    if path is None:
        found = os.environ.get(PASSPHRASE_VARIABLE, "")
    else:
        found = path.read_text(encoding="utf-8").partition("\n")[0]
    if not found and path is None:
        return None
    if len(found) < SHORTEST_PASSPHRASE:
        raise InputError(
            f"the passphrase has less than {SHORTEST_PASSPHRASE} characters.", "Choose a longer one."
        )
    return found
