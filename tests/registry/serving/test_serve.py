"""`registry serve` in processes of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.home import Home
from registry.jobs import service
from registry.jobs.running import file_name
from registry.jobs.service import State
from tests.registry.jobs.support import ORGANISATION, ask
from tests.registry.support import MODEL, RECIPIENT
from tests.servers import free_port, listens, running, wait_for

LARGE = 64 << 20
"""Bytes: far more than the sockets between two processes hold."""


@dataclass
class Served:
    """A server and a token of its registry."""

    port: int
    token: str
    process: subprocess.Popen[bytes]
    log: Path

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = f"http://127.0.0.1:{self.port}{path}"
        return requests.request(method, url, headers=headers, timeout=60, **options)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def served(home: Home, *options: str) -> Iterator[Served]:
    with home.database.write() as session:
        _, token = tokens.create(session, ORGANISATION, "test", Role.ADMIN)
    port, log = free_port(), home.settings.home / "serve.log"
    command = [sys.executable, "-m", "registry.cli", "serve", "--home", str(home.settings.home)]
    command += ["--port", str(port), "--workers", "1", *options]
    with running(command, log, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        found = Served(port, token, process, log)
        wait_for(lambda: process.poll() is not None or listens(port), "listening")
        assert process.poll() is None, log.read_text()
        assert found.request("GET", "/healthz").status_code == 200
        yield found


def large_file(home: Home, tmp_path: Path) -> tuple[str, str]:
    """The path of a large file that a finished job left, and its digest."""
    content = tmp_path / "large"
    content.write_bytes(os.urandom(1 << 20) * (LARGE >> 20))
    job_id = ask(home, "export-bundle")
    claimed = service.claim(home.database, job_id)
    assert claimed is not None
    home.storage.put_file(file_name(job_id, "hallmark.bundle"), content)
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    entry = {"name": "hallmark.bundle", "sha256": digest, "size": LARGE}
    service.finish(home.database, claimed, State.DONE, result={"files": [entry]})
    return f"/api/v1/jobs/{job_id}/files/hallmark.bundle", digest


def test_one_command_serves_and_does_the_jobs(sqlite_ready: Home) -> None:
    with served(sqlite_ready) as server:
        issued = server.request("POST", "/api/v1/keys", json={"model": MODEL, "recipient": RECIPIENT})
        assert issued.status_code == 201
        started = server.request("POST", "/api/v1/jobs", json={"kind": "export-bundle", "arguments": {}})
        path = f"/api/v1/jobs/{started.json()['job_id']}"
        wait_for(lambda: server.request("GET", path).json()["state"] == "done", "the job's end")
        assert server.request("GET", "/readyz").json()["ready"] is True
        names = server.request("GET", "/metrics").text
        assert "hallmark_keys_issued_total 1.0" in names
        assert 'hallmark_jobs{state="done"} 1.0' in names
        processes = server.children()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert psutil.wait_procs(processes, timeout=60)[1] == []
    for line in server.log.read_text().splitlines():
        assert "event" in json.loads(line)


def test_a_download_in_progress_is_finished_after_sigterm(sqlite_ready: Home, tmp_path: Path) -> None:
    path, digest = large_file(sqlite_ready, tmp_path)
    with served(sqlite_ready, "--jobs", "0") as server:
        with server.request("GET", path, stream=True) as answer:
            parts = answer.iter_content(1 << 16)
            found = hashlib.sha256(next(parts))
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "Handling signal: term" in server.log.read_text(), "the end's beginning")
            for part in parts:
                found.update(part)
        assert found.hexdigest() == digest
        assert server.process.wait(60) == 0


def test_a_stream_of_events_ends_by_itself_after_sigterm(sqlite_ready: Home) -> None:
    job_id = ask(sqlite_ready, "export-bundle")
    with served(sqlite_ready, "--jobs", "0") as server:
        url = f"/api/v1/jobs/{job_id}/events?seconds=300"
        with server.request("GET", url, stream=True) as answer:
            lines = answer.iter_lines(chunk_size=1)
            assert next(lines) == b"retry: 1000"
            server.process.send_signal(signal.SIGTERM)
            assert all(isinstance(line, bytes) for line in lines)  # to a proper end: no broken chunk
        assert server.process.wait(60) == 0


def test_nobody_outlives_a_server_that_is_killed(sqlite_ready: Home) -> None:
    with served(sqlite_ready) as server:
        wait_for(lambda: len(server.children()) == 2, "a web worker and a job worker")
        processes = server.children()
        server.process.kill()
        server.process.wait()
        assert psutil.wait_procs(processes, timeout=60)[1] == []


def test_a_job_worker_that_dies_is_replaced(sqlite_ready: Home) -> None:
    def alive(child: psutil.Process) -> bool:
        try:
            return "worker" in child.cmdline()
        except psutil.NoSuchProcess:  # or is a zombie
            return False

    def workers(server: Served) -> set[int]:
        return {child.pid for child in server.children() if alive(child)}

    with served(sqlite_ready) as server:
        wait_for(lambda: len(workers(server)) == 1, "the job worker")
        (first,) = workers(server)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: workers(server) and first not in workers(server), "another one")
        job_id = ask(sqlite_ready, "export-bundle")
        path = f"/api/v1/jobs/{job_id}"
        wait_for(lambda: server.request("GET", path).json()["state"] == "done", "the job's end")


def test_counts_survive_the_web_workers(sqlite_ready: Home) -> None:
    with served(sqlite_ready, "--jobs", "0") as server:
        server.request("GET", "/api/v1/models")
        (first,) = server.children()
        first.terminate()
        wait_for(lambda: not first.is_running() and server.children(), "another worker")
        wait_for(lambda: server.request("GET", "/api/v1/models").ok, "an answer")
        # A request is counted after its last byte, when the client may be asking on already.
        both = 'hallmark_http_requests_total{method="GET",route="/api/v1/models",status="200"} 2.0'
        wait_for(lambda: both in server.request("GET", "/metrics").text, "the count of both requests")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01 not HTTP at all\r\n\r\n",
    ],
)
def test_broken_requests_are_refused_and_the_server_lives(sqlite_server: Served, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", sqlite_server.port), timeout=30) as connection:
        connection.sendall(sent)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == int(head.split()[1])
    assert b"xxxx" not in body
    assert sqlite_server.request("GET", "/healthz").status_code == 200


@pytest.fixture(scope="module")
def sqlite_server(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    import shutil

    home = Home.open(Path(shutil.copytree(ready_sqlite, tmp_path_factory.mktemp("served") / "home")))
    with served(home, "--jobs", "0") as server:
        yield server
    home.close()


def test_what_cannot_be_served_says_so_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "registry.cli", "serve", "--home", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "there is no registry here" in done.stderr


def test_a_port_that_is_taken_ends_the_server(sqlite_home: Home) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = [sys.executable, "-m", "registry.cli", "serve", "--home", str(sqlite_home.settings.home)]
        command += ["--port", str(other.getsockname()[1]), "--jobs", "0"]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "in use" in done.stderr, (done.stderr, time.monotonic() - started)
