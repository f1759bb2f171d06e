"""The whole history of the schema, up and down, with data in every table."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from registry import cli
from registry.copies import service as copies
from registry.db import REVISION, Database, migrations_folder
from registry.errors import IntegrityError, StateError
from registry.home import Home
from registry.keys import service as keys
from registry.verification import verify_ledger
from tests.migrations.rows import common, content, fill_empty
from tests.registry.support import MODEL, RECIPIENT


def revisions() -> list[str]:
    """All revisions, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    return [
        script.revision for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions()))
    ]


@pytest.fixture
def used(ready: Home, tmp_path: Path) -> Home:
    """A registry that has issued, delivered and revoked."""
    first, second = keys.Issuer.open(ready, MODEL, RECIPIENT).issue(2)
    copies.download(ready, first["key_id"], tmp_path / "copy")
    keys.revoke(ready, second["key_id"], "leaked")
    return ready


def test_every_step_keeps_what_both_of_its_schemas_hold(used: Home) -> None:
    oldest_first = revisions()
    way = [*oldest_first[-2::-1], *oldest_first[1:]]
    for revision in way:
        with used.database.write() as session:
            fill_empty(session.connection())
            before = content(session.connection())
        used.database.upgrade(revision)
        with used.database.write() as session:
            after = content(session.connection())
        shared = common(before, after)
        assert len(shared) >= 14  # the tables of the first revision never go
        for table, had, has in shared:
            assert has == had, f"{table} at {revision}"


def test_a_registry_of_the_first_schema_is_whole_after_its_upgrade(used: Home) -> None:
    before = verify_ledger(used)
    assert used.database.upgrade("0001") == (REVISION, "0001")
    assert used.database.upgrade() == ("0001", REVISION)
    assert verify_ledger(used) == before
    keys.Issuer.open(used, MODEL, RECIPIENT).issue(3)
    assert verify_ledger(used).size == before.size + 3


def test_the_command_upgrades_once(used: Home, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(used.settings.home)
    used.database.upgrade("0001")
    assert cli.run(["ledger", "verify", "--home", folder]) == 2
    assert "registry upgrade" in capsys.readouterr().err
    assert cli.run(["upgrade", "--home", folder]) == 0
    assert capsys.readouterr().out == f"The schema was brought from revision 0001 to {REVISION}.\n"
    assert cli.run(["upgrade", "--home", folder]) == 0
    assert "already" in capsys.readouterr().out
    assert cli.run(["ledger", "verify", "--home", folder]) == 0


def test_a_newer_schema_is_left_alone(home: Home) -> None:
    with home.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateError, match="revision 9999, this version of Hallmark knows"):
        home.database.upgrade()
    assert home.database.revision() == "9999"


def test_a_database_without_registry_is_no_registry_to_upgrade(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="missing"):
        Database(f"sqlite:///{tmp_path}/none.db").upgrade()


def test_rows_that_refer_to_nothing_stop_an_upgrade_of_sqlite(sqlite_home: Home) -> None:
    sqlite_home.database.upgrade("0001")
    sqlite_home.close()
    with sqlite_home.database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")  # foreign keys can be switched off only between transactions
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("INSERT INTO person VALUES (77, 999, 'nobody', 'viewer', 0)")
    with pytest.raises(IntegrityError, match=r"first in table person; nothing was changed"):
        sqlite_home.database.upgrade()
    assert sqlite_home.database.revision() == "0001"
