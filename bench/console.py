"""The console among a million copies and ten thousand cases on PostgreSQL: server time, first load.

python -m bench.console [--quick] [--copies N]

A registry is filled as for bench/queries.py, with copies issued and delivered over the last sixty days, and
with cases. A person who is signed in then opens every page that the application has, each many times, and the
slowest page's 95th percentile counts. The first load is what a browser fetches with an empty cache to show
the dashboard, its charts included: the page and every file of ours that it can refer to, compressed as sent.
"""

from __future__ import annotations

import gzip
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
from flask.testing import FlaskClient
from sqlalchemy import MetaData, create_engine, text

from bench.common import MODEL, RECIPIENT, Goal, close, seconds
from bench.machines import end_cleanly
from bench.queries import FIRST, _generate, filled_registry
from registry.accounts import people, sessions, tokens
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.console.assets import Assets
from registry.home import Home
from registry.jobs import service as jobs
from registry.keys.service import Issuer

COPIES, CASES = 1_000_000, 10_000
QUICK_COPIES, QUICK_CASES = 100_000, 2_000
VISITS, QUICK_VISITS = 40, 10
P95_MS = 100.0
FIRST_LOAD_KB = 300.0
SPREAD_DAYS = 60

IMAGES_OF_A_CASE = 4


@dataclass(frozen=True)
class Visited:
    """A page, and the milliseconds of each visit."""

    path: str
    milliseconds: list[float]

    @property
    def p95(self) -> float:
        """The 95th percentile."""
        return statistics.quantiles(self.milliseconds, n=20)[-1]


def spread(url: str, copies: int, cases: int) -> None:
    """Copies and deliveries of the last days rather than of long ago; cases with images and notes."""
    engine = create_engine(url)
    now, first = int(time.time()), int(time.time()) - SPREAD_DAYS * 86_400
    step = SPREAD_DAYS * 86_400 / copies
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET session_replication_role = replica")
            for statement in (
                f"UPDATE user_key SET issued_at = {first} + (({step} * (ledger_index - {FIRST}))::bigint)",
                f"UPDATE download SET started_at = {first} + (({step} * 2.5 * (id - {FIRST}))::bigint)",
                f"UPDATE user_key SET expires_at = {now} + 86400 * (id %% 300) WHERE id %% 50 = 0",
            ):
                connection.exec_driver_sql(statement)
            tables = MetaData()
            tables.reflect(connection)
            images = cases * IMAGES_OF_A_CASE
            case = f"{FIRST} + 1 + (n - 1) / {IMAGES_OF_A_CASE}"
            for name, rows, given in (
                ("investigation", cases, {
                    "id": f"{FIRST} + n", "case_id": "'case-' || lpad(to_hex(n), 24, '0')",
                    "organisation_id": "1", "title": "'An image on a market place, number ' || n",
                    "status": "(ARRAY['open', 'disputed', 'closed'])[1 + n % 3]", "alpha": "1e-6",
                    "rounds": "1", "version": "1", "description": "'Found by chance.'",
                    "created_at": f"{first} + n * 500", "changed_at": f"{first} + n * 500",
                }),
                ("case_timestamp", cases, {
                    "id": f"{FIRST} + n", "investigation_id": f"{FIRST} + n",
                    "signature": "sha256(n::text::bytea) || sha256(n::text::bytea)",
                    "ledger_index": f"{10 * copies} + n",
                }),
                ("case_image", images, {
                    "id": f"{FIRST} + n", "image_id": "'image-' || lpad(to_hex(n), 24, '0')",
                    "investigation_id": case, "timestamp_id": case, "name": "'image-' || n || '.png'",
                    "size": "100000", "width": "512", "height": "512", "notes": "'[]'",
                }),
                ("case_note", cases, {
                    "id": f"{FIRST} + n", "note_id": "'note-' || lpad(to_hex(n), 24, '0')",
                    "investigation_id": f"{FIRST} + n", "text": "'Asked the market place.'",
                }),
                ("case_event", images, {
                    "id": f"{FIRST} + n", "investigation_id": case, "kind": "'image.added'", "detail": "'{}'",
                }),
            ):  # fmt: skip
                if name in tables.tables:
                    _generate(connection, tables.tables[name], rows, given)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    finally:
        engine.dispose()


def signed_in(home: Home, client: FlaskClient) -> None:
    """Give the client the session of an administrator of the large organisation."""
    with home.database.write() as session:
        person = people.add_person(session, 1, "bench", Role.ADMIN)
        secret = sessions.start(session, person, complete=True)
        tokens.create(session, 1, "bench", Role.ADMIN)
        jobs.enqueue(session, 1, "train-model", {"model": MODEL})
    client.set_cookie(sessions.COOKIE, secret)


def paths(home: Home, client: FlaskClient) -> list[str]:
    """Every page, with the id of something of the large organisation where it has one; and lists' filters."""
    (document,) = Issuer.open(home, f"{MODEL}@1", RECIPIENT).issue(1)  # and with it a checkpoint that holds
    with home.database.read() as session:
        read: Callable[[str], object] = lambda query: session.execute(text(query)).scalar()  # noqa: E731
        ids: Mapping[str, object] = {
            "model": f"{MODEL}@1",
            "email": "r77@example.com",
            "copy_id": document["copy_id"],
            "download_id": read(
                "SELECT download_id FROM download WHERE id > 5000 AND state = 'aborted' LIMIT 1"
            ),
            "job_id": read("SELECT job_id FROM job LIMIT 1"),
            "first": FIRST + 5_000,
            "last": FIRST + 6_000,
            "index": read("SELECT size - 1 FROM ledger_head"),
            "size": read("SELECT max(size) FROM ledger_checkpoint"),
            "case_id": read("SELECT case_id FROM investigation WHERE id = 5000 OR id = 1500 LIMIT 1"),
        }
    found = []
    for rule in client.application.url_map.iter_rules():
        if not rule.rule.startswith("/console") or "GET" not in (rule.methods or ()):
            continue
        if rule.endpoint in ("console.asset",) or rule.endpoint.startswith("sign_in_pages."):
            continue
        path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", lambda name: str(ids.get(name[1], "<")), rule.rule)
        if path == "/console/administration/people/<":
            path = "/console/administration/people/bench"
        if "<" not in path and not path.endswith((".json", ".jsonl", "/events")):
            found.append(path)
    found += [
        f"/console/copies?model={MODEL}@3",
        "/console/copies?q=r77@example.com",
        f"/console/copies?q=r77@example.com&model={MODEL}@3",
        "/console/copies?state=revoked",
        "/console/copies?state=expiring",
        f"/console/copies?after={FIRST + 5000:016x}",
        "/console/copies/downloads?state=aborted",
        "/console/recipients?q=r123",
        "/console/recipients?q=nobody",
        "/console/administration/security?kind=session.forged",
        "/console/ledger?q=17",
        "/console/ledger/consistency?old=1000",
        "/console/jobs?state=failed",
    ]
    if "case_pages.index" in client.application.view_functions:
        found += ["/console/cases?status=open", "/console/cases?q=market"]
    return found


def visit(client: FlaskClient, path: str, visits: int) -> Visited | None:
    """Open a page some times; ``None`` for what is no page. One that fails is said, and counts as slow."""

    def opened() -> int:
        answer = client.get(path)
        return answer.status_code if answer.mimetype == "text/html" else 0

    status = opened()
    if status not in (0, 200, 302):
        print(f"{path}: {status}", flush=True)
        return Visited(path, [1e6] * visits)
    return Visited(path, [1000 * seconds(opened) for _ in range(visits)]) if status else None


def first_load(client: FlaskClient) -> float:
    """Kilobytes of the dashboard and of everything that it can load, as they are sent."""
    page = client.get("/console").get_data()
    assets = Assets.load()
    named = {name for name in assets.known if name.encode() in page}
    loaded = {name for name in assets.known if name.startswith("chunk-")} | named
    sent = sum(
        len(client.get(f"/console/assets/{name}", headers={"Accept-Encoding": "gzip"}).get_data())
        for name in loaded
        if not name.endswith(".wasm")
    )
    return (sent + len(gzip.compress(page, 6))) / 1000


@click.command()
@click.option("--quick", is_flag=True, help="A hundred thousand copies, two thousand cases.")
@click.option("--copies", type=click.IntRange(10_000), help="How many copies [default: a million].")
def main(quick: bool, copies: int | None) -> None:
    """Fill a registry and open every page of its console."""
    end_cleanly()
    number = copies or (QUICK_COPIES if quick else COPIES)
    cases = QUICK_CASES if quick else CASES
    with filled_registry(number) as (home, _):
        spread(home.database.url.render_as_string(hide_password=False), number, cases)
        with (home.settings.home / "config.toml").open("a") as file:
            file.write('\n[limits]\nrequests = ""\nstrangers = ""\nsign_in = ""\n')
        client = create_app(home).test_client()
        signed_in(home, client)
        asked = paths(home, client)
        cold = 1000 * seconds(lambda: client.get("/console"))
        opened = (visit(client, path, QUICK_VISITS if quick else VISITS) for path in asked)
        visited = [page for page in opened if page is not None]
        load = first_load(client)
    for page in sorted(visited, key=lambda page: -page.p95):
        print(f"{page.path:64} median {statistics.median(page.milliseconds):7.1f} ms  p95 {page.p95:7.1f} ms")
    figures = {
        "copies": float(number),
        "cases": float(cases),
        "pages": float(len(visited)),
        "slowest_page_p95_ms": max(page.p95 for page in visited),
        "median_page_ms": statistics.median(statistics.median(page.milliseconds) for page in visited),
        "dashboard_first_ms": cold,
        "first_load_kb": load,
    }
    goals = {
        "slowest_page_p95_ms": Goal("<=", P95_MS),
        "first_load_kb": Goal("<=", FIRST_LOAD_KB),
    }
    close("console", figures, goals)


if __name__ == "__main__":
    main()
