"""Who makes a request and whether he may: every route names its permission, and nothing runs before that.

    @api.post("", responses={201: Issued})
    @requires(Permission.ISSUE)
    def issue(body: IssueRequest): ... principal().organisation ...

A route that names nothing cannot be registered (:func:`check_routes`). Checks come before the request is
validated, so that a stranger learns nothing from what his input is refused for. Who may ask may still not ask
without measure: :mod:`registry.api.limits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from flask import Flask, Response, current_app, g, request
from flask_openapi3 import SecurityScheme
from sqlalchemy.exc import SQLAlchemyError

from registry.accounts import security, sessions, tokens
from registry.accounts.permissions import Permission, Principal
from registry.accounts.security import Event
from registry.accounts.sessions import CSRF_FIELD, CSRF_HEADER, Current
from registry.accounts.settings import AccountSettings
from registry.addresses import counted_as
from registry.api.limits import REQUESTS, STRANGERS, Limiter
from registry.api.problems import Problem
from registry.errors import ForbiddenError
from registry.home import Home

log = structlog.get_logger(__name__)

Noted = TypeVar("Noted")
View = TypeVar("View", bound=Callable[..., Any])

PUBLIC = "public"
_ATTRIBUTE = "hallmark_access"
_BODY = "hallmark_largest_body"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_EXTENSION = "hallmark"
_SETTINGS = "hallmark-accounts"
_LIMITER = "hallmark-limits"
_SAFE = ("GET", "HEAD", "OPTIONS")

SECURITY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token, `hm_...`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": sessions.COOKIE,
        "description": f"A browser's session. Requests that change something also carry `{CSRF_HEADER}`, "
        "the `csrf_token` of `GET /api/v1/session`.",
    },
}


def requires(permission: Permission) -> Callable[[View], View]:
    """Mark a view as one that needs ``permission``."""

    def mark(view: View) -> View:
        setattr(view, _ATTRIBUTE, permission)
        return view

    return mark


def public(view: View) -> View:
    """Mark a view that anybody may ask."""
    setattr(view, _ATTRIBUTE, PUBLIC)
    return view


def accepts(size: int) -> Callable[[View], View]:
    """Mark a view whose requests may have ``size`` bytes, where others have the application's limit."""

    def mark(view: View) -> View:
        setattr(view, _BODY, size)
        return view

    return mark


def csrf_given() -> str | None:
    """The CSRF token of the present request: in its header or, of a form, in the field ``csrf_token``."""
    given = request.headers.get(CSRF_HEADER)
    if given is None and request.mimetype in _FORMS:
        given = request.form.get(CSRF_FIELD)
    return given


def access_of(view: Callable[..., Any]) -> Permission | str | None:
    """What a view is marked with."""
    found: Permission | str | None = getattr(view, _ATTRIBUTE, None)
    return found


def home() -> Home:
    """The registry that this application serves."""
    found: Home = current_app.extensions[_EXTENSION]
    return found


def principal() -> Principal:
    """Who makes this request; only in views that need a permission."""
    found: Principal = g.principal
    return found


def account_settings() -> AccountSettings:
    """What the configuration says about sign-in."""
    found: AccountSettings = current_app.extensions[_SETTINGS]
    return found


def limiter() -> Limiter:
    """The rate limits of this application."""
    found: Limiter = current_app.extensions[_LIMITER]
    return found


def web_session() -> Current | None:
    """The browser's session that this request came with, complete or not."""
    found: Current | None = g.get("web_session")
    return found


def optional_principal() -> Principal | None:
    """Who makes this request, also in public views: ``None`` for a stranger."""
    found: Principal | None = g.get("principal")
    return found


def install(app: Flask, registry: Home) -> None:
    """Open the registry to the application's requests and check each of them."""
    app.extensions[_EXTENSION] = registry
    app.extensions[_SETTINGS] = AccountSettings.load(registry.settings)
    app.extensions[_LIMITER] = Limiter(app.extensions[_SETTINGS].limits)
    app.before_request(_admit)


def identify() -> None:
    """Find out whose request this is where no route asked, for the page that says that there is nothing."""
    if request.endpoint is None and request.method in _SAFE and "principal" not in g:
        found = _authenticated(PUBLIC)
        if found is not None:
            g.principal = found


def check_routes(app: Flask) -> None:
    """``RuntimeError`` unless every route says who may ask."""
    silent = sorted(name for name, view in app.view_functions.items() if access_of(view) is None)
    if silent:
        raise RuntimeError(f"these routes name no permission: {', '.join(silent)}")


def _admit() -> Response | None:
    if request.endpoint is None:
        return None  # not found, or a method that is not allowed: Flask says so
    view = current_app.view_functions[request.endpoint]
    needed = access_of(view)
    request.max_content_length = getattr(view, _BODY, request.max_content_length)
    try:
        found = _authenticated(needed)
    except Problem:
        limiter().hit(STRANGERS, counted_as(request.remote_addr))
        raise
    if found is None:
        limiter().hit(STRANGERS, counted_as(request.remote_addr))
    else:
        g.principal = found
        limiter().hit(REQUESTS, found.label)
    if needed == PUBLIC:
        return None
    if found is None:
        raise Problem(
            401,
            "this needs an API token or a session.",
            "Send `Authorization: Bearer hm_...`, or sign in.",
            {"WWW-Authenticate": 'Bearer realm="hallmark"'},
        )
    assert isinstance(needed, Permission), "check_routes has seen every route"
    try:
        found.require(needed)
    except ForbiddenError:
        security.log(home(), Event.PERMISSION_DENIED, permission=needed.value, path=request.path)
        raise
    return None


def _authenticated(needed: Permission | str | None) -> Principal | None:
    header = request.headers.get("Authorization")
    if header is None:
        secret = request.cookies.get(sessions.COOKIE)
        return None if secret is None else _by_session(secret, needed)
    scheme, _, text = header.partition(" ")
    return _by_token(text.strip()) if scheme.lower() == "bearer" else None


def _by_token(text: str) -> Principal:
    with home().database.glance() as connection:
        held = tokens.authenticate(connection, text)
        refused = tokens.refused(connection, text) if held is None else None
        forged = tokens.forged(connection, text) if held is None and refused is None else None
    if held is None:
        if refused is not None:
            security.log(home(), Event.TOKEN_REFUSED, **refused)
        if forged is not None:
            security.log(home(), Event.TOKEN_FORGED, **forged)
        raise Problem(
            401,
            "this API token does not hold.",
            "It may have expired or been revoked; ask for a new one.",
            {"WWW-Authenticate": 'Bearer realm="hallmark", error="invalid_token"'},
        )
    if held.unnoted and held.principal.token is not None:
        _note(tokens.used, held.principal.token)
    return held.principal


def _by_session(secret: str, needed: Permission | str | None) -> Principal | None:
    """Who a browser's session stands for: nobody where it does not hold or still owes a factor.

    What changes something must come from our own pages. A public route answers a request that does not as it
    answers a stranger's.
    """
    with home().database.read() as session:
        current = sessions.find(session, secret, account_settings())
        forged = current is None and not sessions.known(session, secret)
    if forged:
        security.log(home(), Event.FORGED_SESSION)
    if current is None:
        return None
    g.web_session = current
    if request.method not in _SAFE:
        try:
            sessions.require_csrf(current, csrf_given())
        except ForbiddenError as error:
            if needed == PUBLIC:
                return None
            security.log(
                home(), Event.FORGED_REQUEST, actor=f"person {current.person.name}", path=request.path
            )
            raise Problem(403, str(error), error.hint) from None
    _note(sessions.seen, current)
    return current.principal


def _note(use: Callable[[Home, Noted], None], what: Noted) -> None:
    """Note that something is in use; a database that can only be read at present stops no reader."""
    try:
        use(home(), what)
    except SQLAlchemyError as error:
        log.warning("a use was not noted", error=type(error).__name__)
