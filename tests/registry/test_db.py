from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError as ForeignKeyError
from sqlalchemy.exc import OperationalError

from registry.accounts.models import Organisation, Recipient
from registry.db import REVISION, Database, explain, migrate, migrations_folder
from registry.errors import InputError, StateError
from registry.home import Home
from registry.tables import metadata


def test_the_code_works_with_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_tables_and_migrations_do_not_drift_apart(home: Home) -> None:
    with home.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrations_go_down_and_up_again(home: Home) -> None:
    def tables() -> set[str]:
        with home.database.engine.connect() as connection:
            return set(inspect(connection).get_table_names())

    full = tables()
    assert {"user_key", "ledger_entry", "alembic_version"} <= full
    with home.database.write() as session:
        migrate(session.connection(), "base")
    assert tables() == {"alembic_version"}
    with home.database.write() as session:
        migrate(session.connection())
    assert tables() == full


def test_a_write_that_fails_leaves_nothing(home: Home) -> None:
    def fails() -> None:
        with home.database.write() as session:
            session.add(Organisation(name="half", created_at=0))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    with home.database.read() as session:
        assert session.execute(select(Organisation.name)).scalars().all() == ["default"]


def test_foreign_keys_are_enforced(home: Home) -> None:
    with pytest.raises(ForeignKeyError), home.database.write() as session:
        session.add(Recipient(organisation_id=999, email="a@b.c", salt=b"", created_at=0))


def test_a_read_is_a_snapshot(home: Home) -> None:
    count = text("SELECT count(*) FROM organisation")
    with home.database.read() as reader:
        before = reader.execute(count).scalar_one()
        with home.database.write() as writer:
            writer.add(Organisation(name="new", created_at=0))
        assert reader.execute(count).scalar_one() == before
    with home.database.read() as reader:
        assert reader.execute(count).scalar_one() == before + 1


def test_sqlite_writers_wait_for_each_other(sqlite_home: Home) -> None:
    def add(number: int) -> None:
        with sqlite_home.database.write() as session:
            taken = session.execute(text("SELECT count(*) FROM organisation")).scalar_one()
            session.add(Organisation(name=f"{number} after {taken}", created_at=taken))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite_home.database.read() as session:
        taken = session.execute(
            select(Organisation.created_at).where(Organisation.name != "default")
        ).scalars()
        assert sorted(taken) == list(range(1, 9))


def test_sqlite_keeps_a_write_ahead_log(sqlite_home: Home) -> None:
    with sqlite_home.database.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
        assert session.execute(text("PRAGMA synchronous")).scalar_one() == 2


@pytest.mark.parametrize("url", ["nonsense", "nodialect://x", "mysql+nodriver://x/y"])
def test_an_unusable_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="database URL"):
        Database(url)


def test_a_missing_file_and_a_foreign_schema_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="missing"):
        Database(f"sqlite:///{tmp_path}/none.db").require_current()
    for name, statement, said in (
        ("other.db", "CREATE TABLE x (y)", "holds no registry"),
        ("newer.db", "CREATE TABLE alembic_version (version_num)", "holds no registry"),
    ):
        connection = sqlite3.connect(tmp_path / name)
        connection.execute(statement)
        connection.close()
        database = Database(f"sqlite:///{tmp_path / name}")
        with pytest.raises(StateError, match=said):
            database.require_current()
        database.close()


def test_a_database_of_another_version_is_refused(home: Home) -> None:
    with home.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateError, match=f"revision 9999, this version of Hallmark works with {REVISION}"):
        home.database.require_current()


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("database or disk is full", "Free some space"),
        ("database is locked", "run this one again"),
        ("attempt to write a readonly database", "may write"),
        ("file is not a database", "restore it from a backup"),
        ('connection failed: FATAL:  database "x" does not exist', "HALLMARK_DATABASE_URL"),
        ("something else", "HALLMARK_DEBUG"),
    ],
)
def test_failures_of_the_database_become_advice(cause: str, advice: str) -> None:
    said = explain(OperationalError("INSERT ...", {}, sqlite3.OperationalError(cause)))
    assert said.exit_code == 2
    assert advice in said.diagnostics()
    assert "INSERT" not in said.diagnostics()
