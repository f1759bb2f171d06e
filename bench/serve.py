"""Issuing over HTTP on PostgreSQL: keys a second with 16 clients, and a ledger without gap or duplicate.

python -m bench.serve [--quick] [--keys N] [--clients N] [--workers N] [--threads N]

`registry serve` runs as an operator starts it, rate limits aside. Every client issues one key after another
for the reference model, each request under an idempotency key of its own; every tenth is sent twice. What
was acknowledged is then compared with the ledger, which is verified as a whole. The PostgreSQL server is the
one that HALLMARK_TEST_POSTGRES names, else the one on this machine.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from sqlalchemy import create_engine, make_url, text

from bench.common import BUILTIN, MODEL, RECIPIENT, Goal, close
from bench.machines import free_port
from registry.config import DATABASE_VARIABLE
from registry.demo.commands import Commands, json_objects
from registry.progress import progress

POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
REPEAT_EVERY = 10
LIMITS = '\n[limits]\nrequests = ""\nstrangers = ""\n'


@contextmanager
def new_database() -> Iterator[str]:
    """URL of an empty PostgreSQL database that the end of the block drops."""
    server = os.environ.get("HALLMARK_TEST_POSTGRES", POSTGRES)
    name = f"hallmark_bench_{secrets.token_hex(4)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


@contextmanager
def serving(commands: Commands, *options: str) -> Iterator[int]:
    """The port of a served registry; the server is stopped at the end of the block."""
    port = free_port()
    server = commands.start("registry", "serve", "--port", str(port), "--jobs", "0", *options)
    try:
        _await_ready(server, port)
        yield port
    finally:
        if server.poll() is None:  # else it ended by itself, which was said already
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def _await_ready(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"registry serve ended with {server.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("registry serve does not answer")


@dataclass
class Load:
    """Clients that share out a number of keys, and what they were told."""

    port: int
    token: str
    keys: int
    name: str
    seconds: list[float] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def run(self, clients: int) -> float:
        """Issue all keys; wall-clock seconds."""
        self._lock, self._taken = threading.Lock(), 0
        threads = [threading.Thread(target=self._client) for _ in range(clients)]
        started = time.perf_counter()
        with progress("issuing over HTTP", self.keys) as bar:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.2)
                bar.update(len(self.acknowledged))
        return time.perf_counter() - started

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        own: list[float] = []
        while (number := self._take()) is not None:
            key = f"{self.name}-{number}"
            started = time.perf_counter()
            first = self._issue(connection, key)
            own.append(time.perf_counter() - started)
            if number % REPEAT_EVERY == 0 and self._issue(connection, key) != first:
                self.failures.append(f"{key}: its repeat was answered otherwise")
        with self._lock:
            self.seconds += own

    def _take(self) -> int | None:
        with self._lock:
            if self._taken == self.keys or self.failures:
                return None
            self._taken += 1
            return self._taken

    def _issue(self, connection: http.client.HTTPConnection, key: str) -> bytes:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        connection.request(
            "POST", "/api/v1/keys", json.dumps({"model": MODEL, "recipient": RECIPIENT}), headers
        )
        response = connection.getresponse()
        body = response.read()
        if response.status != 201:
            self.failures.append(f"{key}: {response.status} {body[:200]!r}")
        else:
            self.acknowledged.add(json.loads(body)["certificates"][0]["key_id"])
        return body


@click.command()
@click.option("--quick", is_flag=True, help="Fewer keys.")
@click.option("--keys", type=click.IntRange(100), help="Keys to issue [default: 100000; quick 2000].")
@click.option("--clients", default=16, show_default=True, help="Requests at a time.")
@click.option("--workers", default=2, show_default=True, help="Server processes.")
@click.option("--threads", default=8, show_default=True, help="Requests at a time in each.")
def main(quick: bool, keys: int | None, clients: int, workers: int, threads: int) -> None:
    """Measure issuing over HTTP."""
    wanted = keys or (2_000 if quick else 100_000)
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as folder, new_database() as url:
        commands = Commands(Path(folder) / "home", **{DATABASE_VARIABLE: url})
        commands.registry("init")
        config = Path(folder) / "home" / "config.toml"
        config.write_text(config.read_text() + LIMITS)
        commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
        commands.registry("recipient", "add", RECIPIENT)
        made = commands.registry("token", "create", "bench", "--role", "issuer", "--json")
        (token,) = json_objects(made)
        with serving(commands, "--workers", str(workers), "--threads", str(threads)) as port:
            Load(port, token["token"], 4 * clients, "warm-up").run(clients)
            load = Load(port, token["token"], wanted, "order")
            took = load.run(clients)
        if load.failures:
            raise SystemExit("\n".join(load.failures[:5]))
        engine = create_engine(url)
        with engine.connect() as connection:
            stored = set(connection.execute(text("SELECT encode(key_id, 'hex') FROM user_key")).scalars())
            entries = connection.execute(text("SELECT count(*), max(index) + 1 FROM ledger_entry")).one()
        engine.dispose()
        commands.registry("ledger", "verify")
    figures = {
        "keys": float(wanted),
        "keys_per_second": wanted / took,
        "p50_ms": 1000 * statistics.median(load.seconds),
        "p99_ms": 1000 * statistics.quantiles(load.seconds, n=100)[98],
        "lost_keys": float(len(load.acknowledged - stored)),
        "unacknowledged_keys": float(len(stored) - len(load.acknowledged) - 4 * clients),
        "gaps_in_ledger": float(entries[1] - entries[0]),
    }
    goals = {
        "keys_per_second": Goal(">=", 300.0),
        "p99_ms": Goal("<=", 150.0),
        "lost_keys": Goal("<=", 0.0),
        "unacknowledged_keys": Goal("<=", 0.0),
        "gaps_in_ledger": Goal("<=", 0.0),
    }
    close("serve", figures, goals)


if __name__ == "__main__":
    main()
