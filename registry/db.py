"""The database: typed tables, read and write transactions, migrations.

    database = Database("sqlite:///registry.db")
    with database.write() as session: ...      # one transaction, all or nothing
    with database.read() as session: ...       # one unchanging snapshot

SQLite (write-ahead log) is the embedded default, PostgreSQL the production database. A write
transaction on SQLite takes the write lock at its start (BEGIN IMMEDIATE), so that it cannot fail half
way because another writer came first; on PostgreSQL the services lock the rows they must.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVarTuple, cast

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Session

from registry.errors import InputError, IntegrityError, RegistryError, StateError

REVISION = "0015"
"""The schema revision that this code works with (the newest in ``migrations/versions``)."""

DAY_SECONDS = 86_400

BUSY_SECONDS = 120
"""How long a writer waits for another on SQLite; a bulk issue holds the lock for seconds at most."""

CONNECTIONS, FEW = 16, 4
"""Kept open by one process, for each kind of transaction: as many as `registry serve` has threads, and for
those that are not durable. In a rush there are CONNECTIONS more."""

STREAM_ROWS = 5_000

_IMMEDIATE = "hallmark_immediate"


Columns = TypeVarTuple("Columns")


class Base(DeclarativeBase):
    """Every table. Times are unix seconds (UTC); digests, keys and signatures are raw bytes."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    # SQLite numbers rows by itself only for a column declared INTEGER, which is 64 bits wide there.
    type_annotation_map: ClassVar[dict[type, Any]] = {
        int: BigInteger().with_variant(Integer(), "sqlite"),
        float: Double(),
        bytes: LargeBinary(),
    }


class Database:
    """One database and its two kinds of transactions; connections open on first use."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            self.engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise InputError(
                f"the database URL cannot be used ({str(error).splitlines()[0]}).",
                "Use sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME.",
            ) from None
        import registry.tables  # noqa: F401  (foreign keys between features need every table)

        self._writer = self.engine.execution_options(**{_IMMEDIATE: True})
        self._hasty: Engine = self._writer
        self._reader: Engine = self.engine
        self._single: Engine = self.engine
        if self.engine.dialect.name == "postgresql":
            self._hasty = _engine(url, connections=FEW, connect_args={"options": "-c synchronous_commit=off"})
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._single = _engine(url, isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        """A transaction that commits at the end of the block and rolls back on any exception.

        Without ``durable``, PostgreSQL may acknowledge it before it is on disk: a crash of the database can
        cost the last moments of such transactions (0.6 s at its default settings), never a part of one.
        """
        engine = self._writer if durable else self._hasty
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A snapshot: what other transactions commit meanwhile is not seen."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def glance(self) -> Iterator[Session]:
        """For one query that needs no transaction around it, which saves two round trips."""
        with Session(self._single, expire_on_commit=False) as session:
            yield session

    def require_registry(self) -> str:
        """The schema revision; :class:`StateError` unless the database exists and holds a registry."""
        path = self.url.database
        if self.engine.dialect.name == "sqlite" and not Path(path or "").is_file():
            raise StateError(f"{path}: the registry's database is missing.", "Restore it from a backup.")
        found = self.revision()
        if found is None:
            raise StateError(
                f"{self} holds no registry.", "Run `registry init`, or correct HALLMARK_DATABASE_URL."
            )
        return found

    def require_current(self) -> None:
        """Raise :class:`StateError` unless the database holds a registry of this code's schema."""
        found = self.require_registry()
        if found != REVISION:
            raise StateError(
                f"{self} has schema revision {found}, this version of Hallmark works with {REVISION}.",
                "Run `registry upgrade` for an older one; a newer one needs its own version of Hallmark.",
            )

    def upgrade(self, revision: str = "head") -> tuple[str, str]:
        """Migrate an existing registry; the revisions before and after. All of it happens or nothing.

        :class:`StateError` where there is none, or one of a newer version of Hallmark.
        """
        self.require_registry()
        with self.reshape() as session:
            connection = session.connection()
            if connection.dialect.name == "postgresql":  # of two at once the second finds the work done
                connection.exec_driver_sql("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
            before = _revision(connection) or ""
            if before > REVISION:
                raise StateError(
                    f"{self} has schema revision {before}, this version of Hallmark knows {REVISION}.",
                    "Use the newer version; nothing was changed.",
                )
            migrate(connection, revision)
            return before, _revision(connection) or ""

    @contextmanager
    def reshape(self) -> Iterator[Session]:
        """A write transaction that may change tables.

        SQLite rebuilds a table by copying it, which its foreign keys would forbid: they are switched off
        in the block and checked as a whole before it is committed.
        """
        engine = _engine(self.url.render_as_string(hide_password=False), foreign_keys=False)
        try:
            with Session(engine.execution_options(**{_IMMEDIATE: True})) as session, session.begin():
                yield session
                self._check_references(session.connection())
        finally:
            engine.dispose()

    def _check_references(self, connection: Connection) -> None:
        if connection.dialect.name != "sqlite":
            return
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise IntegrityError(
                f"{self}: {len(broken)} rows refer to rows that do not exist, first in table "
                f"{broken[0][0]}; nothing was changed.",
                "Restore the database from a backup.",
            )

    def revision(self) -> str | None:
        """The schema revision found, ``None`` in a database without a registry."""
        with self.engine.connect() as connection:
            return _revision(connection)

    def close(self) -> None:
        """Close all connections; the write-ahead log of SQLite is folded into the file."""
        for engine in (self.engine, self._hasty, self._single):
            engine.dispose()

    def __str__(self) -> str:
        return f"the database {self.url.render_as_string(hide_password=True)}"


def _engine(url: str, foreign_keys: bool = True, connections: int = CONNECTIONS, **options: Any) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        arguments = {"connect_timeout": 10} | options.pop("connect_args", {})
        return create_engine(
            url, connect_args=arguments, pool_size=connections, max_overflow=CONNECTIONS, **options
        )
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling would begin late and commit around DDL.
        connection.isolation_level = None
        enforced = "foreign_keys = ON" if foreign_keys else "foreign_keys = OFF"
        for pragma in (enforced, "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(_IMMEDIATE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def table(entity: type[Base]) -> Table:
    """The table of an entity, for statements on hot paths that need no more of the ORM than its names."""
    return cast(Table, entity.__table__)


def stream(session: Session, query: Select[*Columns]) -> Generator[Row[*Columns]]:
    """The rows of a large result in constant memory; close the iterator if it is not read to its end."""
    with session.execute(query.execution_options(yield_per=STREAM_ROWS)) as result:
        yield from result


def migrations_folder() -> Path:
    """The Alembic scripts: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to ``revision`` inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    older = revision == "base" or (revision.isdecimal() and revision < (_revision(connection) or ""))
    (command.downgrade if older else command.upgrade)(config, revision)


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def explain(error: SQLAlchemyError) -> RegistryError:
    """What a failure of the database means for the person at the command line."""
    cause = str(getattr(error, "orig", None) or error).strip()
    reason = " ".join(cause.split("\n")[0].split())
    lowered = cause.lower()
    if "disk is full" in lowered or "no space left" in lowered or "disk full" in lowered:
        hint = "Free some space and run the command again; nothing of it was recorded."
    elif "locked" in lowered:
        hint = "Another command is writing; run this one again when it has finished."
    elif "readonly" in lowered or "read-only" in lowered or "unable to open" in lowered:
        hint = "Check that the registry's home exists and that you may write to it."
    elif "not a database" in lowered or "malformed" in lowered:
        hint = "The database file is damaged; restore it from a backup."
    elif "does not exist" in lowered or "connect" in lowered or "authentication" in lowered:
        hint = "Check HALLMARK_DATABASE_URL and that the database server runs."
    else:
        hint = "Run with HALLMARK_DEBUG=1 for the details."
    failed = StateError(f"the database refused: {reason}.", hint)
    if not isinstance(error, DBAPIError):
        failed.exit_code = 4
    return failed


def unix_now() -> int:
    """The time in whole seconds since 1970 (UTC)."""
    return int(time.time())
