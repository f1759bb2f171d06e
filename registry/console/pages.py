"""The console's own pages: the dashboard, the assets, and the way to it."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, url_for
from werkzeug.wrappers import Response as AnyResponse

from registry.accounts.permissions import Permission
from registry.api.access import public, requires
from registry.console.assets import Assets
from registry.console.page import render

pages = Blueprint("console", __name__, template_folder="templates")


@pages.get("/")
@public
def entrance() -> AnyResponse:
    """Whoever opens the registry's address comes to the console."""
    return redirect(url_for("console.dashboard"))


@pages.get("/console/assets/<path:name>")
@public
def asset(name: str) -> Response:
    """A script, style or picture of ours."""
    return Assets.load().serve(name)


@pages.get("/console")
@requires(Permission.READ_MODELS)
def dashboard() -> str:
    """Where things stand."""
    return render("console/dashboard.html")
