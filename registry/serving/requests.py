"""One line of log and one count for every request, once its last byte is sent.

    install(app)

Routes stand in the log as they are declared, `/api/v1/keys/<key_id>`: what a caller put into the path, an
address or the secret of a link, does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask, Response, g, request

from registry.api.access import optional_principal
from registry.serving import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

KNOWN = "hallmark.request"
NO_ROUTE = "(none)"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = structlog.get_logger(__name__)


def install(app: Flask) -> None:
    """Log and count the application's requests; every line logged meanwhile carries the request's id."""
    app.before_request(_bind)
    app.after_request(_describe)
    app.wsgi_app = _Watched(app.wsgi_app)  # type: ignore[method-assign]


def _bind() -> None:
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _describe(response: Response) -> Response:
    found = optional_principal()
    known: dict[str, Any] = request.environ[KNOWN]
    known["request_id"] = g.request_id
    known["route"] = request.url_rule.rule if request.url_rule is not None else NO_ROUTE
    if found is not None:
        known |= {"principal": found.label, "organisation": found.organisation}
    return response


class _Watched:
    """WSGI middleware: what the application knows of a request goes into ``environ[KNOWN]``."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        structlog.contextvars.clear_contextvars()
        known = environ[KNOWN] = {"route": NO_ROUTE}
        answer = _Answer(environ, known)

        def begin(status: str, headers: list[tuple[str, str]], failure: Any = None) -> Any:
            answer.status = int(status.split(" ", 1)[0])
            return start_response(status, headers, failure) if failure else start_response(status, headers)

        answer.body = self._application(environ, begin)
        return answer


class _Answer:
    """The body of an answer, counted while it is sent."""

    body: Iterable[bytes] = ()
    status = 500
    sent = 0
    whole = False

    def __init__(self, environ: WSGIEnvironment, known: dict[str, Any]) -> None:
        self._started, self._environ, self._known = time.perf_counter(), environ, known

    def __iter__(self) -> Iterator[bytes]:
        for part in self.body:
            self.sent += len(part)
            yield part
        self.whole = True

    def close(self) -> None:
        """Called by the server when the answer is sent, or nobody takes it any more."""
        if hasattr(self.body, "close"):
            self.body.close()
        seconds, route = time.perf_counter() - self._started, self._known["route"]
        method = self._environ["REQUEST_METHOD"]
        method = method if method in METHODS else "OTHER"
        metrics.REQUESTS.labels(method, route, str(self.status)).inc()
        metrics.SECONDS.labels(route).observe(seconds)
        metrics.SENT.labels(route).inc(self.sent)
        aborted = {} if self.whole else {"aborted": True}
        log.info(
            "request",
            method=method,
            status=self.status,
            milliseconds=round(seconds * 1000, 1),
            sent=self.sent,
            client=self._environ.get("REMOTE_ADDR", ""),
            **self._known,
            **aborted,
        )
        structlog.contextvars.clear_contextvars()
