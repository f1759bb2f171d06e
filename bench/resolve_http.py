"""Resolving over HTTP on PostgreSQL: latency of one image's readings among a million keys at 50 requests/s.

python -m bench.resolve_http [--quick] [--keys N] [--rate N] [--duration SECONDS] [--workers N]

`registry serve` runs as an operator starts it, rate limits aside. Requests are sent at fixed times, answered
or not, and timed from when they were due. One in ten is of a copy whose key is
among REAL issued ones and must be named; the others are of no copy and must not. All other keys have rows
in the table and no certificate. The PostgreSQL server is found as by bench.serve.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.common import BUILTIN, MODEL, RECIPIENT, Goal, close
from bench.serve import LIMITS, new_database, serving
from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.config import DATABASE_VARIABLE
from registry.demo.commands import Commands
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.progress import progress
from verifier import phi

REAL = 200
REPEATS_OF_A_COPY = 10
CLIENTS = 16
WARM_ROUNDS = 10
QUANTA = 128
BITS_WRONG = 0.1


@click.command()
@click.option("--quick", is_flag=True, help="Fewer keys and requests.")
@click.option("--keys", "count", type=click.IntRange(REAL), default=1_000_000, show_default=True)
@click.option("--rate", type=click.IntRange(1), default=50, show_default=True, help="Requests a second.")
@click.option("--duration", type=click.IntRange(1), default=30, show_default=True, help="Seconds.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
def main(quick: bool, count: int, rate: int, duration: int, workers: int) -> None:
    """Measure resolving over HTTP."""
    if quick:
        count, duration = min(count, 100_000), min(duration, 10)
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as name, new_database() as url:
        os.environ[DATABASE_VARIABLE] = url
        prepared = _prepare(Path(name) / "home", url, count, rate * duration)
        with serving(prepared.commands, "--workers", str(workers)) as port:
            _warm(port, prepared, workers)
            load = Load(port, prepared.token, prepared.bodies, rate)
            load.run()
    for answer in load.wrong[:3]:
        click.echo(f"wrong: {answer}")
    close("resolve_http", load.figures(count), {"p99_ms": Goal("<=", 20.0), "wrong": Goal("<=", 0.0)})


@dataclass(frozen=True)
class Prepared:
    """A registry with its keys, a token and the requests to send, each with the key that it must name."""

    commands: Commands
    token: str
    bodies: list[tuple[bytes, str | None]]


def _prepare(folder: Path, url: str, count: int, requests: int) -> Prepared:
    commands = Commands(folder, **{DATABASE_VARIABLE: url})
    commands.registry("init")
    with (folder / "config.toml").open("a") as file:
        file.write(LIMITS)
    commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
    commands.registry("recipient", "add", RECIPIENT)
    home = Home.open(folder)
    issued = [document["key_id"] for document in keys.Issuer.open(home, MODEL, RECIPIENT).issue(REAL)]
    with home.database.write() as session:
        model = generators.get_model(session, MODEL)
        network = generators.newest_network(session, model).digest.hex()
        _, token = tokens.create(session, model.organisation_id, "bench", Role.AUDITOR)
        _fill(session.connection().connection.driver_connection, model.id, count - REAL)
    bodies = _bodies(home, issued, network, requests)
    home.close()
    return Prepared(commands, token, bodies)


def _fill(connection: Any, model: int, count: int) -> None:
    """Rows of further keys, as the search needs them."""
    columns = (
        "key_id, organisation_id, model_id, recipient_id, redraws, recipient_commitment, commitment, "
        "issued_at, signature, ledger_index"
    )
    with progress("adding keys", count) as bar, connection.cursor() as cursor:
        with cursor.copy(f"COPY user_key ({columns}) FROM STDIN") as copy:
            for number in range(count):
                key_id = os.urandom(phi.KEY_ID_BYTES)
                copy.write_row((key_id, 1, model, 1, 0, bytes(32), bytes(32), 0, bytes(64), 10**9 + number))
                if not number % 10_000:
                    bar.update(number)
        cursor.execute("ANALYZE user_key")


def _bodies(home: Home, issued: list[str], network: str, requests: int) -> list[tuple[bytes, str | None]]:
    rng = np.random.default_rng(0)
    with home.database.read() as session:
        found = [keys.get_key(session, home.identity.registry, key) for key in issued]
    signs = [phi.unpack(keys.derive(home, key)).astype(np.int64) for key in found]
    bodies: list[tuple[bytes, str | None]] = []
    for number in range(requests):
        key = number // REPEATS_OF_A_COPY % REAL if number % REPEATS_OF_A_COPY == 0 else None
        reading = rng.integers(-QUANTA, QUANTA + 1, len(signs[0]))
        if key is not None:
            wrong = rng.random(len(reading)) < BITS_WRONG
            reading = np.abs(reading) * np.where(wrong, -signs[key], signs[key])
        image = {"path": f"{number}.png", "readings": [reading.tolist()]}
        body = {"model": MODEL, "network": network, "images": [image]}
        bodies.append((json.dumps(body).encode(), None if key is None else issued[key]))
    return bodies


def _warm(port: int, prepared: Prepared, workers: int) -> None:
    """Let every worker derive its keys, which takes seconds once: until no answer is slow any more."""
    for _ in range(WARM_ROUNDS):  # repeats cost units
        load = Load(port, prepared.token, prepared.bodies[1:9] * workers, 20)
        load.run()
        if max(load.seconds) < 1:
            return


@dataclass
class Load:
    """Requests at fixed times, and how long their answers took."""

    port: int
    token: str
    bodies: list[tuple[bytes, str | None]]
    rate: int
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Send all of them."""
        due: queue.Queue[tuple[float, int] | None] = queue.Queue()
        threads = [threading.Thread(target=self._client, args=(due,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        started = time.perf_counter()
        for number in range(len(self.bodies)):
            at = started + number / self.rate
            time.sleep(max(0.0, at - time.perf_counter()))
            due.put((at, number))
        for _ in threads:
            due.put(None)
        for thread in threads:
            thread.join()

    def figures(self, keys: int) -> dict[str, float]:
        """Latencies in milliseconds, and how many answers were not what they must be."""
        p50, p95, p99 = 1000 * np.percentile(self.seconds, [50, 95, 99])
        return {
            "keys": float(keys),
            "requests": float(len(self.seconds)),
            "requests_per_second": float(self.rate),
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
            "wrong": float(len(self.wrong)),
        }

    def _client(self, due: queue.Queue[tuple[float, int] | None]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        while (work := due.get()) is not None:
            at, number = work
            body, expected = self.bodies[number]
            connection.request("POST", "/api/v1/resolve", body, headers)
            answer = connection.getresponse()
            found = json.loads(answer.read())
            self.seconds.append(time.perf_counter() - at)
            named = [copy["key_id"] for copy in found.get("copies", [])]
            if answer.status != 200 or named != ([] if expected is None else [expected]):
                self.wrong.append(json.dumps(found))


if __name__ == "__main__":
    main()
