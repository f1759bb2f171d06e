"""Signing in at an OpenID provider (OpenID Connect, code flow with PKCE).

    journey = begin(home, provider, site)                       # send the browser to journey.url
    arrival = finish(home, provider, site, request.args, cookie)  # it came back
    person = recognise(session, provider, arrival.claims)

An account there belongs to a person here by its subject. An address decides nothing, except where the
operator trusts what this provider verified (``link_verified_email``), and then only once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from registry.accounts import ceremonies, security
from registry.accounts.browser import set_cookie
from registry.accounts.models import LinkedIdentity, Person
from registry.accounts.passkeys import Site
from registry.accounts.security import Event
from registry.accounts.service import normal_email
from registry.accounts.settings import AccountSettings, Provider
from registry.api.problems import Problem
from registry.db import unix_now
from registry.errors import AuthenticationError, InputError, NotFoundError, StateError
from registry.home import Home
from verifier.bundle import utc

KIND = "oidc"
COOKIE = "hallmark_oidc"
PATH = "/auth/oidc"
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures only: a shared secret would let whoever knows it forge tokens."""

TIMEOUT = 10
"""Seconds for each request to a provider."""

LEEWAY = 60
_PURPOSE = "oidc-journey"
_SUBJECT = re.compile(r"[ -~]{1,255}")  # as OpenID Connect Core 1.0 section 2 limits it


@dataclass(frozen=True)
class Journey:
    """Where a browser is sent, and the secret by which it is known when it comes back."""

    url: str
    browser: str


@dataclass(frozen=True)
class Arrival:
    """Who came back: the claims of the ID token, and the person who asked to link the account, if one did."""

    claims: Mapping[str, Any]
    person: int | None


def get_provider(settings: AccountSettings, name: str) -> Provider:
    """The provider configured under ``name``; :class:`NotFoundError`."""
    found = settings.providers.get(name)
    if found is None:
        raise NotFoundError(f"there is no provider {name}.", "See GET /api/v1/session.")
    return found


def begin(home: Home, provider: Provider, site: Site, person: int | None = None) -> Journey:
    """Start a sign-in, or for ``person`` the linking of an account there.

    :class:`Problem` 503 where the provider does not answer.
    """
    state, nonce, verifier, browser = (secrets.token_urlsafe(32) for _ in range(4))
    authorization = _discover(provider)["authorization_endpoint"]
    url, _ = _client(provider, site).create_authorization_url(
        authorization, state=state, code_verifier=verifier, nonce=nonce
    )
    kept = {"provider": provider.name, "nonce": nonce, "verifier": verifier, "browser": _digest(browser)}
    with home.database.write() as session:
        sealed = home.master.seal(json.dumps(kept).encode(), _PURPOSE)
        ceremonies.begin(session, KIND, state.encode(), person=person, sealed=sealed)
    return Journey(url, browser)


def bind(response: Response, journey: Journey) -> None:
    """Let the browser prove that it is the one that was sent away."""
    set_cookie(response, COOKIE, journey.browser, ceremonies.LIFETIME, PATH)


def finish(
    home: Home, provider: Provider, site: Site, arguments: Mapping[str, str], browser: str | None
) -> Arrival:
    """Check what the browser came back with; :class:`AuthenticationError` where anything does not hold."""
    waiting = ceremonies.take(home, KIND, arguments.get("state", "").encode())
    if waiting is None or waiting.sealed is None:
        raise _refused("it was not begun here, or too long ago")
    kept = json.loads(home.master.open(waiting.sealed, _PURPOSE))
    if kept["provider"] != provider.name or arguments.get("iss", provider.issuer) != provider.issuer:
        raise _refused("it comes from another provider")
    if not hmac.compare_digest(_digest(browser or ""), kept["browser"]):
        raise _refused("it was begun in another browser")
    if "code" not in arguments:
        raise _refused("the provider did not agree")
    claims = _exchange(provider, site, arguments["code"], kept["verifier"], kept["nonce"])
    return Arrival(claims, waiting.person_id)


def recognise(session: Session, provider: Provider, claims: Mapping[str, Any]) -> Person:
    """The person whose account this is; :class:`AuthenticationError` where it is nobody's."""
    query = (
        select(Person)
        .join(LinkedIdentity, LinkedIdentity.person_id == Person.id)
        .where(LinkedIdentity.issuer == provider.issuer, LinkedIdentity.subject == claims["sub"])
    )
    person = session.execute(query).scalar_one_or_none()
    if person is None and provider.link_verified_email and claims.get("email_verified") is True:
        person = _invited(session, str(claims.get("email", "")), provider)
        if person is not None:
            link(session, provider, person, claims)
    if person is None or person.disabled_at is not None:
        raise AuthenticationError(
            f"this account at {provider.title} is not linked to anybody here.",
            "Sign in otherwise and link it in your account, or ask your administrator.",
        )
    return person


def link(session: Session, provider: Provider, person: Person, claims: Mapping[str, Any]) -> None:
    """Link the account to ``person``; :class:`StateError` if it is linked already."""
    query = select(LinkedIdentity.id).where(
        LinkedIdentity.issuer == provider.issuer, LinkedIdentity.subject == claims["sub"]
    )
    if session.execute(query).first():
        raise StateError(f"this account at {provider.title} is linked already.", "Unlink it first.")
    session.add(
        LinkedIdentity(
            person_id=person.id, issuer=provider.issuer, subject=claims["sub"], created_at=unix_now()
        )
    )
    security.record(
        session,
        Event.IDENTITY_LINKED,
        organisation=person.organisation_id,
        actor=f"person {person.name}",
        issuer=provider.issuer,
    )


def identities(session: Session, person: int) -> Sequence[LinkedIdentity]:
    """The linked accounts of a person."""
    query = select(LinkedIdentity).where(LinkedIdentity.person_id == person).order_by(LinkedIdentity.id)
    return session.execute(query).scalars().all()


def unlink(session: Session, person: int, number: int) -> LinkedIdentity:
    """Forget one of a person's linked accounts; :class:`NotFoundError` if it is not his."""
    found = session.get(LinkedIdentity, number)
    if found is None or found.person_id != person:
        raise NotFoundError(f"there is no linked account {number}.", "See your account.")
    session.delete(found)
    return found


def describe(identity: LinkedIdentity) -> dict[str, Any]:
    """A linked account as the API shows it."""
    return {"id": identity.id, "issuer": identity.issuer, "created_at": utc(identity.created_at)}


def _invited(session: Session, email: str, provider: Provider) -> Person | None:
    """The person invited with this address, unless another account of this provider is already his."""
    try:
        query = select(Person).where(Person.email == normal_email(email))
    except InputError:
        return None
    person = session.execute(query).scalar_one_or_none()
    if person is None or any(found.issuer == provider.issuer for found in identities(session, person.id)):
        return None
    return person


def _exchange(provider: Provider, site: Site, code: str, verifier: str, nonce: str) -> Mapping[str, Any]:
    """The claims of the ID token that the provider gives for ``code``, all checked."""
    found = _discover(provider)
    try:
        token = _client(provider, site).fetch_token(
            found["token_endpoint"], code=code, code_verifier=verifier, timeout=TIMEOUT
        )
        keys = KeySet.import_key_set(cast(Any, _get(found["jwks_uri"])))
        signed = jwt.decode(token["id_token"], keys, algorithms=ALGORITHMS)
        claims = CodeIDToken(
            signed.claims,
            signed.header,
            {
                "iss": {"essential": True, "value": provider.issuer},
                "aud": {"essential": True, "value": provider.client_id},
                "sub": {"essential": True},
            },
            {"nonce": nonce, "client_id": provider.client_id, "access_token": token.get("access_token")},
        )
        claims.validate(leeway=LEEWAY)
    except requests.RequestException:
        raise _silent(provider) from None
    except (AuthlibBaseError, JoseError, KeyError, TypeError, ValueError):
        raise _refused("the provider's answer does not hold") from None
    subject = claims["sub"]
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise _refused("the provider's subject cannot be used")
    return cast(Mapping[str, Any], claims)


def _client(provider: Provider, site: Site) -> OAuth2Session:
    return OAuth2Session(
        provider.client_id,
        provider.client_secret,
        scope="openid email",
        redirect_uri=f"{site.origin}{PATH}/{provider.name}/callback",
        code_challenge_method="S256",
    )


def _discover(provider: Provider) -> Mapping[str, Any]:
    """The provider's description of itself, which must be about itself."""
    try:
        found = _get(provider.issuer.rstrip("/") + "/.well-known/openid-configuration")
    except (requests.RequestException, ValueError):
        raise _silent(provider) from None
    needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    if found.get("issuer") != provider.issuer or not all(isinstance(found.get(key), str) for key in needed):
        raise _silent(provider)
    return found


def _get(url: str) -> dict[str, Any]:
    response = requests.get(url, timeout=TIMEOUT, allow_redirects=False)
    response.raise_for_status()
    found = response.json()
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _digest(browser: str) -> str:
    return hashlib.sha256(browser.encode()).hexdigest()


def _refused(reason: str) -> AuthenticationError:
    return AuthenticationError(f"this sign-in does not hold: {reason}.", "Begin again.")


def _silent(provider: Provider) -> Problem:
    return Problem(
        503, f"{provider.title} does not answer as it should.", "Try again later, or sign in otherwise."
    )
