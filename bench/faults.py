"""24 faults while others issue, download and revoke over HTTP: nothing acknowledged is ever lost.

python -m bench.faults [--quick] [--only NAME]

The registry is served as in production: PostgreSQL, files in an object store, rate limits in Redis, two
worker processes. Clients issue, download and revoke without a pause; one that gets no answer asks again under
the same idempotency key, and a download goes on where it broke off. After each fault everything must work
again by itself, `registry ledger verify` must pass, and every key, receipt and revocation that a client was
told of must be there, once. Small disks are mounted, which needs root.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import click
from sqlalchemy import create_engine, text

from bench.common import BUILTIN, MODEL, RECIPIENT, Goal, close
from bench.machines import (
    ObjectStore,
    Postgres,
    Process,
    answers,
    children,
    end_cleanly,
    filled,
    free_port,
    frozen,
    redis,
    small_disk,
    wait_until,
)
from registry.demo.commands import Commands, json_objects

BULK_RECIPIENT = "bulk@example.com"
BUCKET = "hallmark"
QUIET = (OSError, http.client.HTTPException)
DATABASE_MEGABYTES = 500


CLOCK = """
import sys, time
from pathlib import Path
file, real = Path(sys.argv.pop(1)), time.time
time.time = lambda: real() + float(file.read_text() or 0)
from registry.cli import main
main()
"""
"""The registry under a clock that a file shifts. (Python's sleep fails now and then under libfaketime.)"""


@dataclass
class Told:
    """What clients were told and must find again: key ids with signatures, downloads, revoked keys."""

    keys: dict[str, str] = field(default_factory=dict)
    downloads: dict[str, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)

    def counts(self) -> tuple[int, int, int]:
        """How much of each."""
        return len(self.keys), len(self.downloads), len(self.revoked)

    def more_than(self, before: tuple[int, int, int]) -> bool:
        """Whether there is more of each now."""
        return all(now > was for now, was in zip(self.counts(), before, strict=True))


class Client(threading.Thread, ABC):
    """Does one kind of thing over and over until it is told to stop; finishes what it has begun."""

    def __init__(self, port: int, token: str, told: Told, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._token, self.told, self._stop_asked = port, token, told, stop
        self.failure: str | None = None

    def run(self) -> None:
        """The thread's work."""
        try:
            while not self._stop_asked.is_set():
                self.step()
        except Exception as error:  # noqa: BLE001  (told by the benchmark)
            self.failure = f"{type(self).__name__}: {type(error).__name__}: {error}"

    @abstractmethod
    def step(self) -> None:
        """One thing."""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Ask until there is an answer that is no failure of the server."""
        given = {"Authorization": f"Bearer {self._token}", **headers}
        content = None if body is None else json.dumps(body)
        if content is not None:
            given["Content-Type"] = "application/json"
        until = time.monotonic() + 120
        while time.monotonic() < until:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                connection.request(method, path, content, given)
                response = connection.getresponse()
                answer = response.read()
                if response.status < 500:
                    return response.status, json.loads(answer)
            except QUIET:
                pass
            finally:
                connection.close()
            time.sleep(0.2)
        raise TimeoutError(f"{method} {path}: no answer")


class IssuingClient(Client):
    """Issues keys."""

    def step(self) -> None:
        key = secrets.token_hex(8)
        asked = {"model": MODEL, "recipient": RECIPIENT}
        status, answer = self.ask("POST", "/api/v1/keys", asked, **{"Idempotency-Key": key})
        if status != 201:
            raise RuntimeError(f"{status} {answer}")
        (certificate,) = answer["certificates"]
        self.told.keys[certificate["key_id"]] = certificate["signature"]


class RevokingClient(Client):
    """Revokes keys that nobody downloads. An answer that got lost is a conflict the second time."""

    def step(self) -> None:
        open_keys = [key for key in list(self.told.keys) if int(key, 16) % 2 and key not in self.told.revoked]
        if not open_keys:
            time.sleep(0.1)
            return
        status, answer = self.ask("POST", f"/api/v1/keys/{open_keys[0]}/revocation", {"reason": "a test"})
        if status not in (201, 409):
            raise RuntimeError(f"{status} {answer}")
        self.told.revoked.add(open_keys[0])
        time.sleep(0.2)


class DownloadingClient(Client):
    """Downloads copies as archives, going on where a connection broke, and fetches their receipts."""

    progress = 0
    """Bytes of the present download that have arrived."""

    def step(self) -> None:
        fresh = [key for key in list(self.told.keys) if not int(key, 16) % 2]
        if not fresh:
            time.sleep(0.1)
            return
        copy = f"copy-{secrets.choice(fresh)}"
        self._fetch(copy)
        newest = self._newest(copy)
        status, answer = self.ask("GET", f"/api/v1/downloads/{newest}/receipt")
        if status != 200:
            raise RuntimeError(f"no receipt of {newest}: {status} {answer}")
        self.told.downloads[newest] = answer["receipt"]["sha256"]

    def _newest(self, copy: str) -> str:
        """The delivery of what was fetched: complete at once, or soon where a response of it was killed."""
        _, page = self.ask("GET", f"/api/v1/downloads?copy_id={copy}&limit=1")
        name: str = page["items"][0]["download_id"]
        until = time.monotonic() + 60
        while time.monotonic() < until:
            _, found = self.ask("GET", f"/api/v1/downloads/{name}")
            if found["state"] == "delivered":
                return name
            time.sleep(0.5)
        raise RuntimeError(f"all of {copy} arrived, and {name} stays {found['state']}: {found}")

    def _fetch(self, copy: str) -> None:
        digest, tag, expected = hashlib.sha256(), "", ""
        self.progress, size, until = 0, -1, time.monotonic() + 180
        while self.progress != size:
            if time.monotonic() > until:
                raise TimeoutError(f"{copy} does not come")
            headers = {"Authorization": f"Bearer {self._token}"}
            if self.progress:
                headers |= {"Range": f"bytes={self.progress}-", "If-Range": tag}
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                connection.request("GET", f"/api/v1/copies/{copy}/archive", headers=headers)
                response = connection.getresponse()
                if response.status not in (200, 206):
                    time.sleep(0.2)
                    continue
                if response.status == 200 and self.progress:
                    raise RuntimeError(f"{copy} is not resumed")
                tag, expected = response.headers["ETag"], response.headers["Repr-Digest"] or expected
                size = self.progress + int(response.headers["Content-Length"])
                while chunk := response.read(1 << 16):
                    digest.update(chunk)
                    self.progress += len(chunk)
            except QUIET:
                time.sleep(0.2)
            finally:
                connection.close()
        if expected and expected != f"sha-256=:{base64.b64encode(digest.digest()).decode()}:":
            raise RuntimeError(f"{copy} has another digest than announced")


@dataclass
class World:
    """The servers, the registry's home and what its clients were told so far."""

    folder: Path
    disk: Path
    commands: Commands
    database: Postgres
    store: ObjectStore
    redis: Process
    server: Process
    clock: Path
    port: int
    token: str
    told: Told = field(default_factory=Told)
    downloader: DownloadingClient = field(init=False)

    def workers(self) -> list[int]:
        """The process ids of the web workers."""
        return children(self.server.pid)

    def half_streamed(self) -> None:
        """Wait until a download is under way."""
        wait_until(lambda: self.downloader.progress > 1 << 20, "a download runs")

    def sql(self, statement: str) -> list[Any]:
        """Rows of a statement, on a connection of its own."""
        engine = create_engine(self.database.url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                result = connection.execute(text(statement))
                return list(result) if result.returns_rows else []
        finally:
            engine.dispose()


@contextmanager
def world() -> Iterator[World]:
    """Everything started, the reference model registered, a recipient for clients, one for bulk issues."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hallmark-faults-")))
        disk = stack.enter_context(small_disk(DATABASE_MEGABYTES))
        cluster = disk / "cluster"
        cluster.mkdir()
        database = stack.enter_context(Postgres(cluster))
        store = stack.enter_context(ObjectStore())
        redis_port, port = free_port(), free_port()
        queue = stack.enter_context(redis(redis_port))
        clock = folder / "clock"
        clock.write_text("0")
        environment = {
            "HALLMARK_DATABASE_URL": database.url,
            "HALLMARK_STORAGE_URL": f"s3://{BUCKET}/registry",
            "HALLMARK_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{store.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106  (moto takes any)
        ).create_bucket(Bucket=BUCKET)
        commands = Commands(folder / "home", **environment)
        commands.registry("init")
        with (folder / "home" / "config.toml").open("a") as config:
            config.write(
                f'\n[limits]\nrequests = "1000000/minute"\nstorage = "redis://127.0.0.1:{redis_port}/1"\n'
            )
        commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
        for email in (RECIPIENT, BULK_RECIPIENT):
            commands.registry("recipient", "add", email)
        (token,) = json_objects(commands.registry("token", "create", "faults", "--role", "admin", "--json"))
        served = [sys.executable, "-c", CLOCK, str(clock), "serve", "--port", str(port), "--jobs", "0"]
        server = stack.enter_context(
            Process(
                [*served, "--workers", "2", "--grace", "5", "--home", str(folder / "home")],
                lambda: answers(port, "/readyz"),
                {**environment, "OMP_NUM_THREADS": "1"},
            )
        )
        yield World(folder, disk, commands, database, store, queue, server, clock, port, str(token["token"]))


def database_restarted(world: World) -> None:
    """An operator restarts the database."""
    world.database.stop("fast")
    world.database.start()


def database_crashed(world: World) -> None:
    """The database dies without a checkpoint."""
    world.database.stop("immediate")
    world.database.start()


def database_away(world: World) -> None:
    """The database is away for five seconds while a copy is streamed."""
    world.half_streamed()
    world.database.stop("immediate")
    time.sleep(5)
    world.database.start()


def database_connections_cut(world: World) -> None:
    """All connections to the database are cut, three times."""
    for _ in range(3):
        world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        time.sleep(1)


def database_process_killed(world: World) -> None:
    """A process of the database is killed in a transaction, which makes all others start over."""
    (row,) = world.sql(
        "SELECT pid FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1"
    )
    os.kill(row.pid, signal.SIGKILL)
    wait_until(world.database.running, "the database runs again")


def database_frozen(world: World) -> None:
    """The database stands still for four seconds."""
    frozen([world.database.pid, *children(world.database.pid)], 4)


def database_disk_full(world: World) -> None:
    """The database's disk is full for eight seconds; where that ends the server, it is started again."""
    with filled(world.disk):
        time.sleep(8)
    if not world.database.running():
        with contextlib.suppress(SystemExit):
            world.database.stop("immediate")
        world.database.start()


def worker_killed_while_issuing(world: World) -> None:
    """One worker process is killed, three times."""
    for _ in range(3):
        os.kill(world.workers()[0], signal.SIGKILL)
        time.sleep(2)


def all_workers_killed(world: World) -> None:
    """All worker processes are killed at once."""
    for pid in world.workers():
        os.kill(pid, signal.SIGKILL)


def server_killed(world: World) -> None:
    """The whole server is killed and started again."""
    world.server.stop(signal.SIGKILL)
    world.server.start()


def server_restarted(world: World) -> None:
    """An operator restarts the server while a copy is streamed."""
    world.half_streamed()
    world.server.stop(signal.SIGTERM)
    world.server.start()


def worker_killed_while_streaming(world: World) -> None:
    """The worker that streams a copy is killed."""
    world.half_streamed()
    for pid in world.workers():
        os.kill(pid, signal.SIGKILL)


def client_gone_while_streaming(world: World) -> None:
    """Ten clients hang up in the middle of a download."""
    key = next(key for key in list(world.told.keys) if not int(key, 16) % 2)
    for _ in range(10):
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=20)
        headers = {"Authorization": f"Bearer {world.token}"}
        connection.request("GET", f"/api/v1/copies/copy-{key}/archive", headers=headers)
        connection.getresponse().read(1 << 16)
        connection.close()


def backup_killed(world: World) -> None:
    """A backup is killed half way; the next one is whole."""
    out = world.folder / "killed.backup"
    process = world.commands.start("registry", "backup", "--out", out)
    partial = f".{out.name}.partial-*"
    wait_until(
        lambda: any(path.stat().st_size > 1 << 20 for path in world.folder.glob(partial)), "a backup runs"
    )
    process.kill()
    process.wait()
    if out.exists():
        raise RuntimeError("half a backup looks like one")
    restored(world, "after-kill")


def backup_disk_full(world: World) -> None:
    """The disk is full while a backup is written."""
    with small_disk(8) as disk:
        expect_failure(world, "room", "backup", "--out", disk / "full.backup")
        if list(disk.iterdir()):
            raise RuntimeError("a failed backup left something")


def bulk_issue_killed(world: World) -> None:
    """A bulk issue on the command line is killed while others issue over HTTP."""
    arguments = ("--model", MODEL, "--to", BULK_RECIPIENT, "--count", "15000")
    process = world.commands.start("registry", "issue", *arguments)
    wait_until(lambda: world.sql(BULK_KEYS)[0][0] > 0, "a part is issued")
    process.kill()
    process.wait()


def download_disk_full(world: World) -> None:
    """The disk is full where the command line downloads a copy to."""
    key = next(key for key in list(world.told.keys) if not int(key, 16) % 2)
    with small_disk(8) as disk:
        expect_failure(world, "space", "download", f"copy-{key}", "--out", disk / "copy")
        if list(disk.iterdir()):
            raise RuntimeError("a failed download left something")


def sqlite_disk_full(_world: World) -> None:
    """The disk of an embedded registry is full while it issues."""
    with small_disk(64) as disk:
        commands = Commands(disk / "home")
        commands.registry("init")
        commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
        commands.registry("recipient", "add", RECIPIENT)
        issue = ("issue", "--model", MODEL, "--to", RECIPIENT)
        (before,) = json_objects(commands.registry(*issue))
        with filled(disk):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "registry.cli",
                    *issue,
                    "--count",
                    "2000",
                    "--home",
                    str(disk / "home"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 2 or "Traceback" in done.stderr:
                raise RuntimeError(f"a full disk ended an issue with {done.returncode}: {done.stderr}")
        (after,) = json_objects(commands.registry(*issue))
        (ledger,) = json_objects(commands.registry("ledger", "verify", "--json"))
        if ledger["size"] != 3 or before["key_id"] == after["key_id"]:
            raise RuntimeError(f"the embedded ledger has {ledger['size']} entries instead of 3")


def store_down(world: World) -> None:
    """The object store refuses connections while a copy is streamed."""
    world.half_streamed()
    with world.store.outage():
        time.sleep(4)


def store_frozen(world: World) -> None:
    """The object store stands still while a copy is streamed."""
    world.half_streamed()
    frozen([world.store.pid], 4)


def store_down_while_storing(world: World) -> None:
    """The object store goes away while a backup reads and a model is added; the second attempt succeeds."""
    name = f"again-{secrets.token_hex(3)}"
    add = ("model", "add", name, "--adapter", "latent-diffusion", "--weights", BUILTIN)
    with world.store.outage():
        expect_failure(world, "object store", *add)
        expect_failure(world, "object store", "backup", "--out", world.folder / f"{name}.backup")
    world.commands.registry(*add)


def redis_killed(world: World) -> None:
    """Redis is killed, and comes back empty after four seconds."""
    world.redis.stop()
    time.sleep(4)
    world.redis.start()


def clock_back(world: World) -> None:
    """The servers' clock steps back by an hour, and later forth again."""
    step(world, -3600)


def clock_forth(world: World) -> None:
    """The servers' clock steps a week ahead, and later back again."""
    step(world, 7 * 86_400)


def write_clock(world: World, seconds: int) -> None:
    """Shift the clock in one rename, as the servers read the file all the time."""
    fresh = world.clock.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(world.clock)


def step(world: World, seconds: int) -> None:
    """Step the clock, let clients work under it, and step back."""
    before = world.told.counts()
    write_clock(world, seconds)
    wait_until(lambda: world.told.more_than(before), "work goes on")
    world.clock.write_text("0")


FAULTS: list[Callable[[World], None]] = [
    worker_killed_while_issuing,
    database_crashed,
    worker_killed_while_streaming,
    backup_killed,
    database_disk_full,
    store_down,
    redis_killed,
    clock_back,
    database_restarted,
    database_away,
    database_connections_cut,
    database_process_killed,
    database_frozen,
    all_workers_killed,
    server_killed,
    server_restarted,
    client_gone_while_streaming,
    backup_disk_full,
    bulk_issue_killed,
    download_disk_full,
    sqlite_disk_full,
    store_frozen,
    store_down_while_storing,
    clock_forth,
]
"""The first third, one of each kind, is the quick run."""


def expect_failure(world: World, said: str, *arguments: str | Path) -> None:
    """A command that must fail with one sentence that a user understands."""
    try:
        world.commands.registry(*arguments)
    except Exception as error:
        if said not in str(error):
            raise RuntimeError(f"`registry {arguments[0]}` said: {error}") from error
        return
    raise RuntimeError(f"`registry {arguments[0]}` succeeded")


def restored(world: World, name: str) -> None:
    """A backup made now is restored on an empty machine, where the ledger is verified."""
    out, home = world.folder / f"{name}.backup", world.folder / name
    world.commands.registry("backup", "--out", out)
    elsewhere = Commands(
        home,
        HALLMARK_DATABASE_URL=f"sqlite:///{world.folder}/{name}.db",
        HALLMARK_STORAGE_URL=str(world.folder / f"{name}-storage"),
    )
    elsewhere.registry("restore", out, "--master-key", world.folder / "home" / "master.key")


def under_load(world: World, fault: Callable[[World], None]) -> float:
    """Seconds that it took until everything worked again after the fault."""
    stop, downloader = threading.Event(), DownloadingClient
    given = (world.port, world.token, world.told, stop)
    world.downloader = downloader(*given)
    clients = [*(IssuingClient(*given) for _ in range(4)), RevokingClient(*given), world.downloader]
    for client in clients:
        client.start()

    def progress_since(before: tuple[int, int, int]) -> bool:
        failed = [client.failure for client in clients if client.failure]
        if failed:
            raise RuntimeError("; ".join(failed))
        return world.told.more_than(before)

    try:
        wait_until(lambda: progress_since((0, 0, 0)), "clients work")
        fault(world)
        healed, before = time.perf_counter(), world.told.counts()
        wait_until(lambda: progress_since(before), "clients work again")
        return time.perf_counter() - healed
    finally:
        stop.set()
        for client in clients:
            client.join(200)
        progress_since((-1, -1, -1))


STORED_KEYS = """
    SELECT encode(key_id, 'hex') AS key, email,
        translate(encode(signature, 'base64'), E'\\n', '') AS signature
    FROM user_key JOIN recipient ON recipient.id = recipient_id"""
STORED_DOWNLOADS = "SELECT download_id, encode(sha256, 'hex') FROM download WHERE state = 'delivered'"
STORED_REVOCATIONS = """
    SELECT encode(key_id, 'hex') FROM key_revocation JOIN user_key ON user_key.id = user_key_id"""
BULK_KEYS = f"SELECT count(*) FROM ({STORED_KEYS}) stored WHERE email = '{BULK_RECIPIENT}'"


def lost(world: World) -> int:
    """How much of what clients were told is not there, or there twice."""
    rows = world.sql(STORED_KEYS)
    stored = {row.key: row.signature for row in rows}
    downloads = dict(map(tuple, world.sql(STORED_DOWNLOADS)))
    revoked = {key for (key,) in world.sql(STORED_REVOCATIONS)}
    missing = [key for key, signature in world.told.keys.items() if stored.get(key) != signature]
    missing += [name for name, digest in world.told.downloads.items() if downloads.get(name) != digest]
    missing += sorted(world.told.revoked - revoked)
    own = {row.key for row in rows if row.email == RECIPIENT}
    twice = sorted(own - world.told.keys.keys())  # a repeat under one idempotency key that issued again
    for what in (*missing, *twice):
        print(f"  {what} is {'lost' if what in missing else 'there and nobody was told'}")
    return len(missing) + len(twice)


@click.command()
@click.option("--quick", is_flag=True, help="Every third fault.")
@click.option("--only", multiple=True, help="The faults whose name contains this; may be repeated.")
def main(quick: bool, only: tuple[str, ...]) -> None:
    """Inject faults one after the other and check the registry after each."""
    end_cleanly()
    chosen = [fault for fault in FAULTS if not only or any(part in fault.__name__ for part in only)]
    if quick:
        chosen = chosen[: len(FAULTS) // 3]
    survived, losses, healing = 0, 0, [0.0]
    with world() as registry:
        for fault in chosen:
            print(f"{fault.__name__}: {fault.__doc__}", flush=True)
            try:
                healing.append(under_load(registry, fault))
                registry.commands.registry("ledger", "verify")
            except Exception as error:  # noqa: BLE001  (a fault that was not survived is a figure)
                print(f"  NOT SURVIVED: {error}")
                continue
            missing = lost(registry)
            losses += missing
            survived += not missing
            counts = "{} keys, {} downloads, {} revocations".format(*registry.told.counts())
            print(f"  works again after {healing[-1]:.1f} s; so far {counts}", flush=True)
    figures = {
        "faults": float(len(chosen)),
        "survived": float(survived),
        "lost_or_twice": float(losses),
        "slowest_recovery_s": max(healing),
    }
    close("faults", figures, {"survived": Goal(">=", len(chosen)), "lost_or_twice": Goal("<=", 0)})


if __name__ == "__main__":
    main()
