from __future__ import annotations

import json

import pytest
from sqlalchemy import select, update

from registry.accounts import lockout, people, tokens
from registry.accounts.models import Person, SecurityEvent, SignInAttempts, WebSession
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.db import unix_now
from registry.home import Home
from tests.registry.accounts.support import ADMIN, PASSWORD, Browser, add_admin, add_person


@pytest.fixture
def browser(home: Home) -> Browser:
    add_admin(home)
    return Browser(home)


@pytest.fixture
def sqlite_browser(sqlite_home: Home) -> Browser:
    add_admin(sqlite_home)
    return Browser(sqlite_home)


def kinds(home: Home) -> list[str]:
    with home.database.read() as session:
        return list(session.execute(select(SecurityEvent.kind).order_by(SecurityEvent.id)).scalars())


def test_a_person_signs_in_looks_around_and_signs_out(browser: Browser, home: Home) -> None:
    assert browser.state()["state"] == "nobody"
    assert browser.get("/people").status_code == 401
    signed_in = browser.sign_in()
    assert signed_in.status_code == 200
    state = browser.state()
    assert (state["state"], state["person"], state["role"]) == ("signed-in", ADMIN, "admin")
    assert state["organisation"] == "default"
    assert "people:write" in state["permissions"]
    assert browser.get("/people").get_json()["items"][0]["name"] == ADMIN
    assert browser.send("DELETE", "/session").status_code == 204
    assert browser.state()["state"] == "nobody"
    assert browser.get("/people").status_code == 401
    assert {"session.signed-in", "session.signed-out"} <= set(kinds(home))


def test_the_cookie_is_kept_from_scripts_and_other_sites(sqlite_browser: Browser) -> None:
    here = sqlite_browser.sign_in().headers["Set-Cookie"]
    assert "HttpOnly" in here
    assert "SameSite=Lax" in here
    assert "Secure" not in here  # plain http, but on this very machine
    body = {"name": ADMIN, "password": PASSWORD}
    client = sqlite_browser.app.test_client()
    elsewhere = client.post("/api/v1/session", json=body, base_url="http://registry.example.org")
    assert "Secure" in elsewhere.headers["Set-Cookie"]
    assert elsewhere.headers["Cache-Control"] == "no-store"


def test_only_the_digest_of_a_session_is_stored(sqlite_browser: Browser, sqlite_home: Home) -> None:
    sqlite_browser.sign_in()
    secret = sqlite_browser.cookie()
    assert len(secret) == 43
    content = (sqlite_home.settings.home / "registry.db").read_bytes()
    wal = sqlite_home.settings.home / "registry.db-wal"
    content += wal.read_bytes() if wal.exists() else b""
    assert secret.encode() not in content
    assert PASSWORD.encode() not in content
    assert sqlite_browser.csrf.encode() not in content


def test_every_sign_in_begins_a_new_session_and_ends_the_old(browser: Browser, home: Home) -> None:
    browser.sign_in()
    first = browser.cookie()
    assert browser.sign_in().status_code == 200
    assert browser.cookie() != first
    assert browser.get("/people").status_code == 200
    thief = Browser(home, browser.app)
    thief.client.set_cookie("hallmark_session", first)
    assert thief.get("/people").status_code == 401


def test_a_session_ends_after_idling_and_after_its_longest_time(browser: Browser, home: Home) -> None:
    def age(**values: object) -> None:
        with home.database.write() as session:
            session.execute(update(WebSession).values(**values))

    browser.sign_in()
    age(seen_at=WebSession.seen_at - 3000)
    assert browser.state()["state"] == "signed-in"
    age(seen_at=WebSession.seen_at - 3601)
    assert browser.state()["state"] == "nobody"
    browser.sign_in()
    age(created_at=WebSession.created_at - 12 * 3600)
    assert browser.get("/people").status_code == 401
    assert "session.forged" not in kinds(home)  # it only grew old


def test_use_keeps_a_session_alive(sqlite_browser: Browser, sqlite_home: Home) -> None:
    sqlite_browser.sign_in()
    for _ in range(3):
        with sqlite_home.database.write() as session:
            session.execute(update(WebSession).values(seen_at=WebSession.seen_at - 3000))
        assert sqlite_browser.get("/people").status_code == 200


def test_signing_out_everywhere(browser: Browser, home: Home) -> None:
    second = Browser(home, browser.app)
    browser.sign_in()
    second.sign_in()
    assert second.get("/people").status_code == 200
    assert browser.send("DELETE", "/session?everywhere=true").status_code == 204
    assert second.get("/people").status_code == 401


@pytest.mark.parametrize("token", [None, "", "0" * 64, "ü"])
def test_a_request_from_another_site_changes_nothing(
    sqlite_browser: Browser, sqlite_home: Home, token: str | None
) -> None:
    sqlite_browser.sign_in()
    headers = {} if token is None else {"X-CSRF-Token": token}
    body = {"name": "mallory", "role": "admin"}
    answer = sqlite_browser.client.post("/api/v1/people", json=body, headers=headers)
    assert answer.status_code == 403
    assert "csrf_token" in answer.get_json()["hint"]
    out = sqlite_browser.client.delete("/api/v1/session", headers=headers)
    assert out.status_code == 403
    assert sqlite_browser.state()["state"] == "signed-in"
    with sqlite_home.database.read() as session:
        assert "mallory" not in [found.name for found in people.people(session)]
    assert "session.csrf-missing" in kinds(sqlite_home)


def test_a_token_needs_no_csrf_token(sqlite_browser: Browser, sqlite_home: Home) -> None:
    with sqlite_home.database.write() as session:
        _, secret = tokens.create(session, 1, "ci", Role.ADMIN)
    headers = {"Authorization": f"Bearer {secret}"}
    client = sqlite_browser.app.test_client()
    body = {"name": "bob", "role": "viewer"}
    assert client.post("/api/v1/people", json=body, headers=headers).status_code == 201
    who = client.get("/api/v1/session", headers=headers).get_json()
    assert (who["state"], who["person"], who["csrf_token"]) == ("token", None, None)


def test_a_forged_session_is_nobodys_and_logged(browser: Browser, home: Home) -> None:
    browser.client.set_cookie("hallmark_session", "x" * 43)
    assert browser.get("/people").status_code == 401
    assert browser.state()["state"] == "nobody"
    assert "session.forged" in kinds(home)


def test_wrong_names_and_wrong_passwords_get_one_answer(browser: Browser, home: Home) -> None:
    with home.database.write() as session:
        people.add_person(session, 1, "unset", Role.VIEWER)
        people.add_person(session, 1, "gone", Role.VIEWER)
        people.set_password(session, people.get_person(session, "gone"), PASSWORD)
        people.disable(session, people.get_person(session, "gone"))
    answers = [
        browser.sign_in(name, password)
        for name, password in ((ADMIN, "wrong"), ("nobody", "wrong"), ("unset", PASSWORD), ("gone", PASSWORD))
    ]
    bodies = [
        {key: value for key, value in answer.get_json().items() if key != "request_id"} for answer in answers
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert all(body == bodies[0] for body in bodies)
    assert all("Set-Cookie" not in answer.headers for answer in answers)


@pytest.mark.parametrize("name", ["", "a\u0000", "a\nb", "\ud800", "x" * 255, 7, None, ["ada"]])
def test_names_that_nobody_can_have_are_refused(browser: Browser, name: object) -> None:
    answer = browser.client.post(
        "/api/v1/session", data=json.dumps({"name": name, "password": "x"}), content_type="application/json"
    )
    assert answer.status_code == 422


@pytest.mark.parametrize("name", ["'; DROP TABLE person; --", "\u202e\U0001f600", "%", "../ada"])
def test_odd_names_are_only_unknown(browser: Browser, name: str) -> None:
    assert browser.sign_in(name, "\u0000\U0001f600").status_code == 401


def test_an_unknown_name_costs_as_much_hashing(
    sqlite_browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.accounts import passwords

    hashed: list[str] = []
    verify = passwords._hasher.verify

    class Counting:
        def verify(self, stored: str, given: str) -> bool:
            hashed.append(stored.split("$")[3])
            return verify(stored, given)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    sqlite_browser.sign_in(ADMIN, "wrong")
    sqlite_browser.sign_in("nobody", "wrong")
    assert len(hashed) == 2
    assert hashed[0] == hashed[1]  # the same memory, passes and lanes


def test_an_account_locks_known_or_not(browser: Browser, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    now = unix_now()
    monkeypatch.setattr(lockout, "unix_now", lambda: now)  # hashing takes longer than the first wait
    for name in (ADMIN, "nobody"):
        answers = [browser.sign_in(name, "wrong") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [401] * 6 + [429], name
        assert answers[-1].headers["Retry-After"] == "1"
        assert answers[-1].get_json()["type"] == "urn:hallmark:problem:too-many-requests"
    assert browser.sign_in(ADMIN, PASSWORD).status_code == 429  # also with the right one
    assert "session.locked-out" in kinds(home)


def test_each_further_failure_doubles_the_wait() -> None:
    waits = [lockout.wait_after(failures, free=5) for failures in range(1, 18)]
    assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert lockout.wait_after(10**6, free=5) == 900


def test_the_wait_ends_and_success_forgets_the_failures(sqlite_browser: Browser, sqlite_home: Home) -> None:
    for _ in range(6):
        sqlite_browser.sign_in(ADMIN, "wrong")
    with sqlite_home.database.write() as session:
        session.execute(update(SignInAttempts).values(locked_until=0))
    assert sqlite_browser.sign_in().status_code == 200
    for _ in range(5):
        assert sqlite_browser.sign_in(ADMIN, "wrong").status_code == 401


def test_sign_in_is_limited_by_address(sqlite_home: Home) -> None:
    add_admin(sqlite_home)
    with (sqlite_home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nsign_in = "3/minute"\n')
    browser = Browser(sqlite_home)
    answers = [browser.sign_in(f"name{i}", "wrong") for i in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert answers[-1].mimetype == "application/problem+json"
    elsewhere = browser.client.post(
        "/api/v1/session",
        json={"name": ADMIN, "password": PASSWORD},
        environ_base={"REMOTE_ADDR": "198.51.100.7"},
    )
    assert elsewhere.status_code == 200


def test_a_subscriber_of_ipv6_counts_once_from_all_his_addresses(sqlite_home: Home) -> None:
    with (sqlite_home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nsign_in = "3/minute"\n')
    client = Browser(sqlite_home).client

    def answered(address: str) -> int:
        wrong = {"name": "nobody", "password": "wrong"}
        return client.post("/api/v1/session", json=wrong, environ_base={"REMOTE_ADDR": address}).status_code

    assert [answered(f"2001:db8::{i}:1") for i in range(1, 5)] == [401, 401, 401, 429]
    assert answered("2001:db8:0:1::1") == 401


def test_old_hashes_are_renewed_at_sign_in(sqlite_browser: Browser, sqlite_home: Home) -> None:
    from argon2 import PasswordHasher

    old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    with sqlite_home.database.write() as session:
        people.get_person(session, ADMIN).password_hash = old
    assert sqlite_browser.sign_in().status_code == 200
    with sqlite_home.database.read() as session:
        stored = session.execute(select(Person.password_hash).where(Person.name == ADMIN)).scalar_one()
    assert stored is not None
    assert stored != old
    assert stored.startswith("$argon2id$")
    assert sqlite_browser.sign_in().status_code == 200


def test_roles_take_effect_at_once_and_disabled_people_are_out(browser: Browser, home: Home) -> None:
    add_person(home, "bob", Role.ADMIN)
    bob = Browser(home, browser.app)
    bob.sign_in("bob")
    browser.sign_in()
    assert bob.get("/people").status_code == 200
    assert browser.send("PATCH", "/people/bob", {"role": "viewer"}).get_json()["role"] == "viewer"
    assert bob.get("/people").status_code == 403
    assert bob.get("/account").status_code == 200
    assert browser.send("PATCH", "/people/bob", {"disabled": True}).status_code == 200
    assert bob.get("/account").status_code == 401
    assert bob.sign_in("bob").status_code == 401
    assert {"person.role-changed", "permission.denied", "person.disabled"} <= set(kinds(home))


def test_nothing_secret_is_in_the_log(browser: Browser, home: Home) -> None:
    browser.sign_in(PASSWORD, "x")  # the password typed where the name belongs
    browser.sign_in(ADMIN, "wrong password")
    browser.sign_in()
    made = browser.send("POST", "/tokens", {"name": "ci", "role": "viewer"}).get_json()["token"]
    with home.database.read() as session:
        rows = session.execute(select(SecurityEvent)).scalars().all()
        text = "".join(f"{row.detail} {row.actor}" for row in rows)
    for secret in (PASSWORD, "wrong password", browser.cookie(), browser.csrf, made.split("_", 2)[2]):
        assert secret not in text


def test_events_are_for_administrators_of_the_organisation(browser: Browser, home: Home) -> None:
    add_admin(home, "eve", "acme")
    eve = Browser(home, browser.app)
    eve.sign_in("eve")
    browser.sign_in(ADMIN, "wrong")
    browser.sign_in("nobody", "wrong")
    browser.sign_in()
    own = browser.get("/security-events?kind=session.sign-in-failed").get_json()["items"]
    assert [entry["detail"]["account"] for entry in own] == [None, ADMIN]
    assert own[0]["address"] == "127.0.0.1"
    assert all(len(entry["request_id"]) == 16 for entry in own)
    seen = eve.get("/security-events?limit=200").get_json()["items"]
    assert seen
    assert {entry["detail"].get("account") for entry in seen} <= {None}
    assert {entry["actor"] for entry in seen if entry["kind"] == "session.signed-in"} == {"person eve"}
    first = browser.get("/security-events?limit=1").get_json()
    assert len(first["items"]) == 1
    following = browser.get(f"/security-events?limit=1&after={first['next']}").get_json()
    assert following["items"][0]["id"] < first["items"][0]["id"]


def test_repeated_refusals_do_not_fill_the_log(sqlite_home: Home) -> None:
    app = create_app(sqlite_home)
    client = app.test_client()
    client.set_cookie("hallmark_session", "y" * 43)
    for _ in range(60):
        client.get("/api/v1/people", environ_base={"REMOTE_ADDR": "198.51.100.9"})
    assert kinds(sqlite_home).count("session.forged") == 30
