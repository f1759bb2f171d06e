"""Signing in at a real OpenID provider."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from joserfc.jwk import OctKey, RSAKey
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from registry.accounts import people
from registry.accounts.models import Ceremony, Person, SecurityEvent
from registry.db import unix_now
from registry.errors import InputError
from registry.home import Home
from tests.registry.accounts.provider import CLIENT, SECRET, Provider, running
from tests.registry.accounts.support import ADMIN, Browser, add_admin


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running() as found:
        yield found


def configure(home: Home, provider: Provider, more: str = "") -> None:
    with (home.settings.home / "config.toml").open("a") as file:
        file.write(
            f'\n[oidc.corp]\ntitle = "Corp"\nissuer = "{provider.issuer}"\nclient_id = "{CLIENT}"\n'
            f'client_secret = "{SECRET}"\n{more}\n'
        )


@pytest.fixture
def browser(sqlite_home: Home, provider: Provider) -> Browser:
    configure(sqlite_home, provider)
    add_admin(sqlite_home)
    return Browser(sqlite_home)


def travel(url: str) -> str:
    """Follow the browser to the provider; the path it is sent back to."""
    back = requests.get(url, allow_redirects=False, timeout=10).headers["Location"]
    parts = urlsplit(back)
    return f"{parts.path}?{parts.query}"


def sign_in(browser: Browser) -> TestResponse:
    sent = browser.client.get("/auth/oidc/corp/start")
    assert sent.status_code == 302
    return browser.client.get(travel(sent.headers["Location"]))


def link(browser: Browser) -> TestResponse:
    begun = browser.send("POST", "/account/identities", {"provider": "corp"})
    return browser.client.get(travel(begun.get_json()["url"]))


def test_an_account_is_linked_and_then_signs_in(home: Home, provider: Provider) -> None:
    configure(home, provider)
    add_admin(home)
    browser = Browser(home)
    assert browser.state()["providers"] == [{"name": "corp", "title": "Corp"}]
    assert sign_in(browser).status_code == 401  # nobody's yet
    browser.sign_in()
    assert link(browser).status_code == 302
    assert browser.get("/account").get_json()["identities"][0]["issuer"] == provider.issuer
    other = Browser(home, browser.app)
    assert sign_in(other).headers["Location"] == "/"
    state = other.state()
    assert (state["state"], state["person"]) == ("signed-in", ADMIN)
    assert {"account.identity-linked", "session.signed-in"} <= set(events(home))
    assert link(browser).status_code == 409
    number = browser.get("/account").get_json()["identities"][0]["id"]
    assert browser.send("DELETE", f"/account/identities/{number}").status_code == 204
    assert sign_in(other).status_code == 401


def events(home: Home) -> list[str]:
    with home.database.read() as session:
        return list(session.execute(select(SecurityEvent.kind)).scalars())


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another client"},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"sub": None},
        {"sub": 7},
        {"sub": ""},
        {"sub": "a\u0000b"},
        {"sub": "x" * 256},
    ],
)
def test_a_token_that_is_not_for_us_now_is_refused(
    browser: Browser, provider: Provider, claims: dict[str, Any], sqlite_home: Home
) -> None:
    browser.sign_in()
    link(browser)
    provider.claims = claims
    other = Browser(sqlite_home, browser.app)
    assert sign_in(other).status_code == 401
    assert other.state()["state"] == "nobody"


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # the provider signs with "none"
@pytest.mark.parametrize("forgery", ["another key", "none", "shared secret"])
def test_a_forged_token_is_refused(
    browser: Browser, provider: Provider, forgery: str, sqlite_home: Home
) -> None:
    browser.sign_in()
    link(browser)
    if forgery == "another key":
        provider.signing = RSAKey.generate_key(2048, {"kid": "1"})
    elif forgery == "none":
        provider.header, provider.signing = {"alg": "none"}, OctKey.generate_key()
    else:
        provider.header, provider.signing = {"alg": "HS256"}, OctKey.import_key(SECRET)
    other = Browser(sqlite_home, browser.app)
    assert sign_in(other).status_code == 401
    assert "session.sign-in-failed" in events(sqlite_home)


def test_keys_of_the_provider_may_change(browser: Browser, provider: Provider, sqlite_home: Home) -> None:
    browser.sign_in()
    link(browser)
    provider.published = provider.signing = RSAKey.generate_key(2048, {"kid": "2", "use": "sig"})
    provider.header = {"alg": "RS256", "kid": "2"}
    assert sign_in(Browser(sqlite_home, browser.app)).status_code == 302


def test_a_return_holds_once_soon_and_in_the_browser_it_began_in(browser: Browser, sqlite_home: Home) -> None:
    browser.sign_in()
    link(browser)
    victim, thief = Browser(sqlite_home, browser.app), Browser(sqlite_home, browser.app)
    back = travel(thief.client.get("/auth/oidc/corp/start").headers["Location"])
    assert victim.client.get(back).status_code == 401  # sign-in CSRF
    assert thief.client.get(back).status_code == 401  # used up
    back = travel(thief.client.get("/auth/oidc/corp/start").headers["Location"])
    with sqlite_home.database.write() as session:
        session.execute(update(Ceremony).values(expires_at=unix_now()))
    assert thief.client.get(back).status_code == 401
    assert sign_in(victim).status_code == 302


@pytest.mark.parametrize(
    "query", ["", "?state=x&code=y", "?error=access_denied", "?state=%00&code=%ff", "?code=y"]
)
def test_a_return_that_was_not_begun_is_refused(browser: Browser, query: str) -> None:
    assert browser.client.get(f"/auth/oidc/corp/callback{query}").status_code == 401


def test_who_refuses_at_the_provider_is_not_signed_in(browser: Browser) -> None:
    sent = browser.client.get("/auth/oidc/corp/start").headers["Location"]
    state = parse_qs(urlsplit(sent).query)["state"][0]
    denied = browser.client.get(f"/auth/oidc/corp/callback?state={state}&error=access_denied")
    assert denied.status_code == 401
    assert "did not agree" in denied.get_json()["detail"]


def test_another_issuer_named_in_the_return_is_refused(browser: Browser) -> None:
    back = travel(browser.client.get("/auth/oidc/corp/start").headers["Location"])
    mixed = back.split("&iss=")[0] + "&iss=https%3A%2F%2Fevil.example"
    assert browser.client.get(mixed).status_code == 401


def test_only_who_began_it_links_an_account(browser: Browser, sqlite_home: Home) -> None:
    add_admin(sqlite_home, "bob")
    browser.sign_in()
    begun = browser.send("POST", "/account/identities", {"provider": "corp"}).get_json()["url"]
    browser.send("DELETE", "/session")
    browser.sign_in("bob")
    assert browser.client.get(travel(begun)).status_code == 401
    assert browser.get("/account").get_json()["identities"] == []


def test_an_address_alone_links_nobody(sqlite_home: Home, provider: Provider, browser: Browser) -> None:
    invite(sqlite_home)
    provider.claims = {"email": "bea@example.org", "email_verified": True}
    assert sign_in(browser).status_code == 401


@pytest.mark.parametrize("verified", [False, None, "true", 1])
def test_an_unverified_address_links_nobody(sqlite_home: Home, provider: Provider, verified: object) -> None:
    configure(sqlite_home, provider, "link_verified_email = true")
    invite(sqlite_home)
    provider.claims = {"email": "bea@example.org", "email_verified": verified}
    assert sign_in(Browser(sqlite_home)).status_code == 401


def test_a_trusted_providers_address_links_once_and_then_the_subject_counts(
    sqlite_home: Home, provider: Provider
) -> None:
    configure(sqlite_home, provider, "link_verified_email = true")
    invite(sqlite_home)
    provider.claims = {"email": "Bea@example.org", "email_verified": True}
    browser = Browser(sqlite_home)
    assert sign_in(browser).status_code == 302
    assert browser.state()["person"] == "bea"
    provider.subject = "somebody who got her address later"
    assert sign_in(Browser(sqlite_home, browser.app)).status_code == 401
    provider.subject, provider.claims = "248289761001", {"email": "new@example.org"}
    assert sign_in(Browser(sqlite_home, browser.app)).status_code == 302


def invite(home: Home) -> None:
    from registry.accounts.permissions import Role

    with home.database.write() as session:
        people.add_person(session, 1, "bea", Role.VIEWER, "bea@example.org")


def test_disabled_people_and_second_factors_hold_here_too(browser: Browser, sqlite_home: Home) -> None:
    import pyotp

    add_admin(sqlite_home, "bob")
    browser.sign_in()
    link(browser)
    totp = pyotp.TOTP(browser.send("POST", "/account/totp").get_json()["secret"])
    browser.send("POST", "/account/totp/confirmation", {"code": totp.at(unix_now() - 30)})
    other = Browser(sqlite_home, browser.app)
    assert sign_in(other).status_code == 302
    assert other.state()["state"] == "factor-needed"
    with sqlite_home.database.write() as session:
        people.disable(session, session.execute(select(Person).where(Person.name == ADMIN)).scalar_one())
    assert sign_in(other).status_code == 401


def test_a_provider_that_is_away_or_another_is_named(
    browser: Browser, provider: Provider, sqlite_home: Home
) -> None:
    assert browser.client.get("/auth/oidc/nobody/start").status_code == 404
    provider.announced = "https://evil.example"
    away = browser.client.get("/auth/oidc/corp/start")
    assert away.status_code == 503
    assert away.get_json()["detail"].startswith("Corp does not answer")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[oidc.corp]\nissuer = "http://login.example.org"\nclient_id = "a"\nclient_secret = "b"', "https"),
        ('[oidc.corp]\nissuer = "https://login.example.org"\nclient_id = "a"', "client_secret"),
        ('[oidc."Corp X"]\nissuer = "https://login.example.org"', "lower-case"),
        ('[sign_in]\nidle_minutes = "long"', "idle_minutes"),
        ("[sign_in]\nlongest_hours = -1", "longest_hours"),
        ('[serving]\nurl = "http://registry.example.org"', "https"),
        ('[serving]\nurl = "https://example.org/registry"', "without a path"),
        ('[limits]\nrequest = "6/minute"', "known are"),
        ('[limits]\nrequests = "many"', "is no limit"),
        ('[limits]\nstorage = "carrier-pigeon://"', "storage"),
        ("oidc = 3", "no table"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(sqlite_home: Home, text: str, said: str) -> None:
    path = sqlite_home.settings.home / "config.toml"
    content = path.read_text()
    path.write_text(f"{text}\n{content}" if "=" in text.split("\n")[0] else f"{content}\n{text}\n")
    with pytest.raises(InputError, match=said):
        Browser(sqlite_home)


def test_the_secret_may_come_from_the_environment(
    sqlite_home: Home, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(sqlite_home, provider)
    path = sqlite_home.settings.home / "config.toml"
    path.write_text(path.read_text().replace(SECRET, "environment"))
    monkeypatch.setenv("HALLMARK_OIDC_CORP_SECRET", SECRET)
    add_admin(sqlite_home)
    browser = Browser(sqlite_home)
    browser.sign_in()
    assert link(browser).status_code == 302
