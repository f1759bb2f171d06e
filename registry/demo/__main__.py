"""Command line of the demonstration."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from registry.demo.story import Plan, run
from registry.errors import RegistryError


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--decoys", default=100_000, show_default=True, help="Further keys to issue and search.")
@click.option("--images", default=12, show_default=True, help="Images sampled from each copy.")
@click.option("--foreign", default=36, show_default=True, help="Images of each of three foreign sources.")
def main(out: Path, decoys: int, images: int, foreign: int) -> None:
    """Issue copies of a model, attack their images, resolve them back, and report.

    Ends with 1 if anything was attributed wrongly or too little was attributed at all.
    """
    try:
        succeeded = run(Plan(out.absolute(), decoys, images, foreign))
    except RegistryError as error:
        click.echo(f"demo: {error.diagnostics()}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("demo: interrupted", err=True)
        sys.exit(130)
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main(standalone_mode=True)
