"""Streaming a large copy over HTTP: its rate beside nginx with the same bytes in a file, memory, resuming.

python -m bench.stream [--quick] [--rounds N]

`registry serve` composes the copy while it sends; nginx sends the archive that the first download left on
disk. Both answer the same client (curl) on loopback, in turn. The copy is of the reference model, whose
template is enlarged to the wanted size. The first delivery is measured apart: before its first byte the
registry computes the copy's digest once.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bench.common import MODEL, RECIPIENT, Goal, close, registered
from bench.serve import serving
from registry.accounts import service as accounts
from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.demo.commands import Commands, json_objects
from registry.home import Home
from registry.verification import verify_ledger

MIB = 1 << 20
FULL_MIB, QUICK_MIB = 2048, 256
CARRIER = "vqvae/diffusion_pytorch_model.safetensors"
BREAKS = 3


@click.command()
@click.option("--quick", is_flag=True, help="A smaller copy, fewer rounds.")
@click.option("--rounds", type=click.IntRange(1), help="Downloads that are timed [default: 5, quick: 3].")
def main(quick: bool, rounds: int | None) -> None:
    """Measure streaming."""
    size, rounds = (QUICK_MIB if quick else FULL_MIB) * MIB, rounds or (3 if quick else 5)
    with registered() as (folder, commands):
        token = _token(folder / "home")
        with serving(commands, "--workers", "1") as port, tempfile.TemporaryDirectory() as name:
            work = Path(name)
            client = Client(port, token)
            client.fetch(_archive(commands))  # what every worker loads once is no cost of a large copy
            _enlarge(folder / "home", size)
            path, kept = _archive(commands), work / "copy.tar"
            with Memory() as memory:
                first = client.fetch(path)
                client.fetch(path, kept)
                resumed = all(client.resumed_digest(path) == _sha256(kept) for _ in range(BREAKS))
                with nginx(work) as static:
                    plain = Client(static, None)
                    pairs = [(client.fetch(path), plain.fetch(f"/{kept.name}")) for _ in range(rounds)]
            ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            copy_mib = kept.stat().st_size / MIB
            figures = {
                "copy_mib": copy_mib,
                "stream_mib_per_s": copy_mib / ours,
                "nginx_mib_per_s": copy_mib / theirs,
                "share_of_nginx": theirs / ours,
                "first_delivery_share_of_nginx": theirs / first,
                "worker_memory_growth_mib": memory.growth / MIB,
                "resumed_digest_equal": float(resumed),
            }
        home = Home.open(folder / "home")
        figures["ledger_entries"] = float(verify_ledger(home).size)
        home.close()
    goals = {
        "share_of_nginx": Goal(">=", 0.5),
        "worker_memory_growth_mib": Goal("<=", 32),
        "resumed_digest_equal": Goal(">=", 1),
    }
    close("stream", figures, goals)


class Client:
    """Downloads from one server on loopback."""

    def __init__(self, port: int, token: str | None) -> None:
        self._port = port
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def fetch(self, path: str, to: Path | None = None) -> float:
        """Seconds of one whole download."""
        command = ["curl", "-sSf", "-o", str(to or os.devnull), "-w", "%{time_total}"]
        for name, value in self._headers.items():
            command += ["-H", f"{name}: {value}"]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{self._port}{path}"], check=True, capture_output=True, text=True
        )
        return float(done.stdout)

    def resumed_digest(self, path: str) -> str:
        """SHA-256 (hex) of a download that breaks off at some byte and is resumed there."""
        digest = hashlib.sha256()
        first = self._ask(path, {})
        length, tag = int(first.headers["Content-Length"]), first.headers["ETag"]
        at = random.randrange(1, length)
        for left in range(at, 0, -MIB):
            digest.update(_exactly(first, min(left, MIB)))
        first.close()
        rest = self._ask(path, {"Range": f"bytes={at}-", "If-Range": tag})
        if rest.status != http.HTTPStatus.PARTIAL_CONTENT:
            raise SystemExit(f"resuming was answered {rest.status}")
        while chunk := rest.read(MIB):
            digest.update(chunk)
        return digest.hexdigest()

    def _ask(self, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        connection.request("GET", path, headers={**self._headers, **headers, "Connection": "close"})
        return connection.getresponse()


class Memory:
    """The most that a process of the server grows by while the block runs, in bytes (resident set)."""

    def __enter__(self) -> Memory:
        self._before = {pid: _resident(pid) for pid in _servers()}
        self.growth, self._stop = 0, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            grown = [_resident(pid) - before for pid, before in self._before.items()]
            self.growth = max(self.growth, *grown)


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """The port of an nginx that serves the files in ``folder`` as an unprivileged user would run it."""
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is not installed; it is what the rate is compared with")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    folder.chmod(0o755)  # started by root, nginx reads files as nobody
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; sendfile on; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    command = ["nginx", "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(folder / "nginx.conf")]
    server = subprocess.Popen(command)
    try:
        time.sleep(1)
        yield port
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)


def _token(home_folder: Path) -> str:
    home = Home.open(home_folder)
    with home.database.write() as session:
        owner = accounts.default_organisation(session).id
        _, secret = tokens.create(session, owner, "bench", Role.ISSUER)
    home.close()
    return secret


def _archive(commands: Commands) -> str:
    """Where the archive of a newly issued copy is."""
    (certificate,) = json_objects(commands.registry("issue", "--model", MODEL, "--to", RECIPIENT))
    return f"/api/v1/copies/{certificate['copy_id']}/archive"


def _enlarge(home_folder: Path, size: int) -> None:
    """Add a tensor of ``size`` bytes to the file of the template that carries the fingerprint."""
    (template,) = (home_folder / "storage" / "templates").iterdir()
    path, larger = template / CARRIER, template / "larger"
    with path.open("rb") as old, larger.open("wb") as new:
        header = json.loads(old.read(struct.unpack("<Q", old.read(8))[0]))
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        header["padding"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        text = json.dumps(header).encode()
        new.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(old, new)
        noise = os.urandom(16 * MIB)
        for _ in range(size // len(noise)):
            new.write(noise)
    larger.replace(path)


def _servers() -> list[int]:
    """The processes below this one that serve."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue

    def below(pid: int) -> list[int]:
        children = [child for child, parent in parents.items() if parent == pid]
        return children + [deeper for child in children for deeper in below(child)]

    return [pid for pid in below(os.getpid()) if b"serve" in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _exactly(response: http.client.HTTPResponse, length: int) -> bytes:
    content = response.read(length)
    if len(content) != length:
        raise SystemExit("a download ended early")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
