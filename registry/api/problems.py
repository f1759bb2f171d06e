"""Errors over HTTP as problem details (RFC 9457).

    raise Problem(409, "no such state", "what to do")       # or any RegistryError: handlers turn it into one

Every response that is no success has this form and the media type ``application/problem+json``; none holds a
traceback, a secret or anything of another organisation.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, make_response, request
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from registry.db import explain
from registry.errors import (
    AuthenticationError,
    ForbiddenError,
    InputError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from verifier.errors import VerifierError

MEDIA_TYPE = "application/problem+json"

PAGES = "hallmark-problem-pages"
"""The application's extension that shows problems to people: ``(problem, headers) -> Response | None``."""

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NotFoundError, 404),
    (AuthenticationError, 401),
    (ForbiddenError, 403),
    (ThrottledError, 429),
    (InputError, 422),
    (UnavailableError, 503),
    (StateError, 409),
    (IntegrityError, 500),
    (VerifierError, 422),
)
_TYPES = {
    400: "malformed-request",
    401: "not-authenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    408: "timed-out",
    409: "conflict",
    410: "gone",
    412: "precondition-failed",
    413: "too-large",
    414: "too-large",
    415: "unsupported-media-type",
    416: "range-not-satisfiable",
    422: "invalid-input",
    428: "precondition-required",
    429: "too-many-requests",
    431: "too-large",
    500: "internal-error",
    503: "unavailable",
}

_WORDS = {
    404: "there is nothing at this address.",
    405: "this address does not take requests with this method.",
}
"""Where the framework refuses on its own account."""

log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    """What is wrong with one field; ``pointer`` is its JSON pointer or the name of a parameter."""

    pointer: str
    detail: str


class ProblemDetails(BaseModel):
    """A refusal or failure: what happened (``detail``) and what to do about it (``hint``)."""

    type: str
    title: str
    status: int
    detail: str
    hint: str = ""
    request_id: str
    errors: list[FieldProblem] = []


class Problem(RegistryError):  # noqa: N818  (the term of RFC 9457)
    """An HTTP status with a message for whoever asked."""

    def __init__(
        self, status: int, message: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, hint)
        self.status, self.headers = status, headers or {}


def describe(
    status: int, detail: str, hint: str = "", errors: list[FieldProblem] | None = None, request_id: str = ""
) -> ProblemDetails:
    """The document of one problem."""
    return ProblemDetails(
        type=f"urn:hallmark:problem:{_TYPES.get(status, 'error')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        hint=hint,
        request_id=request_id,
        errors=errors or [],
    )


def respond(
    status: int,
    detail: str,
    hint: str = "",
    errors: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The response for one problem."""
    document = describe(status, detail, hint, errors, getattr(g, "request_id", ""))
    show = current_app.extensions.get(PAGES)
    page: Response | None = None if show is None else show(document, headers or {})
    if page is not None:
        return page
    response = make_response(document.model_dump_json(), status)
    response.mimetype = MEDIA_TYPE
    response.headers.update(headers or {})
    return response


def invalid(error: ValidationError) -> Response:
    """What a request does not fulfil, field by field; values are not echoed."""
    found = [
        FieldProblem(pointer="/" + "/".join(map(str, entry["loc"])), detail=entry["msg"])
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return respond(422, "the request does not fit its description.", "See `errors`.", found)


def install(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(RegistryError, _registry_error)
    app.register_error_handler(VerifierError, _registry_error)
    app.register_error_handler(SQLAlchemyError, _database_error)
    app.register_error_handler(ValidationError, invalid)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(OSError, _storage_error)
    app.register_error_handler(UnavailableError, _storage_error)
    app.register_error_handler(Exception, _unexpected)


def status_of(error: Exception) -> int:
    """The HTTP status that an exception of this package stands for."""
    if isinstance(error, Problem):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _registry_error(error: RegistryError | VerifierError) -> Response:
    status = status_of(error)
    if status >= 500:
        log.error("request failed", error=str(error), kind=type(error).__name__)
    return respond(status, str(error), error.hint, headers=_headers(error))


def _headers(error: RegistryError | VerifierError) -> dict[str, str]:
    if isinstance(error, Problem):
        return error.headers
    return {"Retry-After": str(error.wait)} if isinstance(error, ThrottledError) else {}


def _database_error(error: SQLAlchemyError) -> Response:
    explained = explain(error)
    log.error("the database failed", error=str(explained), kind=type(error).__name__)
    return respond(
        503, "the database is not available.", "Try again in a moment.", headers={"Retry-After": "2"}
    )


def _storage_error(error: OSError | UnavailableError) -> Response:
    log.error("storage failed", error=str(error), kind=type(error).__name__)
    return respond(
        503, "the storage is not available.", "Try again in a moment.", headers={"Retry-After": "2"}
    )


def _http_error(error: HTTPException) -> Response:
    if error.response is not None:  # a response somebody made on purpose
        return make_response(error.response)
    status = error.code or 500
    said = error.description != type(error).description
    detail = (error.description if said else _WORDS.get(status)) or f"{HTTPStatus(status).phrase}."
    hint = ""
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        detail, hint = f"the body is larger than {limit} bytes.", "Send less at once."
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Content-Range")}
    return respond(status, detail, hint, headers=kept)


def _unexpected(error: Exception) -> Response:
    log.exception("unexpected error", kind=type(error).__name__)
    if current_app.config.get("PROPAGATE_EXCEPTIONS"):
        raise error
    return respond(500, "something went wrong here.", "Tell the operator the request id.")


def document_schema() -> dict[str, Any]:
    """The JSON schemas of problem details, by name, for the OpenAPI document."""
    schema = ProblemDetails.model_json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    nested = schema.pop("$defs", {})
    return {"ProblemDetails": schema, **nested}
