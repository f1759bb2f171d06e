"""/healthz, /readyz and /metrics, before everything else: they answer whatever the application does.

    application = Probes(app.wsgi_app, home, operations)

`/healthz` says that this process lives; `/readyz` what it stands on and lacks, by name and without detail;
`/metrics` is for the bearer of its token, or without one for this machine only, and never through a proxy.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import structlog

from registry.db import REVISION
from registry.home import Home
from registry.identity import Identity, registry_keys
from registry.operations import Operations
from registry.serving import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

READY_SECONDS = 2.0
"""How long an answer of /readyz stands: strangers may ask it, and it costs a write to the storage."""
PROBE = "probes/ready"
LOCAL = ("127.0.0.1", "::1", "")
"""Addresses of this machine; the last is a UNIX socket's."""
FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")

log = structlog.get_logger(__name__)


class Probes:
    """WSGI middleware."""

    def __init__(self, application: WSGIApplication, home: Home, operations: Operations) -> None:
        self._application, self._home, self._operations = application, home, operations
        self._lock, self._checked = threading.Lock(), -READY_SECONDS
        self._checks: dict[str, bool] = {}
        self._answers: dict[str, Callable[[WSGIEnvironment], tuple[str, str, bytes]]] = {
            "/healthz": lambda _: ("200 OK", "application/json", b'{"alive": true}\n'),
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._answers.get(environ.get("PATH_INFO", ""))
        if answer is None:
            return self._application(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain", b"GET or HEAD\n"
        else:
            status, kind, body = answer(environ)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        if status.startswith("405"):
            headers.append(("Allow", "GET, HEAD"))
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _readyz(self, _: WSGIEnvironment) -> tuple[str, str, bytes]:
        with self._lock:
            if time.monotonic() - self._checked >= READY_SECONDS:
                self._checks, self._checked = readiness(self._home), time.monotonic()
            checks = self._checks
        ready = all(checks.values())
        named = {name: "ok" if good else "not ready" for name, good in checks.items()}
        body = json.dumps({"ready": ready, "checks": named}).encode() + b"\n"
        return "200 OK" if ready else "503 Service Unavailable", "application/json", body

    def _metrics(self, environ: WSGIEnvironment) -> tuple[str, str, bytes]:
        token = self._operations.metrics_token
        if token is not None:
            given = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("latin-1"), token.encode()):
                return "401 Unauthorized", "text/plain", b"this needs the token of /metrics\n"
        elif environ.get("REMOTE_ADDR", "") not in LOCAL or any(name in environ for name in FORWARDED):
            return "403 Forbidden", "text/plain", b"without a token only this machine may ask\n"
        return "200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics.exposition(self._home)


def readiness(home: Home) -> dict[str, bool]:
    """What a request needs, and whether it is there; why it is not goes to the log only."""
    checks = {
        "database": lambda: _database(home),
        "schema": lambda: _schema(home),
        "storage": lambda: _storage(home),
        "master key": lambda: _master_key(home),
    }
    return {name: _holds(name, check) for name, check in checks.items()}


def _holds(name: str, check: Callable[[], Any]) -> bool:
    try:
        check()
    except Exception as error:  # noqa: BLE001  (whatever is wrong, it is not ready)
        log.warning("not ready", check=name, error=str(error), kind=type(error).__name__)
        return False
    return True


def _database(home: Home) -> None:
    with home.database.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1").scalar_one()


def _schema(home: Home) -> None:
    found = home.database.revision()
    if found != REVISION:
        raise RuntimeError(f"schema revision {found}, not {REVISION}")


def _storage(home: Home) -> None:
    written = secrets.token_bytes(16)
    home.storage.put_bytes(PROBE, written)
    if len(home.storage.read(PROBE)) != len(written):
        raise RuntimeError("what was written is not there")


def _master_key(home: Home) -> None:
    with home.database.read() as session:
        Identity.load(session, registry_keys(home.settings, home.master))
