from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

import pytest

from registry.accounts.permissions import Permission, Role
from registry.api.document import Api
from registry.app import create_app
from registry.home import Home
from registry.jobs import routes, service
from registry.jobs.running import execute
from registry.jobs.service import State
from tests.registry.api.client import Client, client
from tests.registry.jobs.support import ask, job
from tests.registry.support import MODEL

EXPORT = {"kind": "export-bundle", "arguments": {}}


@pytest.fixture
def app(sqlite_ready: Home) -> Api:
    return create_app(sqlite_ready)


@pytest.fixture
def admin(app: Api, sqlite_ready: Home) -> Client:
    return client(app, sqlite_ready)


def started(caller: Client, **body: Any) -> str:
    response = caller.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    return str(response.json["job_id"])  # type: ignore[index]


def events(text: str) -> list[tuple[str, int, Any]]:
    """Name, id and data of each event of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
    return found


def test_a_bundle_is_exported_in_the_background(admin: Client, sqlite_ready: Home) -> None:
    job_id = started(admin, **EXPORT)
    assert admin.get(f"/jobs/{job_id}").json["state"] == "queued"  # type: ignore[index]
    execute(sqlite_ready, job_id, threading.Event())
    found = admin.get(f"/jobs/{job_id}").json
    assert found["state"] == "done"  # type: ignore[index]
    (file,) = found["result"]["files"]  # type: ignore[index]
    response = admin.get(f"/jobs/{job_id}/files/{file['name']}")
    assert response.status_code == 200
    assert hashlib.sha256(response.data).hexdigest() == file["sha256"]
    assert len(response.data) == file["size"] == response.content_length
    assert response.headers["Content-Disposition"] == "attachment; filename=hallmark.bundle"
    assert admin.get(f"/jobs/{job_id}/files/other.bundle").status_code == 404


def test_a_network_is_exported_as_a_zip(admin: Client, sqlite_ready: Home) -> None:
    job_id = started(admin, kind="export-model", arguments={"model": MODEL})
    execute(sqlite_ready, job_id, threading.Event())
    response = admin.get(f"/jobs/{job_id}/files/network.zip")
    assert response.data.startswith(b"PK")


def test_what_does_not_work_says_why(admin: Client, sqlite_ready: Home) -> None:
    job_id = started(admin, kind="study-model", arguments={"model": MODEL, "bits": "7"})
    execute(sqlite_ready, job_id, threading.Event())
    found = admin.get(f"/jobs/{job_id}").json
    assert found["state"] == "failed"  # type: ignore[index]
    assert found["error"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "export-model", "arguments": {"model": "nothing"}}, 404),
        ({"kind": "count", "arguments": {"file": "/etc/x", "to": 1}}, 422),
        ({"kind": "export-bundle"}, 422),
        ({"kind": "export-bundle", "arguments": {"with_keys": True}}, 422),
        ({"kind": "train-model", "arguments": {"model": MODEL, "steps": 0}}, 422),
        ({"kind": "study-model", "arguments": {"model": MODEL, "bits": "$(id)"}}, 422),
        ([], 422),
    ],
)
def test_bad_jobs_are_refused(admin: Client, body: Any, status: int) -> None:
    response = admin.post("/jobs", json=body)
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    assert admin.get("/jobs").json["items"] == []  # type: ignore[index]


def test_a_repeated_request_starts_one_job(admin: Client) -> None:
    first, second = (admin.post("/jobs", json=EXPORT, headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json == second.json
    assert len(admin.get("/jobs").json["items"]) == 1  # type: ignore[index]


def test_pages_and_states(admin: Client, sqlite_ready: Home) -> None:
    asked = [ask(sqlite_ready, "count", file="x", to=1) for _ in range(5)]
    with sqlite_ready.database.write() as session:
        service.cancel(session, service.get_job(session, asked[0]))
    seen, after = [], ""
    while True:
        page = admin.get(f"/jobs?limit=2{after}").json
        seen += [entry["job_id"] for entry in page["items"]]  # type: ignore[index]
        if page["next"] is None:  # type: ignore[index]
            break
        after = f"&after={page['next']}"  # type: ignore[index]
    assert seen == asked[::-1]
    found = admin.get("/jobs?state=cancelled").json["items"]  # type: ignore[index]
    assert [entry["job_id"] for entry in found] == [asked[0]]
    assert admin.get("/jobs?state=lost").status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("GET", "/logs"),
        ("GET", "/events?seconds=1"),
        ("GET", "/files/hallmark.bundle"),
    ],
)
def test_another_organisation_sees_nothing(
    app: Api, admin: Client, sqlite_ready: Home, method: str, path: str
) -> None:
    job_id = started(admin, **EXPORT)
    execute(sqlite_ready, job_id, threading.Event())
    stranger = client(app, sqlite_ready, organisation="other")
    response = stranger.request(method, f"/jobs/{job_id}{path}")
    assert response.status_code == 404
    unknown = stranger.request(method, f"/jobs/job-{'0' * 24}{path}")
    assert response.json["detail"].replace(job_id, "") == unknown.json["detail"].replace(  # type: ignore[index]
        "job-" + "0" * 24, ""
    )
    assert stranger.get("/jobs").json["items"] == []  # type: ignore[index]


def test_a_job_needs_the_permission_of_what_it_does(app: Api, admin: Client, sqlite_ready: Home) -> None:
    viewer = client(app, sqlite_ready, Role.VIEWER)
    assert viewer.post("/jobs", json=EXPORT).status_code == 403
    narrow = client(app, sqlite_ready, scopes=(Permission.RUN_JOBS, Permission.READ_JOBS))
    assert narrow.post("/jobs", json=EXPORT).status_code == 403
    job_id = started(admin, **EXPORT)
    execute(sqlite_ready, job_id, threading.Event())
    assert viewer.get(f"/jobs/{job_id}").status_code == 200
    assert viewer.get(f"/jobs/{job_id}/files/hallmark.bundle").status_code == 403
    assert viewer.post(f"/jobs/{job_id}/retry").status_code == 403


def test_cancel_and_retry(admin: Client, sqlite_ready: Home) -> None:
    job_id = started(admin, **EXPORT)
    assert admin.post(f"/jobs/{job_id}/retry").status_code == 409
    assert admin.post(f"/jobs/{job_id}/cancel").json["state"] == "cancelled"  # type: ignore[index]
    assert admin.post(f"/jobs/{job_id}/cancel").status_code == 409
    assert admin.post(f"/jobs/{job_id}/retry").json["state"] == "queued"  # type: ignore[index]
    execute(sqlite_ready, job_id, threading.Event())
    assert job(sqlite_ready, job_id).state == State.DONE
    assert admin.post(f"/jobs/{job_id}/retry").status_code == 409


def test_logs_in_parts(admin: Client, sqlite_ready: Home) -> None:
    job_id = started(admin, **EXPORT)
    execute(sqlite_ready, job_id, threading.Event())
    whole = admin.get(f"/jobs/{job_id}/logs").json["lines"]  # type: ignore[index]
    assert (whole[0]["text"], whole[-1]["text"]) == ("attempt 1 begins", "done")
    first = admin.get(f"/jobs/{job_id}/logs?limit=1").json["lines"]  # type: ignore[index]
    rest = admin.get(f"/jobs/{job_id}/logs?after={first[0]['number']}").json["lines"]  # type: ignore[index]
    assert first + rest == whole


def test_a_stream_tells_everything_once_and_goes_on_where_it_broke_off(
    admin: Client, sqlite_ready: Home
) -> None:
    job_id = started(admin, **EXPORT)
    begun = events(admin.get(f"/jobs/{job_id}/events?seconds=1").text)
    assert [name for name, _, _ in begun] == ["progress"]
    execute(sqlite_ready, job_id, threading.Event())
    whole = events(admin.get(f"/jobs/{job_id}/events?seconds=5").text)
    assert [name for name, _, _ in whole] == ["log"] * (len(whole) - 1) + ["end"]
    assert whole[-1][2]["state"] == "done"
    again = admin.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(whole[0][1])})
    assert events(again.text) == whole[1:]
    over = admin.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(whole[-1][1])})
    assert over.status_code == 204
    assert admin.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_a_stream_follows_a_job_that_runs(admin: Client, sqlite_ready: Home) -> None:
    job_id = started(admin, **EXPORT)
    stream = admin.get(f"/jobs/{job_id}/events?seconds=60", buffered=False)
    parts = iter(stream.response)
    said = str(next(parts)) + str(next(parts))  # it has begun
    execute(sqlite_ready, job_id, threading.Event())
    said += "".join(part.decode() if isinstance(part, bytes) else part for part in parts)
    stream.close()
    assert events(said.split("\n\n", 2)[2])[-1][0] == "end"


def test_streams_are_counted(admin: Client, sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_streams", threading.BoundedSemaphore(1))
    job_id = started(admin, **EXPORT)
    open_stream = admin.get(f"/jobs/{job_id}/events", buffered=False)
    refused = admin.get(f"/jobs/{job_id}/events")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    open_stream.close()
    assert admin.get(f"/jobs/{job_id}/events?seconds=1").status_code == 200
