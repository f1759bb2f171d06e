"""`registry upgrade`, `registry backup` and `registry restore`."""

from __future__ import annotations

import click

from registry.command_line import chosen_home, home_option, json_option, print_json


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
