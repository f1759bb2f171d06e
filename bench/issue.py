"""What issuing a key costs: milliseconds after start-up, one at a time and in bulk, and bytes stored.

python -m bench.issue [--quick]
"""

from __future__ import annotations

import sqlite3
import statistics
from pathlib import Path

import click

from bench.common import MODEL, RECIPIENT, Goal, close, registered, seconds
from registry.home import Home
from registry.keys.service import Issuer


@click.command()
@click.option("--quick", is_flag=True, help="Fewer keys.")
def main(quick: bool) -> None:
    """Measure issuing on the embedded database."""
    single, bulk = (50, 10_000) if quick else (500, 100_000)
    with registered() as (folder, _commands):
        home = Home.open(folder / "home")
        issuer = Issuer.open(home, MODEL, RECIPIENT)
        issuer.issue(1)
        one = [seconds(lambda: issuer.issue(1)) for _ in range(single)]
        before = _database_bytes(folder / "home")
        together = seconds(lambda: _issue_many(issuer, bulk))
        stored = _database_bytes(folder / "home") - before
        figures = {
            "single_ms_per_key": 1000 * statistics.fmean(one),
            "single_ms_per_key_95th": 1000 * statistics.quantiles(one, n=20)[-1],
            "bulk_keys": float(bulk),
            "bulk_ms_per_key": 1000 * together / bulk,
            "database_bytes_per_key": stored / bulk,
        }
        home.database.close()
    goals = {"single_ms_per_key": Goal("<=", 20.0), "bulk_ms_per_key": Goal("<=", 20.0)}
    close("issue", figures, goals)


def _issue_many(issuer: Issuer, count: int, chunk: int = 10_000) -> None:
    for start in range(0, count, chunk):
        issuer.issue(min(chunk, count - start))


def _database_bytes(home: Path) -> int:
    """Size of the database file once the write-ahead log is folded in."""
    path = home / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


if __name__ == "__main__":
    main()
