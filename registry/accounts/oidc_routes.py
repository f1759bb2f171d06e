"""Where browsers go to sign in at an OpenID provider and come back; not part of the API's document."""

from __future__ import annotations

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response

from registry.accounts import oidc, security, signin
from registry.accounts.browser import count_sign_in, set_session, site
from registry.accounts.models import Person
from registry.accounts.security import Event
from registry.api.access import account_settings, home, public, web_session
from registry.errors import AuthenticationError

oidc_routes = Blueprint("oidc", __name__, url_prefix=oidc.PATH)

AFTER = "/"
"""Where a browser goes when it has signed in."""


@oidc_routes.get("/<name>/start")
@public
def start(name: str) -> Response:
    """Send the browser to the provider."""
    count_sign_in()
    journey = oidc.begin(home(), oidc.get_provider(account_settings(), name), site())
    response = redirect(journey.url)
    oidc.bind(response, journey)
    return response


@oidc_routes.get("/<name>/callback")
@public
def callback(name: str) -> Response:
    """The browser comes back: sign its person in, or link the account that he asked to link."""
    count_sign_in()
    provider = oidc.get_provider(account_settings(), name)
    response = redirect(AFTER)
    response.delete_cookie(oidc.COOKIE, path=oidc.PATH)
    try:
        arrival = oidc.finish(home(), provider, site(), request.args, request.cookies.get(oidc.COOKIE))
        current = web_session()
        with home().database.write() as session:
            if arrival.person is not None:
                if current is None or not current.row.complete or current.person.id != arrival.person:
                    raise AuthenticationError("only who began it can link an account.", "Begin again.")
                oidc.link(session, provider, session.get_one(Person, arrival.person), arrival.claims)
                return response
            person = oidc.recognise(session, provider, arrival.claims)
            done = signin.begin(session, account_settings(), person, f"oidc {provider.name}", current)
    except AuthenticationError as error:
        security.log(home(), Event.SIGN_IN_FAILED, means=f"oidc {provider.name}", reason=str(error))
        raise
    return set_session(response, done)
