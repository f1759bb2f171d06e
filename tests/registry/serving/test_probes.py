from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from structlog.testing import capture_logs
from werkzeug.test import Client

from registry.home import Home
from registry.operations import Operations
from registry.sealing import FileMasterKey
from registry.serving import metrics
from registry.serving.probes import Probes
from registry.serving.server import application
from registry.storage import Storage

TOKEN = "sixteen letters!"


def nothing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("418 I'm a teapot", [])
    return [b"application"]


def probes(home: Home, **operations: Any) -> Client:
    return Client(Probes(nothing, home, Operations(**operations)))


def broken(home: Home, **parts: Any) -> Home:
    kept = {name: getattr(home, name) for name in ("settings", "database", "storage", "master")}
    return Home(**{**kept, **parts})


def test_everything_else_goes_to_the_application(sqlite_home: Home) -> None:
    assert probes(sqlite_home).get("/api/v1/models").data == b"application"
    assert probes(sqlite_home).get("/healthz/").data == b"application"


def test_alive(sqlite_home: Home) -> None:
    answer = probes(sqlite_home).get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"alive": True})
    assert probes(sqlite_home).head("/healthz").data == b""
    refused = probes(sqlite_home).post("/healthz")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_ready(home: Home) -> None:
    answer = probes(home).get("/readyz")
    assert answer.status_code == 200
    assert answer.json == {
        "ready": True,
        "checks": {"database": "ok", "schema": "ok", "storage": "ok", "master key": "ok"},
    }


def refused(home: Home) -> set[str]:
    """What /readyz says is not ready; it says nothing more."""
    answer = probes(home).get("/readyz")
    assert answer.status_code == 503
    found = json.loads(answer.data)
    assert found["ready"] is False
    assert set(found["checks"].values()) <= {"ok", "not ready"}
    return {name for name, state in found["checks"].items() if state != "ok"}


def test_a_storage_that_is_gone(sqlite_home: Home) -> None:
    folder = sqlite_home.settings.home / "storage"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file where the folder was")
    assert refused(sqlite_home) == {"storage"}


def test_a_storage_that_is_unreachable(sqlite_home: Home) -> None:
    away = Storage("s3://bucket/prefix", {"endpoint": "http://127.0.0.1:9"})
    assert refused(broken(sqlite_home, storage=away)) == {"storage"}


def test_another_schema(home: Home) -> None:
    with home.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert refused(home) == {"schema"}


def test_another_master_key(sqlite_home: Home) -> None:
    assert refused(broken(sqlite_home, master=FileMasterKey(bytes(32)))) == {"master key"}


def test_metrics_of_this_machine_only(sqlite_home: Home) -> None:
    asked = probes(sqlite_home)
    assert asked.get("/metrics").status_code == 200
    assert asked.get("/metrics", environ_base={"REMOTE_ADDR": "203.0.113.7"}).status_code == 403
    assert asked.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 403


@pytest.mark.parametrize("header", ["", "Bearer", f"Bearer {TOKEN}x", "Bearer \xff", "Basic x"])
def test_metrics_need_their_token(sqlite_home: Home, header: str) -> None:
    asked = probes(sqlite_home, metrics_token=TOKEN)
    assert asked.get("/metrics", headers={"Authorization": header}).status_code == 401
    assert asked.get("/metrics").status_code == 401
    answer = asked.get(
        "/metrics",
        headers={"Authorization": f"Bearer {TOKEN}"},
        environ_base={"REMOTE_ADDR": "203.0.113.7"},
    )
    assert answer.status_code == 200


def test_metrics_without_a_database_are_still_metrics(sqlite_home: Home) -> None:
    with sqlite_home.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE job_line")
        connection.exec_driver_sql("DROP TABLE job")
    text = metrics.exposition(sqlite_home).decode()
    assert "hallmark_database_up 0.0" in text
    assert "hallmark_ledger_entries" not in text


def test_requests_are_counted_by_route_and_no_name_is_in_the_metrics(sqlite_ready: Home) -> None:
    asked = Client(application(sqlite_ready))
    before = text(sqlite_ready)
    asked.get("/api/v1/recipients/ada@example.org", buffered=True)
    asked.get("/api/v1/recipients/bob@example.org", buffered=True)
    asked.get("/nowhere/at/all", buffered=True)
    asked.open("/nowhere", method="BREW", buffered=True)
    after = text(sqlite_ready)
    names = [line.split(" ")[0] for line in after if line not in before]
    assert 'hallmark_http_requests_total{method="GET",route="(none)",status="404"}' in names
    assert 'hallmark_http_requests_total{method="OTHER",route="(none)",status="404"}' in names
    assert not any("example.org" in line or "nowhere" in line for line in after)


def text(home: Home) -> list[str]:
    return metrics.exposition(home).decode().splitlines()


def test_the_address_is_taken_from_as_many_proxies_as_there_are(
    sqlite_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
    for proxies, seen in (("0", "127.0.0.1"), ("1", "203.0.113.7"), ("2", "198.51.100.1")):
        monkeypatch.setenv("HALLMARK_PROXIES", proxies)
        with capture_logs() as lines:
            Client(application(sqlite_home)).get(
                "/api/v1/models",
                headers=claimed,
                environ_base={"REMOTE_ADDR": "127.0.0.1"},
                buffered=True,
            )
        (line,) = [line for line in lines if line["event"] == "request"]
        assert line["client"] == seen
