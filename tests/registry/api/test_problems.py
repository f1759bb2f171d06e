from __future__ import annotations

import re

import pytest
from sqlalchemy.exc import OperationalError

from registry.api import problems
from registry.api.document import Api
from registry.errors import IntegrityError
from registry.home import Home
from tests.registry.api.client import Client


def test_a_refusal_is_a_problem_document_that_names_the_request(admin: Client) -> None:
    refused = admin.get("/models/unknown", headers={"X-Request-Id": "my.request-1"})
    assert refused.status_code == 404
    assert refused.mimetype == "application/problem+json"
    assert refused.headers["X-Request-Id"] == "my.request-1"
    assert refused.json["request_id"] == "my.request-1"
    assert refused.json["type"] == "urn:hallmark:problem:not-found"
    assert refused.json["status"] == 404
    assert "no model unknown" in refused.json["detail"]


def test_a_request_id_that_could_be_markup_is_replaced(admin: Client) -> None:
    answered = admin.get("/models", headers={"X-Request-Id": "<script>"})
    assert re.fullmatch("[0-9a-f]{16}", answered.headers["X-Request-Id"])


def test_every_wrong_field_is_named_and_no_value_is_echoed(admin: Client) -> None:
    refused = admin.post("/keys", json={"model": "UPPER secret", "recipient": "ada@example.org", "extra": 1})
    assert refused.status_code == 422
    assert {error["pointer"] for error in refused.json["errors"]} == {"/model", "/extra"}
    assert "secret" not in refused.get_data(as_text=True)


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        ("{", "application/json", 400),
        ("{}", "text/plain", 415),
        ("", "application/json", 400),
        ("[" * 100_000, "application/json", 400),
        ('{"model":' * 10_000, "application/json", 400),
        ('{"count":' + "9" * 10_000 + "}", "application/json", 400),
    ],
)
def test_a_body_that_is_no_json(admin: Client, body: str, media_type: str, status: int) -> None:
    assert admin.post("/keys", data=body, content_type=media_type).status_code == status


def test_a_body_that_is_too_large(admin: Client) -> None:
    refused = admin.post("/keys", data=b'"' + b"a" * (1 << 20) + b'"', content_type="application/json")
    assert refused.status_code == 413


def test_nothing_at_an_address(admin: Client) -> None:
    for path in ("/nowhere", "//keys", "/keys/"):
        refused = admin.get(path)
        assert (refused.status_code, refused.mimetype) == (404, problems.MEDIA_TYPE)
        assert refused.get_json()["detail"] == "there is nothing at this address."


def test_a_method_that_is_not_allowed_says_which_are(admin: Client) -> None:
    refused = admin.request("DELETE", "/keys")
    assert refused.status_code == 405
    assert {"GET", "POST"} <= set(refused.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (OperationalError("SELECT secret", {}, Exception("could not connect to host db")), 503, "database"),
        (IntegrityError("the stored basis does not have its digest."), 500, "digest"),
        (OSError(28, "No space left on device", "/private/path"), 503, "storage"),
        (ZeroDivisionError("private"), 500, "went wrong"),
    ],
)
def test_what_fails_here_is_told_without_what_is_inside(
    app: Api, admin: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, told: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("registry.generators.service.models", fail)
    monkeypatch.setattr("registry.generators.service.get_model", fail)
    answered = admin.get("/models/tiny")
    assert answered.status_code == status
    assert told in answered.json["detail"]
    for inside in ("secret", "private", "Traceback", "host db"):
        assert inside not in answered.get_data(as_text=True)


def test_each_status_that_is_sent_has_a_type(ready: Home) -> None:
    assert {status for _, status in problems._STATUS} <= set(problems._TYPES)
