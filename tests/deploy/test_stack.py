"""The registry as deploy/ runs it, without containers: systemd's sockets and command lines, nginx,
PostgreSQL, Redis, the server and the worker, each a process of its own on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.config import DATABASE_VARIABLE
from registry.home import Home
from registry.operations import METRICS_VARIABLE, PROXIES_VARIABLE, REDIS_VARIABLE
from tests.deploy.files import INSTALLED, SCRIPTS, nginx_configuration, unit
from tests.registry.support import MODEL, RECIPIENT, TinyModel, postgres_database, register
from tests.servers import free_port, listens, program, redis_server, running, wait_for

METRICS_TOKEN = "metrics-token-of-this-test"


@dataclass
class Stack:
    """A running deployment."""

    folder: Path
    https: int
    http: int
    inside: int
    token: str
    server: subprocess.Popen[bytes]

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """A request through nginx, with the token unless other headers are given."""
        options.setdefault("headers", {"Authorization": f"Bearer {self.token}"})
        options.setdefault("timeout", 60)
        url = f"https://127.0.0.1:{self.https}{path}"
        return requests.request(method, url, verify=self.folder / "tls" / "fullchain.pem", **options)

    def logs(self) -> str:
        """Everything that anything has logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


def started(name: str) -> list[str]:
    """The command line of a systemd service, with this environment's `registry`."""
    (line,) = unit(name)["ExecStart"]
    return shlex.split(line.replace(INSTALLED, str(SCRIPTS)))


@pytest.fixture(scope="module")
def stack(postgres_server: str, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        settings = {
            DATABASE_VARIABLE: stack.enter_context(postgres_database(postgres_server)),
            REDIS_VARIABLE: stack.enter_context(redis_server(folder)),
            PROXIES_VARIABLE: "1",
            METRICS_VARIABLE: METRICS_TOKEN,
            "HALLMARK_HOME": str(folder / "home"),
            "HALLMARK_LOG_FORMAT": "json",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        Home.create(folder / "home")
        home = Home.open(folder / "home")
        register(home, tiny)
        with home.database.write() as session:
            _, token = tokens.create(session, 1, "stack", Role.ADMIN)
        home.close()

        http, https, inside = free_port(), free_port(), free_port()
        socket = folder / "registry.sock"
        # systemd hands the sockets of hallmark-registry.socket over in their order.
        listened = unit("hallmark-registry.socket")["ListenStream"]
        assert listened == ["/run/hallmark/registry.sock", "127.0.0.1:8080"]
        activate = [program("systemd-socket-activate", "systemd")]
        activate += ["--listen", str(socket), "--listen", f"127.0.0.1:{inside}"]
        for name in settings:
            activate += ["--setenv", name]
        activate += started("hallmark-registry.service")
        server = stack.enter_context(running(activate, folder / "server.log", env=os.environ))
        work = started("hallmark-worker.service")
        stack.enter_context(running(work, folder / "worker.log", env=os.environ))
        wait_for(socket.exists, "the sockets")
        configuration = nginx_configuration(folder, http, https, socket)
        command = [program("nginx", "nginx"), "-c", str(configuration), "-p", str(folder)]
        stack.enter_context(running(command, folder / "nginx-start.log"))
        wait_for(lambda: listens(https), "the start of nginx")
        found = Stack(folder, https, http, inside, token, server)
        wait_for(lambda: found.request("GET", "/healthz").status_code == 200, "the first answer")
        yield found


def issued(stack: Stack) -> dict[str, Any]:
    response = stack.request("POST", "/api/v1/keys", json={"model": MODEL, "recipient": RECIPIENT})
    assert response.status_code == 201, response.text
    certificate: dict[str, Any] = response.json()["certificates"][0]
    return certificate


def test_a_key_is_issued_and_its_copy_downloaded_in_pieces(stack: Stack) -> None:
    copy = issued(stack)["copy_id"]
    path = f"/api/v1/copies/{copy}/archive"
    whole = stack.request("GET", path)
    assert whole.status_code == 200
    size = len(whole.content)
    assert size == int(whole.headers["Content-Length"]) > 10_000
    parts = []
    for start in range(0, size, size // 3 + 1):
        headers = {"Authorization": f"Bearer {stack.token}", "Range": f"bytes={start}-{start + size // 3}"}
        part = stack.request("GET", path, headers=headers)
        assert part.status_code == 206
        parts.append(part.content)
    assert b"".join(parts) == whole.content
    shown = stack.request("GET", f"/api/v1/copies/{copy}").json()
    assert shown["first_delivered_at"] is not None


def test_a_job_is_done_by_the_worker_and_followed_through_nginx(stack: Stack) -> None:
    response = stack.request("POST", "/api/v1/jobs", json={"kind": "export-bundle", "arguments": {}})
    assert response.status_code == 202, response.text
    path = f"/api/v1/jobs/{response.json()['job_id']}"
    with stack.request("GET", f"{path}/events?seconds=60", stream=True) as stream:
        lines = stream.iter_lines(chunk_size=1, decode_unicode=True)
        assert next(lines) == "retry: 1000"  # at once, not when a buffer is full
        last = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-1]
    assert last["state"] == "done", last
    (file,) = last["result"]["files"]
    content = stack.request("GET", f"{path}/files/{file['name']}").content
    assert hashlib.sha256(content).hexdigest() == file["sha256"]


def test_strangers_reach_neither_metrics_nor_details(stack: Stack) -> None:
    for path in ("/metrics", "/readyz"):
        assert stack.request("GET", path).status_code == 404
    inside = f"http://127.0.0.1:{stack.inside}"
    assert requests.get(f"{inside}/metrics", timeout=30).status_code == 401
    issued(stack)
    answer = requests.get(
        f"{inside}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}, timeout=30
    )
    assert answer.status_code == 200
    figures = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(figures["hallmark_keys_issued_total"]) >= 1
    assert float(figures["hallmark_ledger_entries"]) >= 2
    assert (
        float(figures['hallmark_http_requests_total{method="POST",route="/api/v1/keys",status="201"}']) >= 1
    )
    ready = requests.get(f"{inside}/readyz", timeout=30)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_tls_is_forced_and_answers_are_protected(stack: Stack) -> None:
    plain = requests.get(f"http://127.0.0.1:{stack.http}/healthz", allow_redirects=False, timeout=30)
    assert plain.status_code == 301
    assert plain.headers["Location"].startswith("https://")
    for path in ("/healthz", "/api/v1/models", "/nowhere"):
        headers = stack.request("GET", path).headers
        assert headers["Strict-Transport-Security"].startswith("max-age=")
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] == "nginx"


def test_what_nginx_refuses_is_a_problem_document_too(stack: Stack) -> None:
    refused = [
        (413, stack.request("POST", "/api/v1/keys", data=b"x" * (3 << 20))),
        (404, stack.request("GET", "/metrics")),
        (400, stack.request("GET", "/api/v1/models/%00")),
    ]
    for status, answer in refused:
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
        assert answer.json()["status"] == status
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_what_a_client_claims_about_its_address_is_not_believed(stack: Stack) -> None:
    claims = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7"}
    stack.request("GET", "/api/v1/models", headers=claims)
    wait_for(lambda: '"route": "/api/v1/models"' in stack.logs(), "the line of the request")
    assert "203.0.113.7" not in stack.logs()


def test_one_request_id_from_nginx_to_the_log(stack: Stack) -> None:
    given = stack.request("GET", "/api/v1/models").headers["X-Request-Id"]
    wait_for(lambda: stack.logs().count(given) >= 2, "the request in both logs")


def test_no_secret_is_in_any_log(stack: Stack) -> None:
    copy = issued(stack)["copy_id"]
    link = stack.request("POST", f"/api/v1/copies/{copy}/links", json={})
    assert link.status_code == 201, link.text
    path = "/d/" + link.json()["url"].split("/d/")[1]
    assert stack.request("GET", path, headers={}).status_code == 200
    assert stack.request("GET", path + "/archive", headers={}).status_code == 200
    stack.request("GET", "/api/v1/models", headers={"Authorization": f"Bearer {stack.token}x"})
    stack.request("GET", f"/nowhere?token={stack.token}", headers={"Cookie": "session=s3cr3t"})
    wait_for(lambda: '"path":"/nowhere"' in stack.logs(), "the last request in the log")
    logs = stack.logs()
    for secret in (stack.token, path, path[3:], "s3cr3t", METRICS_TOKEN):
        assert secret not in logs
    assert '"path":"/d/-"' in logs


def test_the_server_ends_without_an_error(stack: Stack) -> None:
    """The last test of this stack; what a graceful end is, tests/registry/serving says."""
    stack.server.send_signal(signal.SIGTERM)
    assert stack.server.wait(60) == 0
    assert "Traceback" not in (stack.folder / "server.log").read_text()
    gone = stack.request("GET", "/api/v1/models")
    assert (gone.status_code, gone.json()["type"]) == (502, "urn:hallmark:problem:unavailable")
    assert gone.headers["Retry-After"] == "2"
