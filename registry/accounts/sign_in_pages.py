"""Signing in to the console, step by step, and out of it.

A password, then perhaps a code or a passkey; or a passkey alone; or an account at an OpenID provider. The
steps are those of :mod:`registry.accounts.signin`, as forms.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from registry.accounts import factors, people, security, sessions, signin
from registry.accounts.browser import clear_session, count_sign_in, owing_session, set_session
from registry.accounts.security import Event
from registry.accounts.signin import SignedIn
from registry.api.access import account_settings, csrf_given, home, public, web_session
from registry.console.page import Answer, Form, render
from registry.errors import ForbiddenError

pages = Blueprint("sign_in_pages", __name__, url_prefix="/console/sign-in", template_folder="templates")

_CODE = re.compile(r"[0-9]{6}|[a-z2-7]{4}(-[a-z2-7]{4}){3}")
_INVITATION = r"hmi_[0-9A-Za-z_-]{43}"


@pages.get("")
@public
def show() -> Answer:
    """The step that is next."""
    current = web_session()
    if current is not None and current.row.complete and "again" not in request.args:
        return redirect(_next())
    return _page(Form())


@pages.post("")
@public
def password() -> Answer:
    """Name and password."""
    form = Form.sent()
    name, secret = form.text("name", longest=254), form.get("password")
    if not secret or len(secret) > 200:
        form.errors["password"] = "Give your password."  # noqa: S105
    _require_own_page()
    with form.refusals():
        if form.ok:
            count_sign_in()
            done = signin.with_password(
                home(), account_settings(), name, secret, request.remote_addr, web_session()
            )
            return _arrived(done)
    return _page(form), 422


@pages.post("/code")
@public
def code() -> Answer:
    """A code of the authenticator, or a recovery code."""
    form = Form.sent()
    given = re.sub(r"\s", "", form.get("code")).lower()
    if not _CODE.fullmatch(given):
        form.errors["code"] = "Give the six digits that your authenticator shows, or a recovery code."
    with form.refusals():
        if form.ok:
            count_sign_in()
            done = signin.with_code(home(), account_settings(), owing_session(), given, request.remote_addr)
            return _arrived(done)
    return _page(form), 422


@pages.post("/out")
@public
def out() -> Answer:
    """Sign out of this browser, or while signing in begin again."""
    current = web_session()
    if current is not None:
        sessions.require_csrf(current, csrf_given())
        person = current.person
        with home().database.write() as session:
            sessions.end(session, current)
            security.record(
                session,
                Event.SIGNED_OUT,
                organisation=person.organisation_id,
                actor=f"person {person.name}",
                everywhere=False,
            )
    return clear_session(_redirect(url_for("sign_in_pages.show")))


@pages.get("/invitation")
@public
def invitation() -> Answer:
    """Where who was invited, or given a new way in, sets his password."""
    return render("accounts/invitation.html", form=Form({"invitation": request.args.get("invitation", "")}))


@pages.post("/invitation")
@public
def accept() -> Answer:
    """Set the password."""
    form = Form.sent()
    secret = form.text("invitation", pattern=_INVITATION, wanted="An invitation begins with hmi_.")
    chosen, again = form.get("password"), form.get("again")
    if chosen != again:
        form.errors["again"] = "The two passwords differ."
    _require_own_page()
    with form.refusals():
        if form.ok:
            count_sign_in()
            with home().database.write() as session:
                person = people.accept_invitation(session, secret, chosen)
            return _redirect(url_for("sign_in_pages.show", name=person.name))
    return render("accounts/invitation.html", form=form), 422


@pages.get("/done")
@public
def back() -> Answer:
    """Where a sign-in ends that another tab of the console waits for."""
    return render("accounts/signed_in.html", complete=_complete())


def _page(form: Form) -> str:
    current = web_session()
    owing = current is not None and not current.row.complete
    offered: list[str] = []
    if current is not None and owing:
        with home().database.read() as session:
            offered = factors.factors(session, current.person.id)
    form.values.setdefault("name", request.args.get("name", ""))
    return render(
        "accounts/sign_in.html",
        form=form,
        owing=owing,
        person=current.person.name if current is not None and owing else None,
        factors=offered,
        providers=list(account_settings().providers.values()),
        next=_next(),
    )


def _arrived(done: SignedIn) -> Response:
    going = _next() if done.complete else url_for("sign_in_pages.show", next=_next())
    return set_session(_redirect(going), done)


def _complete() -> bool:
    current = web_session()
    return current is not None and current.row.complete


def _redirect(url: str) -> Response:
    return redirect(url, 303)


def _next() -> str:
    """Where to go after the sign-in: a page of the console, whatever a link may say."""
    wanted = request.form.get("next") or request.args.get("next") or ""
    parts = urlsplit(wanted)
    own = not parts.scheme and not parts.netloc and re.match(r"/console(/|\?|$)", wanted) is not None
    return wanted if own and "\\" not in wanted else url_for("console.dashboard")


def _require_own_page() -> None:
    """:class:`ForbiddenError` for a form that another site sent: it would sign the visitor in as somebody."""
    origin = request.headers.get("Origin")
    fetched = request.headers.get("Sec-Fetch-Site")
    foreign = fetched not in (None, "same-origin", "none")
    if foreign or (fetched is None and origin not in (None, "null", request.host_url.rstrip("/"))):
        raise ForbiddenError(
            "this form was sent by another site.", "Open the console itself and sign in there."
        )
