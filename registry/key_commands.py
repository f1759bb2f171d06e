"""`registry master-key` and `registry signing-key`: escrow, and moving the signing key. See docs/keys.md."""

from __future__ import annotations

import os
from pathlib import Path

import click

from registry.command_line import OUT, home_option, opened
from registry.errors import InputError, IntegrityError


@click.group("master-key")
def master_key() -> None:
    """Put the master key into escrow, and check what lies there."""


@master_key.command("escrow")
@click.option("--out", type=OUT, required=True, metavar="FILE", help="New file to write (mode 0600).")
@home_option
def master_key_escrow(out: Path) -> None:
    """Write the master key, in plain, for a safe place apart from every backup of the database.

    With it `registry restore` opens a backup even where the key management service that wraps it is lost.
    """
    from registry.sealing import AesMasterKey

    with opened() as home:
        assert isinstance(home.master, AesMasterKey)
        try:
            home.master.escrow(out)
        except FileExistsError:
            raise InputError(f"{out} exists already.", "Name a new file.") from None
    click.echo(f"{out} is the master key: take it to its safe place and delete it here.")


@master_key.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@home_option
def master_key_check(file: Path) -> None:
    """Tell whether FILE, from its escrow, is this registry's master key."""
    from registry.sealing import AesMasterKey, FileMasterKey

    with opened() as home:
        assert isinstance(home.master, AesMasterKey)
        if not FileMasterKey.load(file).is_same(home.master):
            raise IntegrityError(f"{file} is not the master key of this registry.", "Escrow the right one.")
    click.echo(f"{file} is the master key of this registry.")


@click.group("signing-key")
def signing_key() -> None:
    """Move the registry's signing key out of the database."""


@signing_key.command("export")
@click.option("--out", type=OUT, required=True, metavar="FILE", help="New file to write (PEM, encrypted).")
@home_option
def signing_key_export(out: Path) -> None:
    """Write the signing key, under a passphrase, to import it into a key management service."""
    from registry.identity import sealed_key
    from registry.signing_keys import PASSPHRASE_VARIABLE, write_key

    with opened() as home, home.database.read() as session:
        key = sealed_key(session, home.master)
    passphrase = os.environ.get(PASSPHRASE_VARIABLE) or click.prompt(
        f"Passphrase for {out}", hide_input=True, confirmation_prompt=True, err=True
    )
    write_key(out, key, passphrase)
    click.echo(f"{out} is the signing key: delete it once it is imported.")


@signing_key.command("move")
@home_option
def signing_key_move() -> None:
    """Take the signing key out of the database, to where [signing.registry] in config.toml now keeps it.

    Into a folder it is written; a program must have it already and proves that by a signature.
    """
    from registry.identity import Identity, move_key, registry_keys

    with opened() as home:
        keys = registry_keys(home.settings, home.master)
        with home.database.write() as session:
            move_key(session, keys, home.master)
        with home.database.read() as session:
            moved = Identity.load(session, keys)
    click.echo(f"The signing key of registry {moved.registry} has left the database.")
