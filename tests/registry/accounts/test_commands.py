"""The operator's commands, as a person at a terminal would run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.accounts.commands import organisation, person, token
from registry.cli import cli
from registry.errors import RegistryError
from registry.home import Home
from tests.registry.accounts.support import PASSWORD, Browser


def run(home: Home, *arguments: str, stdin: str | None = None) -> Result:
    folder: Path = home.settings.home
    return CliRunner().invoke(cli, ["--home", str(folder), *arguments], input=stdin)


def done(home: Home, *arguments: str, stdin: str | None = None) -> str:
    result = run(home, *arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_init_to_a_signed_in_administrator(home: Home) -> None:
    admin = json.loads(done(home, "person", "list", "--json"))[0]
    assert admin["role"] == "admin"
    done(home, "person", "password", admin["name"], "--stdin", stdin=PASSWORD + "\n")
    browser = Browser(home)
    assert browser.sign_in(admin["name"]).get_json()["state"] == "signed-in"
    events = browser.get("/security-events?kind=account.password-changed").get_json()["items"]
    assert events[0]["actor"].startswith("operator ")
    assert events[0]["address"] is None


def test_a_password_may_be_typed_twice(sqlite_home: Home) -> None:
    done(sqlite_home, "person", "add", "bob", "--role", "viewer")
    typed = run(sqlite_home, "person", "password", "bob", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert typed.exit_code == 0
    assert PASSWORD not in typed.output
    assert Browser(sqlite_home).sign_in("bob").status_code == 200


def test_no_command_takes_a_password_as_an_argument() -> None:
    for group in (organisation, person, token):
        for command in group.commands.values():
            named = [name for parameter in command.params for name in parameter.opts]
            assert not [name for name in named if "password" in name or "secret" in name]


def test_people_are_invited_changed_and_disabled(home: Home) -> None:
    made = json.loads(
        done(home, "person", "add", "bob", "--role", "issuer", "--email", "bob@example.org", "--json")
    )
    accept = {"invitation": made["invitation"], "password": PASSWORD}
    browser = Browser(home)
    assert browser.send("POST", "/account/invitation", accept).status_code == 204
    done(home, "person", "role", "bob", "auditor")
    assert browser.sign_in("bob").get_json()["role"] == "auditor"
    done(home, "person", "disable", "bob")
    assert browser.get("/account").status_code == 401
    assert "bob  disabled" in done(home, "person", "list")
    done(home, "person", "enable", "bob")
    assert browser.sign_in("bob").status_code == 200


def test_organisations_and_their_tokens(home: Home) -> None:
    made = json.loads(done(home, "organisation", "add", "acme", "--admin", "eve", "--json"))
    assert made["organisation"]["name"] == "acme"
    assert [found["name"] for found in json.loads(done(home, "organisation", "list", "--json"))] == [
        "default",
        "acme",
    ]
    secret = done(home, "token", "create", "ci", "--role", "viewer", "--organisation", "acme").strip()
    headers = {"Authorization": f"Bearer {secret}"}
    client = Browser(home).client
    who = client.get("/api/v1/session", headers=headers).get_json()
    assert (who["organisation"], who["role"]) == ("acme", "viewer")
    assert json.loads(done(home, "token", "list", "--json")) == []
    listed = json.loads(done(home, "token", "list", "--organisation", "acme", "--json"))
    assert listed[0]["name"] == "ci"
    prefix = secret.split("_")[1]
    done(home, "token", "revoke", prefix, "--organisation", "acme")
    assert client.get("/api/v1/session", headers=headers).status_code == 401
    assert "revoked" in done(home, "token", "list", "--organisation", "acme")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("person", "add", "bad name", "--role", "viewer"), "no login name"),
        (("person", "password", "nobody", "--stdin"), "no person nobody"),
        (("person", "list", "--organisation", "nowhere"), "no organisation nowhere"),
        (("organisation", "add", "Bad Name"), "no name of an organisation"),
        (("organisation", "add", "acme", "--email", "a@b.c"), "--admin"),
        (("token", "create", "x", "--role", "viewer", "--expires-days", "0"), "cannot last"),
        (("token", "revoke", "000000000000"), "no token"),
    ],
)
def test_what_cannot_be_done_is_explained(sqlite_home: Home, arguments: tuple[str, ...], said: str) -> None:
    result = run(sqlite_home, *arguments, stdin="")
    assert isinstance(result.exception, RegistryError)
    assert said in result.exception.diagnostics()
