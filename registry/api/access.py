"""Who makes a request and whether he may: every route names its permission, and nothing runs before that.

    @api.post("", responses={201: Issued})
    @requires(Permission.ISSUE)
    def issue(body: IssueRequest): ... principal().organisation ...

A route that names nothing cannot be registered (:func:`check_routes`). Checks come before the request is
validated, so that a stranger learns nothing from what his input is refused for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, current_app, g, request
from flask_openapi3 import SecurityScheme

from registry.accounts import tokens
from registry.accounts.permissions import Permission, Principal
from registry.api.problems import Problem
from registry.home import Home

View = TypeVar("View", bound=Callable[..., Any])

PUBLIC = "public"
_ATTRIBUTE = "hallmark_access"
_EXTENSION = "hallmark"
_SAFE = ("GET", "HEAD", "OPTIONS")

SECURITY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token, `hm_...`."},
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


def optional_principal() -> Principal | None:
    """Who makes this request, also in public views: ``None`` for a stranger."""
    found: Principal | None = g.get("principal")
    return found


def install(app: Flask, registry: Home) -> None:
    """Open the registry to the application's requests and check each of them."""
    app.extensions[_EXTENSION] = registry
    app.before_request(_admit)


def check_routes(app: Flask) -> None:
    """``RuntimeError`` unless every route says who may ask."""
    silent = sorted(name for name, view in app.view_functions.items() if access_of(view) is None)
    if silent:
        raise RuntimeError(f"these routes name no permission: {', '.join(silent)}")


def _admit() -> Response | None:
    if request.endpoint is None:
        return None  # not found, or a method that is not allowed: Flask says so
    needed = access_of(current_app.view_functions[request.endpoint])
    found = _authenticated()
    if found is not None:
        g.principal = found
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
    found.require(needed)
    return None


def _authenticated() -> Principal | None:
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "bearer":
        return None
    with home().database.glance() as session:
        found = tokens.authenticate(session, text.strip())
    if found is None:
        raise Problem(
            401,
            "this API token does not hold.",
            "It may have expired or been revoked; ask for a new one.",
            {"WWW-Authenticate": 'Bearer realm="hallmark", error="invalid_token"'},
        )
    return found
