"""The hot queries among ten million keys on PostgreSQL: what each costs, and that none reads a whole table.

python -m bench.queries [--quick] [--keys N]

A registry is filled by the database itself: a large organisation with nearly all keys, a small one with a
thousand of the oldest. The application then answers real requests of both, every statement it sends is noted
and explained (EXPLAIN ANALYZE, BUFFERS), and the plans are searched for sequential scans of large tables and
for index scans that throw most of what they read away.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from flask.testing import FlaskClient
from sqlalchemy import Connection, LargeBinary, MetaData, String, Table, create_engine, event, inspect, text

from bench.common import BUILTIN, MODEL, RECIPIENT, Goal, close, seconds
from bench.machines import Postgres, end_cleanly
from registry.app import create_app
from registry.config import DATABASE_VARIABLE
from registry.copies import service as copies
from registry.demo.commands import Commands, json_objects
from registry.home import Home
from registry.keys import service as keys
from registry.keys.service import Issuer
from registry.ledger import tiles
from registry.progress import progress
from verifier.merkle import TILE_WIDTH

SMALL_KEYS = 1_000
RECIPIENTS = 50_000
LARGE_TABLE_ROWS = 20_000
PAGE_ROWS = 5_000
"""Rows that a request for a page may read, at 50 a page with what belongs to each."""

FIRST = 100
"""Numbers below are left to what `registry init` and `model add` wrote."""


@dataclass
class Noted:
    """One statement that a request sent, with its plan."""

    statement: str
    milliseconds: float
    buffers: int
    rows_read: int
    scanned: list[str]
    nodes: list[str]


@dataclass
class Request:
    """A request, how long it takes, and its statements."""

    name: str
    run: Callable[[], object]
    page: bool = True
    milliseconds: float = 0.0
    noted: list[Noted] = field(default_factory=list)

    def total(self, what: str) -> int:
        """The sum of one figure over all statements."""
        return sum(getattr(noted, what) for noted in self.noted)


@contextmanager
def filled_registry(count: int) -> Iterator[tuple[Home, dict[str, str]]]:
    """A registry with ``count`` keys, and tokens of its two organisations by name."""
    with tempfile.TemporaryDirectory(prefix="hallmark-queries-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        cluster = folder / "cluster"
        cluster.mkdir()
        with Postgres(cluster, ("shared_buffers = 1GB", "max_wal_size = 8GB", "fsync = off")) as server:
            commands = Commands(folder / "home", HALLMARK_DATABASE_URL=server.url)
            commands.registry("init")
            commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
            commands.registry("recipient", "add", RECIPIENT)
            commands.registry("organisation", "add", "small")
            tokens = {}
            for label, owner in (("large", ()), ("small", ("--organisation", "small"))):
                created = commands.registry("token", "create", label, "--role", "admin", "--json", *owner)
                tokens[label] = json_objects(created)[0]["token"]
            fill(server.url, count)
            os.environ[DATABASE_VARIABLE] = server.url
            home = Home.open(folder / "home")
            try:
                yield home, tokens
            finally:
                home.close()


def fill(url: str, count: int) -> None:
    """Rows as years of work would leave them: keys, revocations, downloads, the ledger, events."""
    engine = create_engine(url)
    entries = count + count // 100 + 2 * count // 5
    owner = f"CASE WHEN n <= {SMALL_KEYS} THEN 2 ELSE 1 END"
    model = f"CASE WHEN n <= {SMALL_KEYS} THEN 9 ELSE 1 + n % 8 END"
    recipient = f"CASE WHEN n <= {SMALL_KEYS} THEN {FIRST} ELSE {FIRST} + 1 + n % {RECIPIENTS} END"
    steps: list[tuple[str, int, dict[str, str]]] = [
        ("recipient", RECIPIENTS + 1, {
            "id": f"{FIRST} + n - 1", "email": "'r' || n || '@example.com'",
            "organisation_id": "CASE WHEN n = 1 THEN 2 ELSE 1 END",
        }),
        ("user_key", count, {
            "id": f"{FIRST} + n", "key_id": "substr(sha256(n::text::bytea), 1, 12)", "organisation_id": owner,
            "model_id": model, "recipient_id": recipient, "ledger_index": f"{FIRST} + n",
            "issued_at": "1700000000 + n", "expires_at": "NULL",
            "signature": "sha256(n::text::bytea) || sha256(n::text::bytea)",
        }),
        ("key_revocation", count // 100, {
            "user_key_id": f"{FIRST} + 100 * n", "reason": "'leaked by somebody'",
            "ledger_index": f"{FIRST} + {count} + n",
        }),
        ("delivered_copy", count // 5, {"user_key_id": f"{FIRST} + 5 * n"}),
        ("download", 2 * count // 5, {
            "id": f"{FIRST} + n", "download_id": "'download-' || n",
            "organisation_id": f"CASE WHEN n <= {SMALL_KEYS} THEN 2 ELSE 1 END",
            "user_key_id": f"{FIRST} + 1 + n / 2", "token_id": "NULL", "person_id": "NULL", "link_id": "NULL",
            "form": "'folder'", "sent": "'{}'",
            "state": "CASE WHEN n % 10 = 0 THEN 'aborted' ELSE 'delivered' END",
            "ledger_index": f"CASE WHEN n % 10 = 0 THEN NULL ELSE {FIRST} + {count + count // 100} + n END",
        }),
        ("ledger_entry", entries, {"index": f"{FIRST} + n", "kind": "'hallmark/certificate/1'"}),
        ("ledger_tile", entries // TILE_WIDTH, {
            "level": "0", "number": "n", "hashes": "decode(repeat('00', 8192), 'hex')",
        }),
        ("ledger_checkpoint", entries // 4, {"size": f"{FIRST} + 4 * n", "note": "repeat('x', 200)"}),
        ("security_event", count // 10, {
            "id": f"{FIRST} + n", "detail": "'{}'", "address": "'192.0.2.1'", "request_id": "'r'",
            "organisation_id": "CASE WHEN n <= 500 THEN 2 WHEN n % 20 = 0 THEN NULL ELSE 1 END",
            "kind": "CASE WHEN n % 100000 = 0 THEN 'rare' ELSE 'sign-in.failed' END",
        }),
        ("idempotency_key", count // 50, {"key": "'key-' || n", "organisation_id": "1", "body": "'{}'"}),
        ("resolution", count // 50, {
            "id": f"{FIRST} + n", "resolution_id": "'resolution-' || n", "scope": "'organisation:1'",
            "organisation_id": "CASE WHEN n <= 500 THEN 2 ELSE 1 END", "grant_id": "NULL",
            "owner_id": "CASE WHEN n <= 500 THEN 2 ELSE 1 END",
            "model_id": "CASE WHEN n <= 500 THEN 9 ELSE 1 + n % 8 END", "alpha": "1e-6",
        }),
    ]  # fmt: skip
    try:
        with engine.begin() as connection, progress("rows", sum(rows for _, rows, _ in steps)) as bar:
            # Foreign keys hold by construction; checking each of them would take an hour.
            connection.exec_driver_sql("SET session_replication_role = replica")
            tables = MetaData()
            tables.reflect(connection)
            _clone_models(connection)
            done = 0
            for name, rows, given in steps:
                _generate(connection, tables.tables[name], rows, given)
                done += rows
                bar.update(done)
            connection.exec_driver_sql(
                "INSERT INTO key_count SELECT model_id, count(*) FROM user_key GROUP BY model_id"
            )
            _end_ledger(connection, TILE_WIDTH * (entries // TILE_WIDTH))
            for name in ("user_key", "download", "security_event", "recipient"):
                connection.exec_driver_sql(f"SELECT setval('{name}_id_seq', max(id)) FROM {name}")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    finally:
        engine.dispose()


def _end_ledger(connection: Connection, size: int) -> None:
    """Cut the ledger off at ``size`` and give it the right edge that the next entry needs."""
    connection.exec_driver_sql(f"UPDATE ledger_head SET size = {size}")
    connection.exec_driver_sql(f"DELETE FROM ledger_entry WHERE index >= {size}")
    connection.exec_driver_sql(f"DELETE FROM ledger_checkpoint WHERE size > {size}")
    connection.exec_driver_sql(f"DELETE FROM ledger_tile WHERE number >= {size // TILE_WIDTH}")
    for level, number in tiles.edge(size):
        filled = (size // TILE_WIDTH**level) % TILE_WIDTH
        connection.exec_driver_sql(
            f"INSERT INTO ledger_tile VALUES ({level}, {number}, decode(repeat('00', {32 * filled}), 'hex'))"
        )


def _clone_models(connection: Connection) -> None:
    """Versions 2 to 8 for the large organisation, one model for the small one."""
    names = [column["name"] for column in _columns(connection, "model")]
    kept = [name for name in names if name not in ("id", "version", "organisation_id", "ledger_index")]
    for number in range(2, 10):
        connection.exec_driver_sql(
            f"INSERT INTO model (id, version, organisation_id, ledger_index, {', '.join(kept)}) "
            f"SELECT {number}, {number}, {2 if number == 9 else 1}, {number}, {', '.join(kept)} "
            "FROM model WHERE id = 1"
        )


def _columns(connection: Connection, table: str) -> list[Any]:
    return list(inspect(connection).get_columns(table))


def _generate(connection: Connection, table: Table, rows: int, given: dict[str, str]) -> None:
    """Rows numbered n = 1 ...; a column that nothing is said of holds something of its type, or nothing."""
    values = {column.name: given.get(column.name, _made_up(column)) for column in table.columns}
    names = ", ".join(f'"{name}"' for name in values)
    made = f"SELECT {', '.join(values.values())} FROM generate_series(1, {rows}) AS n"
    connection.exec_driver_sql(f'INSERT INTO "{table.name}" ({names}) {made}'.replace("%", "%%"))


def _made_up(column: Any) -> str:
    if column.nullable:
        return "NULL"
    if isinstance(column.type, LargeBinary):
        return "sha256(n::text::bytea)"
    if isinstance(column.type, String):
        return "'somebody'"
    return "false" if column.type.python_type is bool else "1700000000"


def requests(home: Home, tokens: dict[str, str]) -> list[Request]:
    """What is asked all day, by an organisation with nearly all keys and by one with few old ones."""
    client = create_app(home).test_client()
    with home.database.read() as session:
        some = session.execute(text("SELECT key_id FROM user_key WHERE model_id = 3 LIMIT 1")).scalar_one()
        small = session.execute(text("SELECT key_id FROM user_key WHERE model_id = 9 LIMIT 1")).scalar_one()
    found = []
    for who, key, model in (("large", some, f"{MODEL}@3"), ("small", small, f"{MODEL}@9")):
        recipient = "r1@example.com" if who == "small" else "r77@example.com"
        for path in (
            "/keys",
            f"/keys?model={model}",
            f"/keys?recipient={recipient}",
            f"/keys/{key.hex()}",
            "/downloads",
            f"/downloads?copy_id=copy-{key.hex()}",
            "/downloads?state=aborted",
            "/recipients",
            "/security-events",
            "/security-events?kind=rare",
            "/resolutions",
            "/models",
        ):
            found.append(Request(f"{who}: {path}", _get(client, tokens[who], path)))
    found.append(Request("large: 100th page of keys", _pages(client, tokens["large"], "/keys", 100)))
    issuer = Issuer.open(home, f"{MODEL}@1", RECIPIENT)
    found.append(Request("issue a key", lambda: issuer.issue(1)))
    found.append(Request("key table of the small model", lambda: _key_table(home), page=False))
    return found


def _get(client: FlaskClient, token: str, path: str) -> Callable[[], object]:
    def run() -> None:
        answer = client.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status} {answer.get_data(as_text=True)[:300]}")

    return run


def _pages(client: FlaskClient, token: str, path: str, number: int) -> Callable[[], object]:
    """The last of ``number`` pages; those before are read now."""
    after = ""
    for _ in range(number - 1):
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.get(f"/api/v1{path}?limit=200{after}", headers=headers)
        after = f"&after={answer.get_json()['next']}"
    return _get(client, token, f"{path}?limit=200{after}")


def _key_table(home: Home) -> None:
    """What a bundle with keys reads of a model: its rows in ledger order, and its copies' digests."""
    with home.database.read() as session:
        model = next(found for found in _models(session) if found.id == 9)
        assert keys.count(session, model) == sum(1 for _ in keys.rows(session, model))
        copies.copy_digests(session, model)


def _models(session: Any) -> Any:
    from registry.generators import service as generators

    return generators.models(session)


def measure(home: Home, request: Request) -> None:
    """Time a request, then explain what it asks; what it writes is rolled back."""
    request.run()
    request.milliseconds = 1000 * statistics.median(seconds(request.run) for _ in range(5))
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|WITH)", statement):
            statements.append((statement, parameters[0] if many else parameters))

    event.listen(home.database.engine, "before_cursor_execute", note)
    try:
        request.run()
    finally:
        event.remove(home.database.engine, "before_cursor_execute", note)
    for statement, parameters in statements:
        request.noted.append(explained(home, statement, parameters))


def explained(home: Home, statement: str, parameters: Any) -> Noted:
    """The plan of one statement as it was really executed."""
    with home.database.engine.connect() as connection:
        found = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
        ).scalar_one()
        connection.rollback()
        (plan,) = json.loads(found) if isinstance(found, str) else found
        large = {
            row[0] for row in connection.exec_driver_sql(
                f"SELECT relname FROM pg_class WHERE reltuples > {LARGE_TABLE_ROWS}"
            )
        }  # fmt: skip
    nodes = list(_nodes(plan["Plan"]))
    scans = [node for node in nodes if "Relation Name" in node]
    return Noted(
        " ".join(statement.split()),
        plan["Execution Time"],
        plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"],
        sum(
            int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
            for node in scans
        ),
        [n["Relation Name"] for n in scans if n["Node Type"] == "Seq Scan" and n["Relation Name"] in large],
        [f"{node['Node Type']} {node.get('Index Name') or node['Relation Name']}" for node in scans],
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@click.command()
@click.option("--quick", is_flag=True, help="A hundred thousand keys.")
@click.option("--keys", "count", type=click.IntRange(10_000), help="How many keys [default: 10 million].")
def main(quick: bool, count: int | None) -> None:
    """Fill a registry and explain what it is asked all day."""
    end_cleanly()
    number = count or (100_000 if quick else 10_000_000)
    with filled_registry(number) as (home, tokens):
        asked = requests(home, tokens)
        for request in asked:
            measure(home, request)
            worst = max(request.noted, key=lambda noted: noted.rows_read)
            buffers, rows = (
                sum(getattr(n, what) for n in request.noted) for what in ("buffers", "rows_read")
            )
            print(
                f"{request.name:44} {request.milliseconds:8.1f} ms {buffers:7} buffers {rows:9} rows  "
                f"{', '.join(worst.nodes)[:110]}",
                flush=True,
            )
    scanned = [f"{r.name}: {n.scanned}" for r in asked for n in r.noted if n.scanned]
    far = [r.name for r in asked if r.page and r.total("rows_read") > PAGE_ROWS]
    for line in (*scanned, *far):
        print(f"reads too much: {line}")
    figures = {
        "keys": float(number),
        "requests": float(len(asked)),
        "whole_tables_read": float(len(scanned)),
        "requests_that_read_too_much": float(len(far)),
        "slowest_request_ms": max(request.milliseconds for request in asked),
    }
    goals = {"whole_tables_read": Goal("<=", 0), "requests_that_read_too_much": Goal("<=", 0)}
    close("queries", figures, goals)


if __name__ == "__main__":
    main()
