"""Refusals and failures as pages: the console's requests get HTML where programs get problem details."""

from __future__ import annotations

from contextlib import suppress

from flask import Response, make_response, redirect, render_template, request, url_for

from registry.api.access import identify, optional_principal
from registry.api.problems import Problem, ProblemDetails

_TITLES = {
    401: "Your session has ended",
    403: "You may not do this",
    404: "There is nothing here",
    405: "This page cannot be asked that",
    409: "This does not fit the present state",
    413: "That is too large",
    429: "Too many requests",
    503: "Not available at the moment",
}


def is_page(path: str) -> bool:
    """Whether a path belongs to the console's pages."""
    return path in ("/", "/console") or path.startswith(("/console/", "/auth/"))


def show(problem: ProblemDetails, headers: dict[str, str]) -> Response | None:
    """The page for a problem; ``None`` where whoever asked is a program."""
    arriving = request.path.startswith("/auth/")
    if not is_page(request.path) or (arriving and "text/html" not in request.headers.get("Accept", "")):
        return None
    with suppress(Problem):
        identify()
    title = "The sign-in did not work" if arriving else _TITLES.get(problem.status, "Something went wrong")
    if problem.status == 401 and request.method in ("GET", "HEAD") and not arriving and not _by_script():
        return make_response(redirect(url_for("sign_in_pages.show", next=request.full_path.rstrip("?"))))
    text = render_template(
        "console/error.html", problem=problem, heading=title, stranger=optional_principal() is None
    )
    response = make_response(text, problem.status)
    response.headers.update({name: value for name, value in headers.items() if name != "WWW-Authenticate"})
    return response


def _by_script() -> bool:
    """Whether a script of ours asked, which handles an ended session itself."""
    return "HX-Request" in request.headers
