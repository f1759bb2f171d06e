"""Signing in and out over HTTP.

A browser sends its name and password, perhaps a second factor, and gets a cookie. Every request that changes
something then carries the ``csrf_token`` of the session in the header ``X-CSRF-Token``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Response, make_response, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field, StringConstraints
from werkzeug.wrappers import Response as AnyResponse

from registry.accounts import factors, passkeys, security, sessions, signin
from registry.accounts.browser import (
    clear_session,
    count_sign_in,
    owing_session,
    reply,
    set_session,
    site,
)
from registry.accounts.models import Organisation
from registry.accounts.security import Event
from registry.accounts.sessions import Current
from registry.accounts.signin import SignedIn
from registry.api.access import account_settings, home, optional_principal, public, web_session
from registry.api.document import problem
from registry.api.schemas import Body, Query, Reply

session_routes = APIBlueprint(
    "session",
    __name__,
    url_prefix="/api/v1/session",
    abp_tags=[Tag(name="session", description="Signing in and out.")],
)

Code = Annotated[str, StringConstraints(pattern=r"^([0-9]{6}|[a-z2-7]{4}(-[a-z2-7]{4}){3})$")]
"""Six digits of an authenticator, or a recovery code."""

_REFUSED: dict[str | int, Any] = {401: problem("The answer is wrong")}
_FACTOR_REFUSED = _REFUSED | {403: problem("The CSRF token is missing or wrong")}


class ProviderReply(Reply):
    """An OpenID provider; signing in begins at `/auth/oidc/{name}/start`."""

    name: str
    title: str


class SessionReply(Reply):
    """Who makes requests from here."""

    state: Literal["nobody", "factor-needed", "signed-in", "token"]
    csrf_token: str | None = Field(description="For the header X-CSRF-Token.")
    factors: list[str] = Field(description="With which the sign-in can be completed.")
    person: str | None
    organisation: str | None
    role: str | None
    permissions: list[str]
    providers: list[ProviderReply]


class OptionsReply(Reply):
    """For `navigator.credentials`."""

    options: dict[str, Any]


class Password(Body):
    """The first step of signing in."""

    name: Annotated[str, StringConstraints(max_length=254, pattern=r"^[^\x00-\x1f\x7f]+$")]
    password: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class SecondFactor(Body):
    """The second step of signing in."""

    code: Code


class PasskeyAnswer(Body):
    """What `navigator.credentials.get()` gave, as JSON."""

    credential: dict[str, Any]


class SignOut(Query):
    """Where to sign out."""

    everywhere: bool = False


@session_routes.get("", responses={200: SessionReply, 401: problem("The token does not hold")})
@public
def show_session() -> Response:
    """Who makes this request."""
    return reply(_describe(web_session()))


@session_routes.post("", responses={200: SessionReply, **_REFUSED})
@public
def sign_in(body: Password) -> AnyResponse:
    """Sign in with a password. Accounts with a second factor are asked for it next."""
    count_sign_in()
    done = signin.with_password(
        home(), account_settings(), body.name, body.password, request.remote_addr, web_session()
    )
    return _answer(done)


@session_routes.post("/totp", responses={200: SessionReply, **_FACTOR_REFUSED})
@public
def complete_with_code(body: SecondFactor) -> AnyResponse:
    """Complete a sign-in with a code."""
    count_sign_in()
    return _answer(
        signin.with_code(home(), account_settings(), owing_session(), body.code, request.remote_addr)
    )


@session_routes.post("/passkey/options", responses={200: OptionsReply, **_FACTOR_REFUSED})
@public
def passkey_options() -> dict[str, Any]:
    """A challenge for a passkey: the second factor of who owes one, else anybody's passkey."""
    count_sign_in()
    owing = _owing()
    with home().database.write() as session:
        return {"options": passkeys.begin_sign_in(session, site(), None if owing is None else owing.person)}


@session_routes.post("/passkey", responses={200: SessionReply, **_FACTOR_REFUSED})
@public
def sign_in_with_passkey(body: PasskeyAnswer) -> AnyResponse:
    """Sign in with a passkey, or complete a sign-in with it."""
    count_sign_in()
    return _answer(signin.with_passkey(home(), account_settings(), site(), body.credential, _owing()))


@session_routes.delete("", responses={204: None, 403: problem("The CSRF token is missing or wrong")})
@public
def sign_out(query: SignOut) -> AnyResponse:
    """Sign out here or, for a person who is signed in, everywhere."""
    current = web_session()
    if current is not None:
        sessions.require_csrf(current, request.headers.get(sessions.CSRF_HEADER))
        person = current.person
        with home().database.write() as session:
            if query.everywhere and current.row.complete:
                sessions.end_all(session, person.id)
            else:
                sessions.end(session, current)
            security.record(
                session,
                Event.SIGNED_OUT,
                organisation=person.organisation_id,
                actor=f"person {person.name}",
                everywhere=query.everywhere,
            )
    return clear_session(make_response("", 204))


def _owing() -> Current | None:
    """The session whose second factor a passkey is to be; ``None`` where it signs in alone."""
    current = web_session()
    return None if current is None or current.row.complete else owing_session()


def _answer(done: SignedIn) -> AnyResponse:
    with home().database.read() as session:
        current = sessions.find(session, done.secret, account_settings())
    return set_session(reply(_describe(current)), done)


def _describe(current: Current | None) -> dict[str, Any]:
    who = optional_principal() if current is None else current.principal
    owing = current is not None and who is None
    named = current.person if current is not None else None
    with home().database.read() as session:
        return {
            "state": "factor-needed" if owing else "nobody" if who is None else _kind(current),
            "csrf_token": None if current is None else current.csrf_token,
            "factors": factors.factors(session, named.id) if owing and named is not None else [],
            "person": named.name if named is not None and who is not None else None,
            "organisation": None if who is None else session.get_one(Organisation, who.organisation).name,
            "role": None if who is None else who.role.value,
            "permissions": [] if who is None else sorted(who.permissions),
            "providers": [
                {"name": provider.name, "title": provider.title}
                for provider in account_settings().providers.values()
            ],
        }


def _kind(current: Current | None) -> str:
    return "token" if current is None else "signed-in"
