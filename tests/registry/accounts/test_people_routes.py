"""Organisations, people, invitations and tokens over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select, update

from registry.accounts import people, tokens
from registry.accounts.models import ApiToken, Invitation, SecurityEvent
from registry.accounts.permissions import Permission, Role
from registry.db import unix_now
from registry.home import Home
from tests.registry.accounts.support import ADMIN, PASSWORD, Browser, add_admin, add_person


@pytest.fixture
def browser(home: Home) -> Browser:
    add_admin(home)
    browser = Browser(home)
    browser.sign_in()
    return browser


@pytest.fixture
def sqlite_browser(sqlite_home: Home) -> Browser:
    add_admin(sqlite_home)
    browser = Browser(sqlite_home)
    browser.sign_in()
    return browser


def with_token(browser: Browser, secret: str, path: str, method: str = "GET", body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {secret}"}
    sent = {} if body is None else {"json": body}
    return browser.app.test_client().open(f"/api/v1{path}", method=method, headers=headers, **sent)


def events(home: Home) -> list[str]:
    with home.database.read() as session:
        return list(session.execute(select(SecurityEvent.kind)).scalars())


def test_an_invited_person_sets_a_password_once(browser: Browser, home: Home) -> None:
    body = {"name": "bob", "role": "issuer", "email": "Bob@example.org"}
    made = browser.send("POST", "/people", body)
    assert made.status_code == 201
    assert made.get_json()["person"]["email"] == "bob@example.org"
    accept = {"invitation": made.get_json()["invitation"], "password": PASSWORD}
    bob = Browser(home, browser.app)
    assert bob.sign_in("bob").status_code == 401
    assert bob.send("POST", "/account/invitation", accept).status_code == 204
    assert bob.send("POST", "/account/invitation", accept).status_code == 401
    assert bob.sign_in("bob").get_json()["role"] == "issuer"
    assert browser.send("POST", "/people", body).status_code == 409
    again = {"name": "bob2", "role": "viewer", "email": "bob@example.org"}
    assert browser.send("POST", "/people", again).status_code == 409


def test_an_invitation_expires_and_is_replaced(sqlite_browser: Browser, sqlite_home: Home) -> None:
    first = sqlite_browser.send("POST", "/people", {"name": "bob", "role": "viewer"}).get_json()["invitation"]
    second = sqlite_browser.send("POST", "/people/bob/invitation").get_json()["invitation"]
    with sqlite_home.database.write() as session:
        session.execute(update(Invitation).values(expires_at=unix_now()))
    for invitation in (first, second):
        accept = {"invitation": invitation, "password": PASSWORD}
        assert sqlite_browser.send("POST", "/account/invitation", accept).status_code == 401
    third = sqlite_browser.send("POST", "/people/bob/invitation").get_json()["invitation"]
    weak = {"invitation": third, "password": "bobbobbobbob"}
    assert sqlite_browser.send("POST", "/account/invitation", weak).status_code == 409
    accept = {"invitation": third, "password": PASSWORD}
    assert sqlite_browser.send("POST", "/account/invitation", accept).status_code == 204
    sqlite_browser.send("PATCH", "/people/bob", {"disabled": True})
    assert sqlite_browser.send("POST", "/people/bob/invitation").status_code == 409


def test_the_last_administrator_stays(sqlite_browser: Browser, sqlite_home: Home) -> None:
    with sqlite_home.database.write() as session:
        people.disable(session, people.people(session)[0])  # the one that `registry init` made
    assert sqlite_browser.send("PATCH", f"/people/{ADMIN}", {"role": "viewer"}).status_code == 409
    assert sqlite_browser.send("PATCH", f"/people/{ADMIN}", {"disabled": True}).status_code == 409
    add_person(sqlite_home, "bob", Role.ADMIN)
    assert sqlite_browser.send("PATCH", f"/people/{ADMIN}", {"role": "viewer"}).status_code == 200
    assert sqlite_browser.get("/people").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"name": "bob"},
        {"name": "bob", "role": "king"},
        {"name": "b\u0000b", "role": "viewer"},
        {"name": "../bob", "role": "viewer"},
        {"name": "bob", "role": "viewer", "organisation": "acme"},
        {"name": "bob", "role": "viewer", "email": "nonsense"},
        {"name": "bob", "role": ["viewer"]},
    ],
)
def test_people_that_cannot_be_meant_are_refused(sqlite_browser: Browser, body: dict[str, Any]) -> None:
    assert sqlite_browser.send("POST", "/people", body).status_code == 422


def test_people_of_another_organisation_do_not_exist(browser: Browser, home: Home) -> None:
    add_admin(home, "eve", "acme")
    eve = Browser(home, browser.app)
    eve.sign_in("eve")
    assert [person["name"] for person in eve.get("/people").get_json()["items"]] == ["eve"]
    for method, path, body in (
        ("PATCH", f"/people/{ADMIN}", {"role": "viewer"}),
        ("POST", f"/people/{ADMIN}/invitation", None),
        ("DELETE", f"/people/{ADMIN}/factors", None),
    ):
        assert eve.send(method, path, body).status_code == 404
    assert browser.get("/people").status_code == 200


def test_the_operator_adds_organisations_and_nobody_else(browser: Browser, home: Home) -> None:
    body = {"name": "acme", "admin": {"name": "eve"}}
    made = browser.send("POST", "/organisations", body)
    assert made.status_code == 201
    assert browser.send("POST", "/organisations", body).status_code == 409
    assert [entry["name"] for entry in browser.get("/organisations").get_json()["items"]] == [
        "acme",
        "default",
    ]
    eve = Browser(home, browser.app)
    accept = {"invitation": made.get_json()["invitation"], "password": PASSWORD}
    eve.send("POST", "/account/invitation", accept)
    assert eve.sign_in("eve").get_json()["organisation"] == "acme"
    assert [entry["name"] for entry in eve.get("/organisations").get_json()["items"]] == ["acme"]
    refused = eve.send("POST", "/organisations", {"name": "mine", "admin": {"name": "x"}})
    assert refused.status_code == 403


def test_a_token_is_created_used_and_revoked(browser: Browser, home: Home) -> None:
    made = browser.send("POST", "/tokens", {"name": "ci", "role": "admin", "scopes": ["people:write"]})
    assert made.status_code == 201
    secret, prefix = made.get_json()["token"], made.get_json()["prefix"]
    assert secret.startswith(f"hm_{prefix}_")
    listed = browser.get("/tokens").get_json()["items"][0]
    assert "token" not in listed
    assert listed["last_used_at"] is None
    assert with_token(browser, secret, "/people").status_code == 200
    assert with_token(browser, secret, "/models").status_code == 403  # outside its scopes
    assert browser.get("/tokens").get_json()["items"][0]["last_used_at"] is not None
    assert browser.send("DELETE", f"/tokens/{prefix}").status_code == 204
    assert browser.send("DELETE", f"/tokens/{prefix}").status_code == 204
    refused = with_token(browser, secret, "/people")
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    with home.database.read() as session:
        detail = session.execute(
            select(SecurityEvent.detail).where(SecurityEvent.kind == "token.refused")
        ).scalar_one()
    assert prefix in detail
    assert "revoked" in detail
    assert secret.split("_", 2)[2] not in detail
    assert {"token.created", "token.revoked"} <= set(events(home))


@pytest.mark.parametrize(
    "alter",
    [
        lambda secret: secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        lambda secret: secret.replace("hm_", "hm_0", 1)[:16] + secret[16:],
        lambda secret: secret + "A",
        lambda secret: "",
        lambda secret: "hm_000000000000_" + "A" * 43,
        lambda secret: "\u00fc" * 59,
    ],
)
def test_an_altered_token_does_not_hold(sqlite_browser: Browser, sqlite_home: Home, alter: Any) -> None:
    with sqlite_home.database.write() as session:
        _, secret = tokens.create(session, 1, "ci", Role.ADMIN)
    assert with_token(sqlite_browser, secret, "/people").status_code == 200
    assert with_token(sqlite_browser, alter(secret), "/people").status_code == 401
    assert "token.forged" in events(sqlite_home)


def test_whose_token_is_forged_is_told_so(sqlite_browser: Browser, sqlite_home: Home) -> None:
    with sqlite_home.database.write() as session:
        acme = people.add_organisation(session, "acme").id
        row, secret = tokens.create(session, acme, "ci", Role.ADMIN)
    forged = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    assert with_token(sqlite_browser, forged, "/people").status_code == 401
    with sqlite_home.database.read() as session:
        query = select(SecurityEvent).where(SecurityEvent.kind == "token.forged")
        event = session.execute(query).scalar_one()
    assert (event.organisation_id, event.actor) == (acme, "a stranger")
    assert json.loads(event.detail) == {"token": row.prefix}


def test_a_token_of_no_person_reaches_no_other(sqlite_browser: Browser, sqlite_home: Home) -> None:
    with sqlite_home.database.write() as session:
        other, _ = tokens.create(session, 1, "releases", Role.ADMIN)
        own, secret = tokens.create(session, 1, "monitor", Role.VIEWER)
    listed = with_token(sqlite_browser, secret, "/tokens").get_json()["items"]
    assert [row["prefix"] for row in listed] == [own.prefix]
    client, bearer = sqlite_browser.client, {"Authorization": f"Bearer {secret}"}
    for prefix, status in ((other.prefix, 404), (own.prefix, 204)):
        assert client.delete(f"/api/v1/tokens/{prefix}", headers=bearer).status_code == status


def test_an_expired_token_does_not_hold(sqlite_browser: Browser, sqlite_home: Home) -> None:
    with sqlite_home.database.write() as session:
        row, secret = tokens.create(session, 1, "ci", Role.ADMIN)
        row.expires_at = unix_now()
    assert with_token(sqlite_browser, secret, "/people").status_code == 401
    assert "token.refused" in events(sqlite_home)


def test_a_token_does_no_more_than_its_person_may(browser: Browser, home: Home) -> None:
    add_person(home, "bob", Role.ADMIN)
    bob = Browser(home, browser.app)
    bob.sign_in("bob")
    secret = bob.send("POST", "/tokens", {"name": "mine", "role": "admin"}).get_json()["token"]
    assert with_token(browser, secret, "/people").status_code == 200
    browser.send("PATCH", "/people/bob", {"role": "auditor"})
    assert with_token(browser, secret, "/people").status_code == 403
    assert with_token(browser, secret, "/models").status_code == 200
    browser.send("PATCH", "/people/bob", {"disabled": True})
    assert with_token(browser, secret, "/models").status_code == 401
    browser.send("PATCH", "/people/bob", {"disabled": False})
    assert with_token(browser, secret, "/models").status_code == 200


def test_nobody_gives_a_token_more_than_he_has(sqlite_browser: Browser, sqlite_home: Home) -> None:
    add_person(sqlite_home, "bob", Role.VIEWER)
    bob = Browser(sqlite_home, sqlite_browser.app)
    bob.sign_in("bob")
    assert bob.send("POST", "/tokens", {"name": "x", "role": "admin"}).status_code == 403
    narrow = {"name": "x", "role": "admin", "scopes": ["models:read"]}
    assert bob.send("POST", "/tokens", narrow).status_code == 201
    assert bob.send("POST", "/tokens", {**narrow, "scopes": ["keys:issue"]}).status_code == 403
    assert bob.send("POST", "/tokens", {**narrow, "scopes": ["everything"]}).status_code == 422
    assert bob.send("POST", "/tokens", {**narrow, "expires_days": 400}).status_code == 422


def test_a_token_makes_tokens_only_if_it_manages_people(sqlite_browser: Browser, sqlite_home: Home) -> None:
    body = {"name": "child", "role": "viewer"}
    for role, status in ((Role.ISSUER, 403), (Role.ADMIN, 201)):
        with sqlite_home.database.write() as session:
            _, secret = tokens.create(session, 1, "parent", role)
        assert with_token(sqlite_browser, secret, "/tokens", "POST", body).status_code == status


def test_tokens_are_their_owners_and_the_administrators(browser: Browser, home: Home) -> None:
    add_person(home, "bob", Role.VIEWER)
    add_admin(home, "eve", "acme")
    own = browser.send("POST", "/tokens", {"name": "adas", "role": "viewer"}).get_json()["prefix"]
    bob, eve = Browser(home, browser.app), Browser(home, browser.app)
    bob.sign_in("bob")
    eve.sign_in("eve")
    for other in (bob, eve):
        assert other.get("/tokens").get_json()["items"] == []
        assert other.send("DELETE", f"/tokens/{own}").status_code == 404
    his = bob.send("POST", "/tokens", {"name": "bobs", "role": "viewer"}).get_json()["prefix"]
    assert [entry["name"] for entry in browser.get("/tokens").get_json()["items"]] == ["bobs", "adas"]
    assert browser.send("DELETE", f"/tokens/{his}").status_code == 204


def test_a_token_never_reaches_an_account(sqlite_browser: Browser, sqlite_home: Home) -> None:
    secret = sqlite_browser.send("POST", "/tokens", {"name": "x", "role": "admin"}).get_json()["token"]
    for method, path, body in (
        ("GET", "/account", None),
        ("PUT", "/account/password", {"current": PASSWORD, "new": "a quite different phrase"}),
        ("POST", "/account/totp", None),
        ("POST", "/account/passkeys/options", None),
    ):
        assert with_token(sqlite_browser, secret, path, method, body).status_code == 403


def test_every_scope_is_a_permission_that_administrators_have(sqlite_home: Home) -> None:
    with sqlite_home.database.write() as session:
        _, secret = tokens.create(session, 1, "all", Role.ADMIN, scopes=set(Permission))
        held = tokens.authenticate(session, secret)
        assert held is not None
        assert held.principal.permissions == frozenset(Permission)
        stored = session.execute(select(ApiToken.secret_sha256)).scalar_one()
        assert secret.encode() not in stored
        assert len(stored) == 32


def test_requests_of_one_token_are_limited_and_not_anothers(sqlite_home: Home) -> None:
    with (sqlite_home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nrequests = "3/minute"\nstrangers = "2/minute"\n')
    with sqlite_home.database.write() as session:
        secrets = [tokens.create(session, 1, "ci", Role.ADMIN)[1] for _ in range(2)]
    browser = Browser(sqlite_home)
    first = [with_token(browser, secrets[0], "/models") for _ in range(4)]
    assert [answer.status_code for answer in first] == [200, 200, 200, 429]
    assert 1 <= int(first[-1].headers["Retry-After"]) <= 120
    assert first[-1].mimetype == "application/problem+json"
    assert with_token(browser, secrets[1], "/models").status_code == 200
    forged = [with_token(browser, f"hm_{i:012x}_{'A' * 43}", "/models").status_code for i in range(3)]
    assert forged == [401, 401, 429]


def test_limits_can_be_switched_off(sqlite_home: Home) -> None:
    with (sqlite_home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nrequests = ""\nstrangers = ""\nsign_in = ""\n')
    client = Browser(sqlite_home).client
    assert {client.get("/api/v1/models").status_code for _ in range(700)} == {401}


def test_a_redis_that_is_away_stops_nobody(sqlite_home: Home) -> None:
    with (sqlite_home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nstorage = "redis://127.0.0.1:9"\nrequests = "2/minute"\n')
    with sqlite_home.database.write() as session:
        _, secret = tokens.create(session, 1, "ci", Role.ADMIN)
    browser = Browser(sqlite_home)
    answers = [with_token(browser, secret, "/models").status_code for _ in range(3)]
    assert answers == [200, 200, 429]  # counted in memory meanwhile
