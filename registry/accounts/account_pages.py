"""One's own account in the console: password, second factors, passkeys, linked accounts."""

from __future__ import annotations

import segno
from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from registry.accounts import factors, oidc, passkeys, people, security, sessions
from registry.accounts.account_routes import recent_session, require_password
from registry.accounts.browser import clear_session, signed_in_person, site
from registry.accounts.models import Person
from registry.accounts.permissions import Permission
from registry.accounts.security import Event
from registry.api.access import account_settings, home, requires
from registry.console.page import Answer, Form, done, render
from registry.db import unix_now
from registry.errors import NotFoundError, StateError

pages = Blueprint("account_pages", __name__, url_prefix="/console/account", template_folder="templates")


@pages.get("")
@requires(Permission.READ_ACCOUNT)
def index() -> Answer:
    """The account."""
    return _page(Form())


@pages.post("/password")
@requires(Permission.WRITE_ACCOUNT)
def password() -> Answer:
    """Change the password; everywhere else the person is signed out."""
    form = Form.sent()
    current = signed_in_person()
    if form.get("new") != form.get("again"):
        form.errors["again"] = "The two passwords differ."
    with form.refusals():
        if form.ok:
            if current.person.password_hash is None:
                sessions.require_recent(current)
            else:
                require_password(current.person, form.get("current"))
            with home().database.write() as session:
                person = session.get_one(Person, current.person.id)
                people.set_password(session, person, form.get("new"), current)
            return done(
                url_for("account_pages.index"), "The password is changed. Other browsers are signed out."
            )
    return _page(form, asked="password"), 422


@pages.post("/authenticator")
@requires(Permission.WRITE_ACCOUNT)
def begin_totp() -> Answer:
    """Begin with an authenticator: its secret as a picture and as text."""
    form = Form()
    with form.refusals():
        current = recent_session()
        with home().database.write() as session:
            secret, uri = factors.begin_totp(session, home().master, current.person)
        return _totp_page(Form({"secret": secret, "uri": uri}))
    return _page(form, asked="totp"), 422


@pages.post("/authenticator/confirm")
@requires(Permission.WRITE_ACCOUNT)
def confirm_totp() -> Answer:
    """Take it into use, and show the recovery codes."""
    form = Form.sent()
    code = form.text("code", pattern=r"[0-9]{6}", wanted="Give the six digits that it shows.")
    with form.refusals():
        if form.ok:
            current = recent_session()
            with home().database.write() as session:
                codes = factors.confirm_totp(session, home().master, current.person, code)
                security.record(session, Event.TOTP_ADDED)
            return render("accounts/recovery_codes.html", codes=codes, fresh=True)
    return _totp_page(form), 422


@pages.post("/authenticator/remove")
@requires(Permission.WRITE_ACCOUNT)
def remove_totp() -> Answer:
    """Remove the authenticator."""
    form = Form()
    with form.refusals():
        current = recent_session()
        with home().database.write() as session:
            factors.remove_totp(session, current.person.id)
            security.record(session, Event.TOTP_REMOVED)
        return done(url_for("account_pages.index"), "The authenticator is removed.", "warn")
    return _page(form, asked="totp"), 422


@pages.post("/recovery-codes")
@requires(Permission.WRITE_ACCOUNT)
def recovery_codes() -> Answer:
    """New recovery codes in place of the old ones."""
    form = Form()
    with form.refusals():
        current = recent_session()
        with home().database.write() as session:
            if not factors.factors(session, current.person.id):
                raise StateError("there is no second factor to recover.", "Add one first.")
            codes = factors.make_recovery_codes(session, current.person.id)
            security.record(session, Event.RECOVERY_CODES)
        return render("accounts/recovery_codes.html", codes=codes, fresh=False)
    return _page(form, asked="totp"), 422


@pages.post("/passkeys/<int:number>/remove")
@requires(Permission.WRITE_ACCOUNT)
def remove_passkey(number: int) -> Answer:
    """Remove one of the person's passkeys."""
    form = Form()
    with form.refusals():
        current = recent_session()
        with home().database.write() as session:
            removed = passkeys.remove(session, current.person.id, number)
            security.record(session, Event.PASSKEY_REMOVED, passkey=removed.name)
        return done(url_for("account_pages.index"), f"The passkey {removed.name} is removed.", "warn")
    return _page(form, asked="passkeys"), 422


@pages.get("/identities/<name>")
@requires(Permission.WRITE_ACCOUNT)
def link_identity(name: str) -> Answer:
    """Go to an OpenID provider, to link the account there."""
    form = Form()
    with form.refusals():
        current = recent_session()
        provider = oidc.get_provider(account_settings(), name)
        if request.headers.get("Sec-Fetch-Site") not in (None, "same-origin"):
            raise NotFoundError("this begins on your account's page.", "Begin there.")
        journey = oidc.begin(home(), provider, site(), person=current.person.id)
        response: Response = redirect(journey.url)
        oidc.bind(response, journey)
        return response
    return _page(form, asked="identities"), 422


@pages.post("/identities/<int:number>/remove")
@requires(Permission.WRITE_ACCOUNT)
def unlink_identity(number: int) -> Answer:
    """Unlink an account at an OpenID provider."""
    form = Form()
    with form.refusals():
        current = recent_session()
        with home().database.write() as session:
            removed = oidc.unlink(session, current.person.id, number)
            security.record(session, Event.IDENTITY_UNLINKED, issuer=removed.issuer)
        return done(url_for("account_pages.index"), "The account is unlinked.", "warn")
    return _page(form, asked="identities"), 422


@pages.post("/sign-out-everywhere")
@requires(Permission.WRITE_ACCOUNT)
def sign_out_everywhere() -> Answer:
    """End all sessions of the person, this one too."""
    current = signed_in_person()
    with home().database.write() as session:
        sessions.end_all(session, current.person.id)
        security.record(session, Event.SIGNED_OUT, everywhere=True)
    return clear_session(redirect(url_for("sign_in_pages.show"), 303))


def _page(form: Form, asked: str = "") -> str:
    current = signed_in_person()
    person = current.person
    with home().database.read() as session:
        return render(
            "accounts/account.html",
            person=person,
            factors=factors.factors(session, person.id),
            left=factors.recovery_codes_left(session, person.id),
            passkeys=passkeys.passkeys(session, person.id),
            identities=oidc.identities(session, person.id),
            providers=list(account_settings().providers.values()),
            recent=unix_now() - current.row.created_at <= sessions.RECENT_SECONDS,
            form=form,
            asked=asked,
        )


def _totp_page(form: Form) -> str:
    """The secret is shown again after a wrong code: it came with the form, and counts only once confirmed."""
    picture = segno.make(form.get("uri") or "otpauth:", micro=False).svg_data_uri(scale=4, border=2)
    return render("accounts/authenticator.html", form=form, picture=picture)
