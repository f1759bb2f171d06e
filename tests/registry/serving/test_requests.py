from __future__ import annotations

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from registry.accounts.permissions import Role
from registry.app import create_app
from registry.home import Home
from tests.registry.api.client import client


def requests(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "request"]


def test_a_line_for_every_request(sqlite_home: Home) -> None:
    asked = client(create_app(sqlite_home), sqlite_home, Role.VIEWER)
    with capture_logs() as lines:
        answer = asked.get(
            "/keys/copy-000000000000000000000000", headers={"X-Request-Id": "mine"}, buffered=True
        )
    (line,) = requests(lines)
    assert line["request_id"] == answer.headers["X-Request-Id"] == "mine"
    assert (line["method"], line["route"], line["status"]) == ("GET", "/api/v1/keys/<key_id>", 404)
    assert line["sent"] == len(answer.data)
    assert line["principal"].startswith("token ")
    assert line["organisation"] == 1
    assert line["milliseconds"] >= 0
    assert "aborted" not in line


@pytest.mark.parametrize(
    "path",
    ["/recipients/ada@example.org", "/keys?recipient=ada@example.org", "/nowhere/ada@example.org"],
)
def test_no_path_is_logged_as_it_was_sent(sqlite_home: Home, path: str) -> None:
    asked = client(create_app(sqlite_home), sqlite_home)
    with capture_logs() as lines:
        asked.get(path, buffered=True)
    assert len(requests(lines)) == 1
    assert "ada@" not in str(lines)


def test_strangers_have_no_name(sqlite_home: Home) -> None:
    app = create_app(sqlite_home)
    with capture_logs() as lines:
        app.test_client().get("/api/v1/models", buffered=True)
    (line,) = requests(lines)
    assert line["status"] == 401
    assert "principal" not in line


def test_an_answer_that_nobody_takes_to_its_end_is_aborted(sqlite_home: Home) -> None:
    app = create_app(sqlite_home)
    with capture_logs() as lines:
        answer = app.test_client().get("/api/openapi.json", buffered=False)
        answer.close()
    (line,) = requests(lines)
    assert line["aborted"] is True


def test_what_is_logged_meanwhile_carries_the_request_and_what_comes_later_does_not(
    sqlite_home: Home,
) -> None:
    app = create_app(sqlite_home)
    seen = []

    @app.before_request
    def work() -> None:
        seen.append(dict(structlog.contextvars.get_contextvars()))

    app.test_client().get("/api/openapi.json", headers={"X-Request-Id": "r1"}).close()
    assert seen == [{"request_id": "r1"}]
    assert structlog.contextvars.get_contextvars() == {}
