"""The HTTP application: every feature's routes on one registry.

    app = create_app(Home.open(folder))                  # a WSGI application

What a route may do is marked on the route (:mod:`registry.api.access`); what all share is in
:mod:`registry.api`; what it does is its feature's ``service.py``.
"""

from __future__ import annotations

import re
import secrets

from flask import Response, g, request

from registry import probing
from registry.api import access, problems
from registry.api.document import Api, Json, check_json, serve_document
from registry.console import installing
from registry.home import Home
from registry.serving import requests

LARGEST_BODY = 1 << 20
"""Bytes of a JSON body; routes that take files say their own limit."""

REQUEST_ID = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(home: Home) -> Api:
    """The application on an open registry, which stays open as long as the application serves."""
    app = Api("registry")
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.json = Json(app)
    app.url_map.merge_slashes = False  # an address with two of them is not redirected: there is none such
    app.before_request(_name_request)
    requests.install(app)
    access.install(app, home)
    probing.install(app, home)
    app.before_request(check_json)
    problems.install(app)
    installing.install(app)
    _register(app)
    serve_document(app)
    app.after_request(_finish)
    access.check_routes(app)
    return app


def _register(app: Api) -> None:
    from registry.accounts.account_routes import account_routes
    from registry.accounts.oidc_routes import oidc_routes
    from registry.accounts.people_routes import (
        organisation_routes,
        people_routes,
        security_routes,
        token_routes,
    )
    from registry.accounts.routes import recipients
    from registry.accounts.session_routes import session_routes
    from registry.bundles.routes import bundles
    from registry.c2pa.routes import c2pa
    from registry.cases.routes import cases
    from registry.copies.recipient_routes import recipient
    from registry.copies.routes import copies, downloads, signing_key
    from registry.generators.routes import models, uploading
    from registry.jobs.routes import jobs
    from registry.keys.routes import keys
    from registry.ledger.routes import ledger, tiles
    from registry.resolve.routes import granting, resolving, unmaskings
    from registry.trust.routes import tuf

    for api in (
        models,
        uploading,
        bundles,
        recipients,
        keys,
        jobs,
        ledger,
        tiles,
        tuf,
        resolving,
        granting,
        unmaskings,
        cases,
    ):
        app.register_api(api)
    for api in (copies, downloads, signing_key, recipient):
        app.register_api(api)
    for api in (session_routes, account_routes, people_routes, organisation_routes, token_routes):
        app.register_api(api)
    app.register_api(security_routes)
    app.register_blueprint(c2pa)
    app.register_blueprint(oidc_routes)
    _register_pages(app)


def _register_pages(app: Api) -> None:
    """The console's pages: each feature's ``pages.py`` (see :mod:`registry.console`)."""
    from registry.accounts.account_pages import pages as account_pages
    from registry.accounts.admin_pages import pages as admin_pages
    from registry.accounts.recipient_pages import pages as recipient_pages
    from registry.accounts.sign_in_pages import pages as sign_in_pages
    from registry.cases.pages import pages as case_pages
    from registry.console.pages import pages as console_pages
    from registry.copies.pages import pages as copy_pages
    from registry.device.pages import pages as device_pages
    from registry.generators.pages import pages as model_pages
    from registry.jobs.pages import pages as job_pages
    from registry.ledger.pages import pages as ledger_pages
    from registry.lineage.pages import pages as lineage_pages
    from registry.resolve.grant_pages import pages as grant_pages
    from registry.trust.pages import pages as trust_pages

    for pages in (
        console_pages,
        sign_in_pages,
        model_pages,
        recipient_pages,
        copy_pages,
        case_pages,
        device_pages,
        ledger_pages,
        account_pages,
        admin_pages,
        grant_pages,
        job_pages,
        lineage_pages,
        trust_pages,
    ):
        app.register_blueprint(pages)


def _name_request() -> None:
    given = request.headers.get(REQUEST_ID, "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _finish(response: Response) -> Response:
    """Name the request in its answer, and let clients ask whether an answer changed."""
    response.headers[REQUEST_ID] = g.request_id
    response.headers.setdefault("Cache-Control", "no-store" if g.get("principal") else "no-cache")
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.method in ("GET", "HEAD") and response.status_code == 200 and not response.is_streamed:
        if response.get_etag()[0] is None:
            response.add_etag()
        response.make_conditional(request)
    return response
