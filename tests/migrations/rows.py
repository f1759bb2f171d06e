"""Rows for any table, made up from what the database itself says about its columns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    insert,
    select,
)

IGNORED = "alembic_version"


def reflected(connection: Connection) -> MetaData:
    """The tables as they are in the database now."""
    found = MetaData()
    found.reflect(connection)
    return found


def fill_empty(connection: Connection) -> list[str]:
    """Put a row into every table that has none; the names of these tables."""
    filled = []
    for table in reflected(connection).sorted_tables:
        if table.name != IGNORED and connection.execute(select(table).limit(1)).first() is None:
            connection.execute(insert(table), {c.name: _value(connection, c) for c in table.columns})
            filled.append(table.name)
    return filled


def content(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, ordered by primary key."""
    return {
        table.name: [dict(row) for row in connection.execute(_ordered(table)).mappings()]
        for table in reflected(connection).sorted_tables
        if table.name != IGNORED
    }


def common(
    first: dict[str, list[dict[str, Any]]], second: dict[str, list[dict[str, Any]]]
) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """The rows of the tables that both have, in the columns that both have."""
    shared = []
    for name in first.keys() & second.keys():
        columns = _columns(first[name]) & _columns(second[name])
        shared.append((name, _only(first[name], columns), _only(second[name], columns)))
    return shared


def _value(connection: Connection, column: Column[Any]) -> Any:
    if column.foreign_keys:
        referred = next(iter(column.foreign_keys)).column
        return connection.execute(select(referred).limit(1)).scalar()
    kind = column.type
    for known, value in ((Boolean, True), (Integer, 1_000_000), (Float, 0.5), (LargeBinary, b"\x01" * 32)):
        if isinstance(kind, known):
            return value
    return "text"


def _ordered(table: Table) -> Any:
    return select(table).order_by(*table.primary_key.columns)


def _columns(rows: list[dict[str, Any]]) -> set[str]:
    return set(rows[0]) if rows else set()


def _only(rows: list[dict[str, Any]], columns: set[str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in columns} for row in rows]
