"""The console's own pages: the dashboard, the assets, and the way to it."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, redirect, url_for
from werkzeug.wrappers import Response as AnyResponse

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, public, requires
from registry.console.assets import Assets
from registry.console.overview import overview
from registry.console.page import render
from registry.jobs import service as jobs
from registry.jobs.models import Job

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
    who = principal()
    figures = overview(home(), who)
    with home().database.read() as session:
        latest = [jobs.describe(row) for row in session.execute(_latest(who.organisation)).scalars()]
    return render(
        "console/dashboard.html",
        figures=figures,
        jobs=latest,
        chart={
            "kind": "line",
            "area": True,
            "from_zero": True,
            "whole": True,
            "x": figures.daily.days,
            "series": [
                {"name": "copies issued", "values": figures.daily.issued},
                {"name": "downloads", "values": figures.daily.delivered},
            ],
        },
    )


def _latest(organisation: int) -> Any:
    return jobs.select_jobs(organisation).order_by(Job.id.desc()).limit(5)
