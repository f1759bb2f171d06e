"""Second factors over HTTP: authenticators, recovery codes, passkeys."""

from __future__ import annotations

import contextlib
from typing import Any

import pyotp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from registry.accounts import factors, passkeys
from registry.accounts.models import Authenticator, Ceremony, Passkey, Person, SecurityEvent, WebSession
from registry.db import unix_now
from registry.errors import AuthenticationError, StateError
from registry.home import Home
from tests.registry.accounts.support import ADMIN, PASSWORD, Browser, Key, add_admin


@pytest.fixture
def browser(home: Home) -> Browser:
    add_admin(home)
    return Browser(home)


@pytest.fixture
def sqlite_browser(sqlite_home: Home) -> Browser:
    add_admin(sqlite_home)
    return Browser(sqlite_home)


def add_totp(browser: Browser) -> tuple[pyotp.TOTP, list[str]]:
    """An authenticator confirmed with the code of the step before the present one."""
    made = browser.send("POST", "/account/totp")
    assert made.status_code == 201
    totp = pyotp.TOTP(made.get_json()["secret"])
    confirmed = browser.send("POST", "/account/totp/confirmation", {"code": totp.at(unix_now() - 30)})
    assert confirmed.status_code == 200
    return totp, confirmed.get_json()["recovery_codes"]


def add_passkey(browser: Browser, key: Key, name: str = "laptop") -> Any:
    options = browser.send("POST", "/account/passkeys/options").get_json()["options"]
    body = {"name": name, "credential": key.create(options)}
    return browser.send("POST", "/account/passkeys", body)


def passkey_sign_in(browser: Browser, key: Key, **changed: Any) -> Any:
    options = browser.send("POST", "/session/passkey/options").get_json()["options"]
    return browser.send("POST", "/session/passkey", {"credential": key.get(options, **changed)})


def test_a_sign_in_with_an_authenticator(browser: Browser, home: Home) -> None:
    browser.sign_in()
    totp, _ = add_totp(browser)
    browser.send("DELETE", "/session")
    half = browser.sign_in().get_json()
    assert half["state"] == "factor-needed"
    assert half["factors"] == ["totp", "recovery-code"]
    assert (half["person"], half["organisation"], half["permissions"]) == (None, None, [])
    first = browser.cookie()
    for path in ("/people", "/account", "/tokens", "/models"):
        assert browser.get(path).status_code == 401
    assert browser.send("POST", "/account/totp").status_code == 401
    done = browser.send("POST", "/session/totp", {"code": totp.at(unix_now())})
    assert done.status_code == 200
    assert done.get_json()["state"] == "signed-in"
    assert browser.cookie() != first
    assert browser.get("/people").status_code == 200
    with home.database.read() as session:
        sealed = session.execute(select(Authenticator.sealed)).scalar_one()
    assert totp.secret.encode() not in sealed


def test_a_code_is_used_once(sqlite_browser: Browser, sqlite_home: Home) -> None:
    sqlite_browser.sign_in()
    totp, _ = add_totp(sqlite_browser)
    code = totp.at(unix_now())
    answers = []
    for _ in range(2):
        browser = Browser(sqlite_home, sqlite_browser.app)
        browser.sign_in()
        answers.append(browser.send("POST", "/session/totp", {"code": code}).status_code)
    assert answers == [200, 401]


def test_a_wrong_code_counts_as_a_failed_sign_in(
    sqlite_browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.accounts import lockout

    sqlite_browser.sign_in()
    add_totp(sqlite_browser)
    now = unix_now()
    monkeypatch.setattr(lockout, "unix_now", lambda: now)
    codes = []
    for _ in range(7):  # signing in again with the password forgives none of them
        signed_in = sqlite_browser.sign_in()
        if signed_in.status_code == 200:
            codes.append(sqlite_browser.send("POST", "/session/totp", {"code": "000000"}).status_code)
    assert codes == [401] * 6
    assert sqlite_browser.sign_in().status_code == 429


def test_a_recovery_code_stands_in_once(browser: Browser, home: Home) -> None:
    browser.sign_in()
    _, codes = add_totp(browser)
    assert len(set(codes)) == 10
    for code, status in ((codes[0], 200), (codes[0], 401), ("aaaa-aaaa-aaaa-aaaa", 401), (codes[1], 200)):
        browser.sign_in()
        assert browser.send("POST", "/session/totp", {"code": code}).status_code == status
    assert browser.get("/account").get_json()["recovery_codes_left"] == 8
    fresh = browser.send("POST", "/account/recovery-codes").get_json()["recovery_codes"]
    assert not set(fresh) & set(codes)
    browser.sign_in()
    assert browser.send("POST", "/session/totp", {"code": codes[2]}).status_code == 401


def test_an_authenticator_counts_once_confirmed(sqlite_browser: Browser) -> None:
    sqlite_browser.sign_in()
    made = sqlite_browser.send("POST", "/account/totp").get_json()
    assert made["uri"].startswith("otpauth://totp/Hallmark:ada?secret=")
    wrong = sqlite_browser.send("POST", "/account/totp/confirmation", {"code": "000000"})
    assert wrong.status_code == 409
    assert sqlite_browser.sign_in().get_json()["state"] == "signed-in"
    add_totp(sqlite_browser)
    assert sqlite_browser.send("POST", "/account/totp").status_code == 409
    assert sqlite_browser.send("DELETE", "/account/totp").status_code == 204
    assert sqlite_browser.sign_in().get_json()["state"] == "signed-in"


def test_the_second_factor_must_come_soon(sqlite_browser: Browser, sqlite_home: Home) -> None:
    sqlite_browser.sign_in()
    totp, _ = add_totp(sqlite_browser)
    sqlite_browser.sign_in()
    with sqlite_home.database.write() as session:
        session.execute(update(WebSession).values(created_at=WebSession.created_at - 600))
    code = {"code": totp.at(unix_now())}
    assert sqlite_browser.send("POST", "/session/totp", code).status_code == 401


def test_the_second_factor_needs_the_csrf_token(sqlite_browser: Browser) -> None:
    sqlite_browser.sign_in()
    totp, _ = add_totp(sqlite_browser)
    sqlite_browser.sign_in()
    body = {"code": totp.at(unix_now())}
    assert sqlite_browser.send("POST", "/session/totp", body, csrf=False).status_code == 403
    assert sqlite_browser.send("POST", "/session/totp", body).status_code == 200


def test_keys_of_an_account_change_only_after_a_recent_sign_in(
    sqlite_browser: Browser, sqlite_home: Home
) -> None:
    sqlite_browser.sign_in()
    with sqlite_home.database.write() as session:
        session.execute(update(WebSession).values(created_at=WebSession.created_at - 1000))
    for method, path in (
        ("POST", "/account/totp"),
        ("DELETE", "/account/totp"),
        ("POST", "/account/recovery-codes"),
        ("POST", "/account/passkeys/options"),
        ("DELETE", "/account/passkeys/1"),
    ):
        answer = sqlite_browser.send(method, path)
        assert (answer.status_code, answer.get_json()["hint"]) == (403, "Sign in again and repeat it.")


def test_the_last_admin_resets_lost_factors(browser: Browser, home: Home) -> None:
    add_admin(home, "bob")
    bob = Browser(home, browser.app)
    bob.sign_in("bob")
    add_totp(bob)
    browser.sign_in()
    assert browser.send("DELETE", "/people/bob/factors").status_code == 204
    assert bob.get("/account").status_code == 401
    assert bob.sign_in("bob").get_json()["state"] == "signed-in"


def test_a_passkey_signs_in_alone(browser: Browser, home: Home) -> None:
    key = Key()
    browser.sign_in()
    added = add_passkey(browser, key)
    assert added.status_code == 201
    assert added.get_json()["name"] == "laptop"
    other = Browser(home, browser.app)
    done = passkey_sign_in(other, key)
    assert done.status_code == 200
    assert (done.get_json()["state"], done.get_json()["person"]) == ("signed-in", ADMIN)
    assert other.get("/account").get_json()["passkeys"][0]["last_used_at"] is not None
    with home.database.read() as session:
        assert session.execute(select(Passkey.sign_count)).scalar_one() == 1
        means = session.execute(
            select(SecurityEvent.detail).where(SecurityEvent.kind == "session.signed-in")
        ).scalars()
        assert '{"means": "passkey"}' in list(means)


def test_a_passkey_that_verifies_nobody_is_a_second_factor_only(browser: Browser, home: Home) -> None:
    key = Key(verifies_user=False)
    browser.sign_in()
    assert add_passkey(browser, key).status_code == 201
    other = Browser(home, browser.app)
    assert passkey_sign_in(other, key).status_code == 401
    half = other.sign_in().get_json()
    assert (half["state"], half["factors"]) == ("factor-needed", ["passkey"])
    assert passkey_sign_in(other, key).get_json()["state"] == "signed-in"


def test_a_passkeys_answer_holds_once_here_and_for_its_challenge(
    sqlite_browser: Browser, sqlite_home: Home
) -> None:
    key, stranger = Key(), Key()
    sqlite_browser.sign_in()
    add_passkey(sqlite_browser, key)
    other = Browser(sqlite_home, sqlite_browser.app)
    options = other.send("POST", "/session/passkey/options").get_json()["options"]
    answer = {"credential": key.get(options)}
    assert other.send("POST", "/session/passkey", answer).status_code == 200
    other = Browser(sqlite_home, sqlite_browser.app)
    assert other.send("POST", "/session/passkey", answer).status_code == 401  # replayed
    assert passkey_sign_in(other, stranger).status_code == 401
    assert passkey_sign_in(other, key, origin="https://registry.example").status_code == 401
    invented = {**options, "challenge": "A" * 43}
    assert other.send("POST", "/session/passkey", {"credential": key.get(invented)}).status_code == 401
    assert passkey_sign_in(other, key).status_code == 200


def test_a_cloned_passkey_is_refused(sqlite_browser: Browser, sqlite_home: Home) -> None:
    key = Key(counter=10)
    sqlite_browser.sign_in()
    add_passkey(sqlite_browser, key)
    assert passkey_sign_in(Browser(sqlite_home, sqlite_browser.app), key).status_code == 200
    key.counter = 5
    assert passkey_sign_in(Browser(sqlite_home, sqlite_browser.app), key).status_code == 401


def test_a_challenge_expires(sqlite_browser: Browser, sqlite_home: Home) -> None:
    key = Key()
    sqlite_browser.sign_in()
    add_passkey(sqlite_browser, key)
    options = sqlite_browser.send("POST", "/session/passkey/options").get_json()["options"]
    with sqlite_home.database.write() as session:
        session.execute(update(Ceremony).values(expires_at=unix_now()))
    answer = {"credential": key.get(options)}
    assert sqlite_browser.send("POST", "/session/passkey", answer).status_code == 401


def test_the_passkey_of_another_person_is_no_second_factor(browser: Browser, home: Home) -> None:
    add_admin(home, "bob")
    bobs, adas = Key(), Key()
    for name, key in (("bob", bobs), (ADMIN, adas)):
        owner = Browser(home, browser.app)
        owner.sign_in(name)
        add_passkey(owner, key)
    browser.sign_in()
    assert passkey_sign_in(browser, bobs).status_code == 401
    assert passkey_sign_in(browser, adas).status_code == 200


def test_passkeys_are_registered_once_and_removed(sqlite_browser: Browser, sqlite_home: Home) -> None:
    key = Key()
    sqlite_browser.sign_in()
    number = add_passkey(sqlite_browser, key).get_json()["id"]
    assert add_passkey(sqlite_browser, key).status_code == 409
    options = sqlite_browser.send("POST", "/account/passkeys/options").get_json()["options"]
    assert len(options["excludeCredentials"]) == 1
    foreign = {"name": "x", "credential": Key().create(options, origin="https://evil.example")}
    assert sqlite_browser.send("POST", "/account/passkeys", foreign).status_code == 409
    add_admin(sqlite_home, "bob")
    bob = Browser(sqlite_home, sqlite_browser.app)
    bob.sign_in("bob")
    assert bob.send("DELETE", f"/account/passkeys/{number}").status_code == 404
    assert sqlite_browser.send("DELETE", f"/account/passkeys/{number}").status_code == 204
    assert passkey_sign_in(bob, key).status_code == 401


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=40).map(bytes.hex),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_answer_breaks_the_registry(sqlite_home: Home, data: st.DataObject) -> None:
    """Answers with any of their parts replaced by anything."""
    site = passkeys.Site("http://localhost", "localhost")
    key = Key()
    with sqlite_home.database.write() as session:
        options = passkeys.begin_sign_in(session, site, None)
    answer = key.get(options)
    answer["response"]["attestationObject"] = key.create({**options, "rp": {"id": "localhost"}})["response"][
        "attestationObject"
    ]
    where = data.draw(st.sampled_from([*answer, *answer["response"]]))
    mangled = data.draw(JSON)
    if isinstance(answer["response"].get(where), str) and data.draw(st.booleans()):
        mangled = answer["response"][where][: data.draw(st.integers(0, 60))]
    (answer if where in answer else answer["response"])[where] = mangled
    with pytest.raises(AuthenticationError):
        passkeys.finish_sign_in(sqlite_home, site, answer, None)
    with sqlite_home.database.write() as session:
        person = session.execute(select(Person)).scalars().first()
        assert person is not None
        begun = passkeys.begin_registration(session, site, person)
    made = key.create(begun)
    (made if where in made else made["response"])[where] = mangled
    with contextlib.suppress(StateError):  # not every part matters to a registration
        passkeys.finish_registration(sqlite_home, site, person, made)


def test_recovery_codes_need_a_factor_to_recover(sqlite_browser: Browser) -> None:
    sqlite_browser.sign_in()
    assert sqlite_browser.send("POST", "/account/recovery-codes").status_code == 409


def test_changing_the_password_ends_other_sessions(browser: Browser, home: Home) -> None:
    other = Browser(home, browser.app)
    browser.sign_in()
    other.sign_in()
    new = "a quite different phrase"
    assert browser.send("PUT", "/account/password", {"new": new}).status_code == 403
    assert browser.send("PUT", "/account/password", {"current": "x", "new": new}).status_code == 403
    assert browser.send("PUT", "/account/password", {"current": PASSWORD, "new": "ada"}).status_code == 422
    changed = browser.send("PUT", "/account/password", {"current": PASSWORD, "new": new})
    assert changed.status_code == 204
    assert browser.get("/account").status_code == 200
    assert other.get("/account").status_code == 401
    assert other.sign_in().status_code == 401
    assert other.sign_in(password=new).status_code == 200


def test_factors_are_listed_for_the_account(sqlite_browser: Browser, sqlite_home: Home) -> None:
    sqlite_browser.sign_in()
    account = sqlite_browser.get("/account").get_json()
    assert (account["factors"], account["has_password"]) == ([], True)
    add_totp(sqlite_browser)
    add_passkey(sqlite_browser, Key())
    assert sqlite_browser.get("/account").get_json()["factors"] == ["totp", "passkey", "recovery-code"]
    with sqlite_home.database.read() as session:
        assert factors.recovery_codes_left(session, 2) == 10
