"""Servers of a benchmark's own, to be stopped, killed and frozen: PostgreSQL, S3, Redis, the registry.

    with Postgres(folder) as database, ObjectStore() as store:
        database.stop("immediate"); database.start()
        with store.outage(): ...

Each listens on a free port of this machine and is gone at the end of its block.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

READY_SECONDS = 120


def end_cleanly() -> None:
    """SIGTERM ends the benchmark as Ctrl-C does: with its servers stopped and its disks unmounted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(true: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Wait for ``true()``; ends the benchmark where it does not come."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise SystemExit(f"{what} within {seconds:g} s: not so")
        time.sleep(0.05)


def answers(port: int, path: str = "/") -> bool:
    """Whether an HTTP server answers without a failure."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def frozen(pids: Sequence[int], seconds: float) -> None:
    """Stop processes for a while and let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Process:
    """A server that is started again as it was."""

    def __init__(
        self, command: Sequence[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
    ) -> None:
        self._command, self._ready, self._environment = list(command), ready, environment
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        self.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command,
            env=None if self._environment is None else {**os.environ, **self._environment},
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )
        wait_until(lambda: self._running() and self._ready(), f"{self._command[0]} answers")

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end; with SIGKILL its children end too."""
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        else:
            self._process.send_signal(number)
        self._process.wait(READY_SECONDS)

    def _running(self) -> bool:
        if self._process.poll() is not None:
            self._log.seek(0)
            raise SystemExit(
                f"{self._command} ended with {self._process.returncode}: {self._log.read()[-2000:]}"
            )
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ObjectStore:
    """moto's server, which speaks S3, in a process of its own; it keeps what it holds through an outage."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _STORE, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._said()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Connections are refused during the block."""
        self._tell("stop")
        try:
            yield
        finally:
            self._tell("start")

    def _tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        self._said()

    def _said(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit("the object store does not run: install moto[server]")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


_STORE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
print("started", flush=True)
for line in sys.stdin:
    getattr(server, line.strip())()
    print(line, flush=True)
"""


def redis(port: int) -> Process:
    """A Redis that keeps nothing."""

    def ready() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    return Process(["redis-server", "--port", str(port), "--save", ""], ready)


class Postgres:
    """A cluster in ``folder`` with further ``settings``; run by root it belongs to the user postgres."""

    def __init__(self, folder: Path, settings: Sequence[str] = ("max_wal_size = 64MB",)) -> None:
        self._data, self._log, self.port = folder / "data", folder / "log", free_port()
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian hides it
        self._programs = found[-1] if found else Path(shutil.which("initdb") or "initdb").parent
        self._owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._owner:
            shutil.chown(folder, "postgres")
        trusted = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--wal-segsize=1")
        self._run("initdb", *trusted, "-D", str(self._data))
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\n"
                "min_wal_size = 2MB\nmax_connections = 200\n" + "\n".join(settings) + "\n"
            )
        self.start()

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start the server, also after it died."""
        self._run("pg_ctl", "-w", "-t", "60", "-l", str(self._log), "-D", str(self._data), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast`` with a checkpoint, ``immediate`` as if it had crashed."""
        self._run("pg_ctl", "-w", "-m", mode, "-D", str(self._data), "stop")

    def running(self) -> bool:
        """Whether the server accepts connections."""
        return self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False) == 0

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [*self._owner, str(self._programs / program), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise SystemExit(f"{program} ended with {done.returncode}: {done.stderr.strip()}")
        return done.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop", check=False)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder on a disk of its own that can be filled up; mounting it needs root."""
    folder = Path(f"/tmp/hallmark-disk-{secrets.token_hex(4)}")  # noqa: S108  (a fresh name)
    folder.mkdir(mode=0o755)
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    try:
        subprocess.run(mounted, check=True)
        yield folder
    except subprocess.CalledProcessError:
        raise SystemExit("a small disk cannot be mounted here: run this benchmark as root") from None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, stderr=subprocess.DEVNULL)
        folder.rmdir()


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No byte is free on ``disk`` during the block."""
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        yield
    finally:
        ballast.unlink()
