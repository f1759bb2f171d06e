"""A server process that is killed in the middle of a download, for real."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.config import HOME_VARIABLE
from registry.copies import deliveries, service
from registry.copies.build import prepare
from registry.home import Home
from registry.keys.service import Issuer, get_key
from registry.verification import verify_ledger
from tests.registry.support import MODEL, RECIPIENT

MIB = 1 << 20


@contextmanager
def served(home: Home) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`registry serve` with one worker process, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [Path(sys.executable).parent / "registry", "serve", "--port", port, "--jobs", 0, "--workers", 1]
    environment = {**os.environ, HOME_VARIABLE: str(home.settings.home)}
    with subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            await_ready(port)
            yield server, port
        finally:
            server.terminate()


def get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={**headers, "Connection": "close"})
    return connection.getresponse()


def await_ready(port: int) -> None:
    for _ in range(600):
        with suppress(OSError, http.client.HTTPException), get(port, "/readyz") as response:
            if response.status == 200:
                return
        time.sleep(0.1)
    pytest.fail("the server does not answer")


def worker_of(server: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def read_until_cut(response: http.client.HTTPResponse) -> bytes:
    """What arrives before the connection breaks."""
    parts = []
    with suppress(OSError, http.client.IncompleteRead):
        while part := response.read1(MIB):
            parts.append(part)
    return b"".join(parts)


def test_a_killed_worker_loses_no_delivery_and_its_download_is_resumed(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (template,) = (sqlite_ready.settings.home / "storage" / "templates").iterdir()
    (template / "padding.bin").write_bytes(os.urandom(64 * MIB))  # more than the sockets buffer
    copy_id = Issuer.open(sqlite_ready, MODEL, RECIPIENT).issue(1)[0]["copy_id"]
    with sqlite_ready.database.write() as session:
        _, token = tokens.create(session, 1, "test", Role.ISSUER)
    with sqlite_ready.database.read() as session:
        key = get_key(session, sqlite_ready.identity.registry, copy_id)
    whole = prepare(sqlite_ready, key).archive
    path = f"/api/v1/copies/{copy_id}/archive"
    with served(sqlite_ready) as (server, port):
        with get(port, path, Authorization=f"Bearer {token}") as response:
            got = response.read(5 * MIB)
            os.kill(worker_of(server), signal.SIGKILL)
            got += read_until_cut(response)
        assert len(got) < whole.size
        with sqlite_ready.database.read() as session:
            (row,) = service.downloads(session)
            assert (row.state, row.ledger_index) == (service.STARTED, None)
        assert verify_ledger(sqlite_ready).size == 2
        await_ready(port)
        with get(port, path, Authorization=f"Bearer {token}", Range=f"bytes={len(got)}-") as response:
            got += response.read()
    assert len(got) == whole.size
    assert hashlib.sha256(got).hexdigest() == whole.sha256(sqlite_ready.storage)
    now = deliveries.unix_now()
    monkeypatch.setattr(deliveries, "unix_now", lambda: now + deliveries.DEAD_SECONDS + 2)
    with sqlite_ready.database.read() as session:
        (row,) = service.downloads(session)
    assert deliveries.settle(sqlite_ready, key, row).state == service.DELIVERED
    assert verify_ledger(sqlite_ready).size == 3
