"""Putting the console into the application."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, current_app, g, request
from jinja2 import StrictUndefined
from markupsafe import Markup

from registry.accounts.permissions import Permission
from registry.api import problems
from registry.api.access import home, optional_principal, web_session
from registry.console import errors, navigation
from registry.console.assets import PREFIX, Assets
from registry.console.page import FLASH, Form, flashed
from registry.db import unix_now
from verifier.bundle import utc

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}


def install(app: Flask) -> None:
    """Give the application its pages' look, errors and headers; blueprints are registered beside."""
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters |= {"size": _size, "grouped": _grouped}
    app.context_processor(_context)
    app.extensions[problems.PAGES] = errors.show
    app.after_request(_protect)


def _context() -> dict[str, Any]:
    """What every template knows."""
    current, who = web_session(), optional_principal()
    allowed: frozenset[Permission] = frozenset() if who is None else who.permissions
    return {
        "asset": Assets.load().url,
        "me": None if current is None or who is None else current.person,
        "organisation_name": _organisation_name,
        "csrf_token": "" if current is None else current.csrf_token,
        "menu_entries": navigation.entries,
        "may": lambda permission: Permission(permission) in allowed,
        "flashed": flashed,
        "endpoints": current_app.view_functions,
        "utc": utc,
        "now": unix_now,
        "blank_form": Form,
        "link_to": _link_to,
    }


def _link_to(url: str, text: object) -> Markup:
    return Markup('<a href="{}">{}</a>').format(url, text)


def _size(octets: int) -> str:
    """A number of bytes as people read it."""
    if octets < 1000:
        return f"{octets} bytes"
    power = min((len(str(octets)) - 1) // 3, 4)
    number, unit = octets / 1000**power, ("", "kB", "MB", "GB", "TB")[power]
    return f"{number:.3g} {unit}"


def _grouped(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def _organisation_name() -> str:
    from registry.accounts.models import Organisation

    who = optional_principal()
    if who is None:
        return ""
    with home().database.glance() as session:
        return session.get_one(Organisation, who.organisation).name


def _protect(response: Response) -> Response:
    if not errors.is_page(request.path) or request.path.startswith(PREFIX):
        return response
    policy = dict(POLICY)
    if g.get("console_wasm"):
        policy["script-src"] += " 'wasm-unsafe-eval'"
        policy["worker-src"] = "'self' blob:"
    response.headers["Content-Security-Policy"] = "; ".join(
        f"{name} {value}" for name, value in policy.items()
    )
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers.setdefault("Cache-Control", "no-store")
    if g.get("console_flashed"):
        response.delete_cookie(FLASH, path="/console")
    return response
