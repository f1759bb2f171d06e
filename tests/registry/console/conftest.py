"""One registry with something of everything, served for all browser tests of a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.accounts.permissions import Role
from registry.home import Home
from registry.keys import bulk
from tests.registry.accounts.support import add_admin, add_person
from tests.registry.console.browser import Console, console
from tests.registry.support import MODEL

TABLE = "email,expires_days\n" + "".join(f"recipient{i}@example.com,{365 - i}\n" for i in range(12))


@pytest.fixture(scope="module")
def served(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The console on a registry with model ``tiny`` and copies; ``ada`` and ``eve`` are administrators."""
    home = Home.open(Path(shutil.copytree(ready_sqlite, tmp_path_factory.mktemp("console") / "home")))
    add_admin(home)
    add_admin(home, "eve", "rival")
    add_person(home, "vic", Role.VIEWER)
    bulk.issue_orders(home, bulk.read_orders(TABLE, MODEL), 1)
    with console(home) as found:
        yield found
    home.close()
