"""What all commands share: which registry they open, progress, JSON.

@click.command()
@home_option
@json_option
def show(as_json: bool) -> None:
    with opened() as home: ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.config import HOME_VARIABLE, home_folder

if TYPE_CHECKING:
    from registry.home import Home

OUT = click.Path(path_type=Path, resolve_path=True)

Command = TypeVar("Command", bound=Callable[..., Any])


def home_option(command: Command) -> Command:
    """``--home`` before or after the subcommand; the last one given counts."""

    def remember(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            context.find_root().obj = value

    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        envvar=None,
        expose_value=False,
        callback=remember,
        is_eager=True,
        help=f"The registry's folder [default: ${HOME_VARIABLE}, else ~/.local/share/hallmark].",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def chosen_home() -> Path:
    """The home that the command line, the environment or the user's data folder names."""
    given = click.get_current_context().find_root().obj
    return home_folder(given if isinstance(given, Path) else None)


@contextmanager
def opened() -> Iterator[Home]:
    """The registry in use, closed at the end of the block."""
    from registry.home import Home

    home = Home.open(chosen_home())
    try:
        yield home
    finally:
        home.close()


@contextmanager
def shown(title: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A progress bar for a service: it is told the total, then again and again the count done."""
    from registry.progress import progress

    with ExitStack() as stack:
        yield lambda total: stack.enter_context(progress(title, total)).update


def print_json(value: Any) -> None:
    """``value`` as indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
