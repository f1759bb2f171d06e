"""`registry index`: the saved search index, which workers otherwise make and extend by themselves."""

from __future__ import annotations

import click

from registry.command_line import home_option, json_option, opened, print_json, shown


@click.group("index")
def index() -> None:
    """Prepare the search among issued keys.

    The index is made at the first query and grows with what is issued; for many millions of keys it is better
    made beforehand. It lies, encrypted, under search/ in the registry's home, in no backup, and each machine
    has its own.
    """


@index.command("build")
@click.argument("name")
@click.option("--again", is_flag=True, help="Make it anew, from the first key on.")
@home_option
@json_option
def index_build(name: str, again: bool, as_json: bool) -> None:
    """Add the keys of model NAME that its index lacks. Ctrl-C keeps what was done."""
    from registry.generators import service as generators
    from registry.interrupts import between_steps
    from registry.resolve import tables

    with opened() as home:
        with home.database.read() as session:
            model = generators.get_model(session, name)
            generators.basis_name(model)
        with shown("indexing keys") as progress, between_steps() as check:
            added = tables.build(home, model, progress, again=again, check=check)
        described = {"model": model.label, "added": added, **tables.describe(home, model)}
    if as_json:
        print_json(described)
    else:
        click.echo(f"{added} keys were added: the index of {model.label} has {described['keys']}.")


@index.command("show")
@home_option
@json_option
def index_show(as_json: bool) -> None:
    """Show how many keys of each model are indexed on this machine."""
    from registry.generators import service as generators
    from registry.resolve import tables

    with opened() as home:
        with home.database.read() as session:
            models = [model for model in generators.models(session) if model.basis is not None]
        described = [{"model": model.label, **tables.describe(home, model)} for model in models]
    if as_json:
        print_json(described)
        return
    for entry in described:
        click.echo(
            f"{entry['model']}  {entry['keys']} of {entry['issued']} keys in {entry['files']} files, "
            f"{entry['bytes']} bytes"
        )
