"""Administration in the console: organisations, people, tokens, the security log, the registry itself."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, request, url_for
from sqlalchemy import select
from sqlalchemy.engine import make_url

from registry.accounts import factors, people, security, sessions, tokens
from registry.accounts.models import ApiToken, Organisation, Person, SecurityEvent
from registry.accounts.permissions import PERMISSIONS, Permission, Role
from registry.accounts.security import Event
from registry.api.access import account_settings, home, principal, requires
from registry.console.page import Answer, Form, done, listing, render, state_of
from registry.errors import ForbiddenError, NotFoundError
from registry.serving.probes import readiness

pages = Blueprint("admin_pages", __name__, url_prefix="/console/administration", template_folder="templates")

_LOGIN = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}"
ROLES = (
    ("viewer", "viewer: reads models and copies"),
    ("auditor", "auditor: also resolves images and asks for recipients' names"),
    ("issuer", "issuer: also adds recipients, issues, delivers, revokes"),
    ("admin", "admin: everything, people and models included"),
)


@pages.get("")
@requires(Permission.READ_ACCOUNT)
def index() -> Answer:
    """What can be looked after."""
    return render("accounts/administration.html", operator=_operator())


@pages.get("/people")
@requires(Permission.MANAGE_PEOPLE)
def list_people() -> Answer:
    """People of the organisation."""
    with home().database.read() as session:
        query = select(Person).where(Person.organisation_id == principal().organisation)
        found = listing(session, query, Person.id)
    return render("accounts/people.html", people=found)


@pages.get("/people/new")
@requires(Permission.MANAGE_PEOPLE)
def new_person() -> Answer:
    """The form to invite somebody with."""
    return render("accounts/new_person.html", form=Form({"role": "viewer"}), roles=ROLES)


@pages.post("/people/new")
@requires(Permission.MANAGE_PEOPLE)
def add_person() -> Answer:
    """Invite a person; the invitation is shown once."""
    form = Form.sent()
    name = form.text("name", pattern=_LOGIN, wanted="Use letters, digits and . _ @ + -")
    role = form.choice("role", [value for value, _ in ROLES])
    email = form.text("email", needed=False, longest=254) or None
    with form.refusals():
        if form.ok:
            with home().database.write() as session:
                added = people.add_person(session, principal().organisation, name, Role(role), email)
                secret = people.invite(session, added)
            return _invited(added.name, secret)
    return render("accounts/new_person.html", form=form, roles=ROLES), 422


@pages.get("/people/<name>")
@requires(Permission.MANAGE_PEOPLE)
def show_person(name: str) -> Answer:
    """One person."""
    return _person(name, None)


@pages.post("/people/<name>")
@requires(Permission.MANAGE_PEOPLE)
def change_person(name: str) -> Answer:
    """Change the role; not over somebody else's change that this page does not show."""
    form = Form.sent()
    role = form.choice("role", [value for value, _ in ROLES])
    with form.refusals():
        if form.ok:
            with home().database.write() as session:
                person = people.get_person(session, name, principal().organisation)
                form.require_unchanged(person.name, people.describe(person))
                people.change_role(session, person, Role(role))
            return done(url_for("admin_pages.show_person", name=name), f"{name} is {role} now.")
    return _person(name, form), 409


@pages.post("/people/<name>/<action>")
@requires(Permission.MANAGE_PEOPLE)
def act_on_person(name: str, action: str) -> Answer:
    """Disable or enable an account, invite again, remove lost second factors."""
    form = Form()
    with form.refusals():
        with home().database.write() as session:
            person = people.get_person(session, name, principal().organisation)
            if action == "invite":
                return _invited(person.name, people.invite(session, person))
            if action == "disable":
                people.disable(session, person)
                said = f"{name} is signed out, and neither he nor his tokens get in."
            elif action == "enable":
                people.enable(session, person)
                said = f"{name} may sign in again."
            elif action == "factors":
                factors.remove_all(session, person.id)
                sessions.end_all(session, person.id)
                security.record(session, Event.FACTORS_REMOVED, person=person.name)
                said = f"{name} signs in with the password alone until a new second factor is added."
            else:
                raise NotFoundError(f"nothing is called {action} here.", "Go back to the person.")
        return done(url_for("admin_pages.show_person", name=name), said, "warn")
    return _person(name, form), 409


@pages.get("/organisations")
@requires(Permission.MANAGE_ORGANISATIONS)
def organisations() -> Answer:
    """The own organisation; for the operator's administrators all."""
    return _organisations(Form())


@pages.post("/organisations")
@requires(Permission.MANAGE_ORGANISATIONS)
def add_organisation() -> Answer:
    """Add an organisation with its first administrator."""
    form = Form.sent()
    name = form.text("name", longest=63)
    admin = form.text("admin", pattern=_LOGIN, wanted="Use letters, digits and . _ @ + -")
    email = form.text("email", needed=False, longest=254) or None
    with form.refusals():
        if not _operator():
            raise ForbiddenError("only the operator's organisation adds others.", "Ask the operator.")
        if form.ok:
            with home().database.write() as session:
                added = people.add_organisation(session, name)
                person = people.add_person(session, added.id, admin, Role.ADMIN, email)
                secret = people.invite(session, person)
            return _invited(person.name, secret, organisation=name)
    return _organisations(form), 422


@pages.get("/tokens")
@requires(Permission.READ_ACCOUNT)
def list_tokens() -> Answer:
    """One's own tokens; for administrators all of the organisation."""
    return _tokens(Form({"role": principal().role.value, "expires_days": "90"}))


@pages.post("/tokens")
@requires(Permission.WRITE_ACCOUNT)
def add_token() -> Answer:
    """Create a token; its secret is shown this once."""
    form = Form.sent()
    who = principal()
    name = form.text("name", longest=80)
    role = form.choice("role", [value for value, _ in ROLES])
    days = form.number("expires_days", 1, tokens.LONGEST_DAYS)
    scopes = [scope for scope in request.form.getlist("scopes") if scope in list(Permission)]
    with form.refusals():
        if form.ok:
            if who.token is not None:
                who.require(Permission.MANAGE_PEOPLE)
            with home().database.write() as session:
                row, secret = tokens.create(
                    session,
                    who.organisation,
                    name,
                    Role(role),
                    scopes={Permission(scope) for scope in scopes},
                    expires_days=days,
                    person=who.person,
                    creator=who,
                )
            return _tokens(Form({"role": role, "expires_days": str(days)}), made=row, secret=secret)
    return _tokens(form), 422


@pages.post("/tokens/<prefix>/revoke")
@requires(Permission.WRITE_ACCOUNT)
def revoke_token(prefix: str) -> Answer:
    """Revoke a token."""
    who = principal()
    with home().database.write() as session:
        tokens.get_token(session, who.organisation, prefix, who)
        tokens.revoke(session, who.organisation, prefix)
    return done(url_for("admin_pages.list_tokens"), f"The token {prefix} is revoked.", "warn")


@pages.get("/security")
@requires(Permission.READ_SECURITY_LOG)
def security_log() -> Answer:
    """The security log, newest first."""
    form = Form(request.args)
    organisation = principal().organisation
    wanted = form.get("kind").strip() or None
    with home().database.read() as session:
        operator = people.is_operator(session, organisation)
        chosen = security.events(organisation, operator=operator, kind=wanted)
        found = listing(session, chosen, SecurityEvent.id)
        rows = found.each([(row, json.loads(row.detail)) for row in found])
    kinds = [("", "Every kind"), *((event.value, event.value) for event in Event)]
    return render("accounts/security.html", events=rows, form=form, kinds=kinds)


@pages.get("/registry")
@requires(Permission.MANAGE_ORGANISATIONS)
def registry() -> Answer:
    """What the registry runs on: for the operator's administrators."""
    if not _operator():
        raise ForbiddenError("only the operator's organisation sees this.", "Ask the operator.")
    settings, limits = home().settings, account_settings().limits
    identity = home().identity
    return render(
        "accounts/registry.html",
        checks=readiness(home()),
        database=make_url(settings.database_url).render_as_string(hide_password=True),
        storage=settings.storage_url,
        revision=home().database.revision(),
        identity=identity,
        signing=settings.table("signing").get("registry", {}).get("keep", "database"),
        accounts=account_settings(),
        limits=limits,
    )


def _operator() -> bool:
    with home().database.read() as session:
        return people.is_operator(session, principal().organisation)


def _invited(name: str, secret: str, organisation: str | None = None) -> str:
    address = url_for("sign_in_pages.invitation", invitation=secret, _external=True)
    return render(
        "accounts/invited.html", name=name, secret=secret, address=address, organisation=organisation
    )


def _person(name: str, form: Form | None) -> str:
    with home().database.read() as session:
        person = people.get_person(session, name, principal().organisation)
        described = people.describe(person)
        shown = factors.factors(session, person.id)
    if form is None:
        form = Form({"role": person.role, "seen": state_of(described)})
    form.values.setdefault("role", person.role)
    form.values.setdefault("seen", state_of(described))
    return render("accounts/person.html", person=person, factors=shown, form=form, roles=ROLES)


def _organisations(form: Form) -> str:
    operator = _operator()
    query = select(Organisation)
    if not operator:
        query = query.where(Organisation.id == principal().organisation)
    with home().database.read() as session:
        found = listing(session, query, Organisation.id)
    return render("accounts/organisations.html", organisations=found, form=form, operator=operator)


def _tokens(form: Form, made: ApiToken | None = None, secret: str = "") -> str:
    who = principal()
    chosen = select(ApiToken).where(ApiToken.organisation_id == who.organisation, tokens.within_reach(who))
    with home().database.read() as session:
        found = listing(session, chosen, ApiToken.id)
    scopes: list[Any] = sorted(permission.value for permission in who.permissions)
    roles = [role for role in ROLES if PERMISSIONS[Role(role[0])] <= who.permissions]
    return render(
        "accounts/tokens.html", tokens=found, form=form, roles=roles, scopes=scopes, made=made, secret=secret
    )
