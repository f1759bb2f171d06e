from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from registry.observability import REDACTED, redact, redacted

TOKEN = "hm_0123456789ab_" + "A-b_9" * 8 + "xyz"
LINK = "/d/" + "Zq3_" * 10 + "abc"


def cleaned(**event: Any) -> dict[str, Any]:
    return dict(redact(logging.getLogger(), "info", event))


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "new_password",
        "Authorization",
        "authorisation",
        "cookie",
        "Set-Cookie",
        "client_secret",
        "token",
        "csrf_token",
        "refresh_token",
        "totp",
        "code_verifier",
        "private",
        "api_key",
        "master_key",
        "pin",
    ],
)
def test_values_with_secret_names_are_dropped(name: str) -> None:
    assert cleaned(**{name: "x"}) == {name: REDACTED}
    assert cleaned(headers={name: ["x"]}) == {"headers": {name: REDACTED}}
    assert cleaned(outer=[{name: b"x"}]) == {"outer": [{name: REDACTED}]}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"GET /api with {TOKEN}", TOKEN[16:]),
        (f"Authorization: Bearer {TOKEN}", TOKEN[16:]),
        ("Authorization: Basic dXNlcjpwdw==", "dXNlcjpwdw"),
        (f"GET {LINK}/archive?x=1 HTTP/1.1", LINK[3:]),
        ("postgresql+psycopg://hallmark:pa55@db:5432/hallmark", "pa55"),
        ("redis://:pa55@queue:6379/0", "pa55"),
        ("Cookie: session=abcdef; other=1", "abcdef"),
        ('{"password": "pa55", "name": "ada"}', "pa55"),
        ("https://r.example/auth/oidc/c/callback?code=abc123&x=1", "abc123"),
        ("https://s3/b?X-Amz-Signature=0123abc", "0123abc"),
    ],
)
def test_secrets_inside_texts_are_dropped(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert REDACTED in redacted(text)
    assert secret not in json.dumps(cleaned(event=text, error=ValueError(text)))


def test_a_token_keeps_the_prefix_that_names_it() -> None:
    assert redacted(TOKEN) == f"hm_0123456789ab_{REDACTED}"


@pytest.mark.parametrize(
    "text",
    [
        "/api/v1/copies/<copy_id>/archive",
        "job ended state=done reason= attempt 2",
        "http://127.0.0.1:8080 (2745)",
        "token 0123456789ab",
        "sha256:0123456789abcdef",
        "/d/<secret>",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_numbers_and_names_stay() -> None:
    event = {"status": 200, "principal": "token 0123456789ab", "route": "/api/v1/keys", "organisation": 3}
    assert cleaned(**event) == event


PROGRAM = f"""
    import logging, structlog, warnings
    from registry import observability
    observability.configure()
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("a").info("from us", token="{TOKEN}", count=3)
    logging.getLogger("some.library").warning("from %s with %s", "a library", "{TOKEN}")
    logging.getLogger("sqlalchemy.engine").info("never seen")
    structlog.get_logger("a").debug("never seen")
    warnings.warn("a warning")
    try:
        password = "{TOKEN}"
        raise ValueError("refused {TOKEN}")
    except ValueError:
        structlog.get_logger("a").exception("failed")
"""


def logged(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert TOKEN[16:] not in done.stderr
    assert "never seen" not in done.stderr
    return done.stderr


def test_every_line_is_one_json_object_with_the_request() -> None:
    lines = [json.loads(line) for line in logged().splitlines()]
    assert [line["event"] for line in lines][:2] == ["from us", f"from a library with {redacted(TOKEN)}"]
    assert lines[0]["count"] == 3
    assert {line["request_id"] for line in lines} == {"r1"}
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "error"]
    assert "ValueError: refused" in lines[-1]["exception"]
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_people_get_lines_for_people() -> None:
    text = logged(HALLMARK_LOG_FORMAT="console")
    assert "from us" in text
    assert not text.startswith("{")


def test_the_level_can_be_chosen() -> None:
    assert len(logged(HALLMARK_LOG_LEVEL="error").splitlines()) == 1
