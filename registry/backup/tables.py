"""Tables as text that any database reads back: one JSON array a row, bytes in base64.

    columns = dump(session, table, write)                  # within one snapshot
    load(session.connection(), table, columns, lines)      # into an empty table of the same schema

A dump names its columns and which of them hold bytes, so that it is read without guessing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from sqlalchemy import Connection, LargeBinary, MetaData, Table, func, insert, select, text
from sqlalchemy.orm import Session

from registry.db import stream

VERSION_TABLE = "alembic_version"
ROWS_AT_ONCE = 2_000

Description = dict[str, Any]
"""{"columns": names, "binary": names of those that hold bytes, "rows": their number}"""


def dump(session: Session, table: Table, write: Callable[[bytes], None]) -> Description:
    """Write all rows of ``table`` in the order of its primary key, in constant memory."""
    columns = list(table.columns)
    binary = [isinstance(column.type, LargeBinary) for column in columns]
    rows = 0
    for row in stream(session, select(table).order_by(*table.primary_key.columns)):
        values = [
            base64.b64encode(value).decode() if packed and value is not None else value
            for value, packed in zip(row, binary, strict=True)
        ]
        write(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        rows += 1
    return {
        "columns": [column.name for column in columns],
        "binary": [column.name for column, packed in zip(columns, binary, strict=True) if packed],
        "rows": rows,
    }


def rows(description: Description, lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """The rows of a dump."""
    names, binary = description["columns"], {*description["binary"]}
    for line in lines:
        row = dict(zip(names, json.loads(line), strict=True))
        for name in binary:
            if row[name] is not None:
                row[name] = base64.b64decode(row[name])
        yield row


def load(connection: Connection, table: Table, description: Description, lines: Iterable[bytes]) -> int:
    """Insert a dump into ``table``, which is emptied first; the number of rows."""
    connection.execute(table.delete())
    loaded, waiting = 0, iter(rows(description, lines))
    while some := list(islice(waiting, ROWS_AT_ONCE)):
        connection.execute(insert(table), some)
        loaded += len(some)
    return loaded


def present(connection: Connection) -> MetaData:
    """The tables as the database has them, referred-to tables first."""
    found = MetaData()
    found.reflect(connection)
    found.remove(found.tables[VERSION_TABLE])
    return found


def count_on(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number new rows after those that were loaded; SQLite does so by itself."""
    keys = list(table.primary_key.columns)
    if connection.dialect.name != "postgresql" or len(keys) != 1:
        return
    name = {"table": f'"{table.name}"', "column": keys[0].name}
    sequence = connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), name).scalar()
    if sequence is not None:
        highest = connection.execute(select(func.max(keys[0]))).scalar()
        if highest is not None:
            connection.execute(text("SELECT setval(:sequence, :n)"), {"sequence": sequence, "n": highest})
