"""Every page of the console, asked by a stranger, half a sign-in, another site, another organisation.

``ROUTES`` says of each what the other organisation's administrator gets; one that is missing fails
:func:`test_every_page_is_in_the_table`. See also ``tests/registry/test_tenancy.py``, for the API.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyotp
import pytest
from werkzeug.test import TestResponse

from registry.accounts import factors, people, tokens
from registry.accounts.models import SecurityEvent
from registry.accounts.permissions import Permission, Role
from registry.api.access import PUBLIC, access_of
from registry.app import create_app
from registry.home import Home
from registry.keys import bulk
from registry.resolve import grants
from tests.registry.accounts.support import PASSWORD, Browser, add_admin
from tests.registry.support import MODEL, RECIPIENT

Ids = dict[str, str]
OPEN = 0
"""Anybody may ask."""


@dataclass(frozen=True)
class Page:
    """The status of the answer to another organisation's administrator, and what the form holds."""

    status: int
    form: dict[str, str] = field(default_factory=dict)


ROUTES: dict[str, Page] = {
    "GET /": Page(OPEN),
    "GET /console/assets/<name>": Page(OPEN),
    "GET /console": Page(200),
    # Signing in.
    "GET /console/sign-in": Page(OPEN),
    "POST /console/sign-in": Page(OPEN),
    "POST /console/sign-in/code": Page(OPEN),
    "POST /console/sign-in/out": Page(OPEN),
    "GET /console/sign-in/invitation": Page(OPEN),
    "POST /console/sign-in/invitation": Page(OPEN),
    "GET /console/sign-in/done": Page(OPEN),
    # One's own account.
    "GET /console/account": Page(200),
    "POST /console/account/password": Page(422, {"new": "short", "again": "short"}),
    "POST /console/account/authenticator": Page(200),
    "POST /console/account/authenticator/confirm": Page(422, {"code": "x"}),
    "POST /console/account/authenticator/remove": Page(303),
    "POST /console/account/recovery-codes": Page(422),
    "POST /console/account/passkeys/<number>/remove": Page(422),
    "GET /console/account/identities/<provider>": Page(422),
    "POST /console/account/identities/<number>/remove": Page(422),
    "POST /console/account/sign-out-everywhere": Page(303),
    # Models.
    "GET /console/models": Page(200),
    "GET /console/models/new": Page(200),
    "POST /console/models/new": Page(422, {"name": "own", "source": "upload", "upload": "weights"}),
    "GET /console/models/<model>": Page(404),
    "POST /console/models/<model>/<action>": Page(404),
    "GET /console/models/<model>/pictures/<job_id>/<file>": Page(404),
    "GET /console/lineage": Page(200),
    # Recipients and copies.
    "GET /console/recipients": Page(200),
    "GET /console/recipients/new": Page(200),
    "POST /console/recipients/new": Page(303, {"email": "own@example.org"}),
    "GET /console/recipients/<email>": Page(404),
    "POST /console/recipients/<email>/erase": Page(404),
    "GET /console/copies": Page(200),
    "GET /console/copies/issue": Page(200),
    "POST /console/copies/issue": Page(422, {"model": MODEL, "email": RECIPIENT}),
    "POST /console/copies/issue-many": Page(422, {"model": MODEL, "table_text": "email\na@example.org"}),
    "GET /console/copies/batch/<first>-<last>": Page(404),
    "GET /console/copies/batch/<first>-<last>/certificates.jsonl": Page(200),
    "POST /console/copies/batch/<first>-<last>/links.csv": Page(200),
    "GET /console/copies/<copy_id>": Page(404),
    "GET /console/copies/<copy_id>/certificate.json": Page(404),
    "POST /console/copies/<copy_id>/revoke": Page(404, {"reason": "mine now"}),
    "POST /console/copies/<copy_id>/links": Page(404, {"hours": "1"}),
    "POST /console/copies/<copy_id>/links/<link_id>/withdraw": Page(404),
    "GET /console/copies/downloads": Page(200),
    "GET /console/copies/downloads/<download_id>": Page(404),
    "GET /console/copies/downloads/<download_id>/receipt.json": Page(404),
    # The ledger is public, and holds nothing of anybody.
    "GET /console/ledger": Page(200),
    "GET /console/ledger/entries/<index>": Page(200),
    "GET /console/ledger/checkpoints": Page(200),
    "GET /console/ledger/checkpoints/<size>": Page(200),
    "GET /console/ledger/consistency": Page(200),
    # Jobs.
    "GET /console/jobs": Page(200),
    "GET /console/jobs/<job_id>": Page(404),
    "POST /console/jobs/<job_id>/<action>": Page(404),
    # Administration.
    "GET /console/administration": Page(200),
    "GET /console/administration/people": Page(200),
    "GET /console/administration/people/new": Page(200),
    "POST /console/administration/people/new": Page(422, {"name": "first.admin", "role": "viewer"}),
    "GET /console/administration/people/<person>": Page(404),
    "POST /console/administration/people/<person>": Page(404, {"role": "viewer"}),
    "POST /console/administration/people/<person>/<action>": Page(404),
    "GET /console/administration/organisations": Page(200),
    "POST /console/administration/organisations": Page(422, {"name": "third", "admin": "third"}),
    "GET /console/administration/tokens": Page(200),
    "POST /console/administration/tokens": Page(200, {"name": "own", "role": "viewer", "expires_days": "9"}),
    "POST /console/administration/tokens/<prefix>/revoke": Page(404),
    "GET /console/administration/security": Page(200),
    "GET /console/administration/registry": Page(403),
    "GET /console/grants": Page(200),
    "POST /console/grants": Page(422, {"model": MODEL, "organisation": "rival", "daily_units": "1"}),
    "POST /console/grants/<grant_id>/withdraw": Page(404),
    "POST /console/grants/unmaskings/<unmasking_id>": Page(404),
    "GET /console/trust": Page(403),
    "POST /console/trust/publish": Page(403),
    "POST /console/trust/refresh": Page(403),
}
ELSEWHERE = ("/console/cases", "/console/device")
"""Pages whose own tests have such a table."""

NAMES = {
    "GET /console/account/identities/<name>": "provider",
    "GET /console/models/<model>/pictures/<job_id>/<name>": "file",
    "/console/administration/people/<name>": "person",
}
GUARDED = [name for name, page in ROUTES.items() if page.status != OPEN]


@dataclass(frozen=True)
class World:
    """A registry with things of the first organisation, and who asks for them."""

    home: Home
    app: Any
    ids: Ids

    def marks(self) -> list[str]:
        """What no page for the rival may hold."""
        kept = ("email", "job_id", "link_id", "download_id", "grant_id", "prefix", "person")
        return [self.ids[name] for name in kept] + [self.ids["copy_id"].removeprefix("copy-")]

    def browser(self, name: str) -> Browser:
        browser = Browser(self.home, self.app)
        browser.sign_in(name)
        return browser


@pytest.fixture(scope="module")
def world(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = Home.open(Path(shutil.copytree(ready_sqlite, tmp_path_factory.mktemp("pages") / "home")))
    with (home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nrequests = ""\nstrangers = ""\nsign_in = ""\n')
    app = create_app(home)
    add_admin(home, "first.admin")
    add_admin(home, "rival.admin", "rival")
    add_admin(home, "half.way")
    with home.database.write() as session:
        person = people.get_person(session, "half.way")
        secret, _ = factors.begin_totp(session, home.master, person)
    with home.database.write() as session:
        factors.confirm_totp(session, home.master, person, pyotp.TOTP(secret).now())
    yield World(home, app, _belongings(home, app))
    home.close()


def _belongings(home: Home, app: Any) -> Ids:
    """One of each thing, made as the first organisation's administrator makes it."""
    owner = Browser(home, app)
    owner.sign_in("first.admin")
    (document,) = bulk.issue_orders(home, bulk.read_orders(RECIPIENT, MODEL), 1)
    copy_id = document["copy_id"]
    archive = owner.get(f"/copies/{copy_id}/archive")
    archive.get_data()
    archive.close()
    job = owner.send("POST", "/jobs", {"kind": "picture-model", "arguments": {"model": MODEL}}).get_json()
    link = owner.send("POST", f"/copies/{copy_id}/links", {"hours": 1}).get_json()
    with home.database.write() as session:
        row, _ = tokens.create(session, 1, "owner's", Role.ADMIN, scopes=set(Permission))
    grant = owner.send("POST", "/grants", {"model": MODEL, "organisation": "rival"}).get_json()
    with home.database.write() as session:  # so that the rival has no right to the model meanwhile
        grants.find(session, 1, grant["id"])[0].withdrawn_at = 1
    return {
        "model": MODEL,
        "email": RECIPIENT,
        "copy_id": copy_id,
        "link_id": link["link_id"],
        "job_id": job["job_id"],
        "download_id": owner.get("/downloads").get_json()["items"][0]["download_id"],
        "grant_id": grant["id"],
        "unmasking_id": "unmasking-000000000000",
        "prefix": row.prefix,
        "person": "first.admin",
        "action": "retry",
        "number": "1",
        "provider": "corporate",
        "file": "base-0.png",
        "first": "1",
        "last": "99",
        "index": "1",
        "size": "1",
        "name": "console.js",
    }


def _path(name: str, ids: Ids) -> tuple[str, str]:
    method, path = name.split(" ")
    if path.startswith("/console/administration/people/<person>/"):
        ids = {**ids, "action": "disable"}
    if path.startswith("/console/models/<model>/<action>"):
        ids = {**ids, "action": "train"}
    for parameter, value in ids.items():
        path = path.replace(f"<{parameter}>", value)
    assert "<" not in path, f"{path}: give the world an id"
    return method, path


def _ask(world: World, browser: Browser, name: str, csrf: bool = True) -> TestResponse:
    method, path = _path(name, world.ids)
    data = {**ROUTES[name].form, **({"csrf_token": browser.csrf} if csrf else {})}
    return browser.client.open(path, method=method, data=data if method == "POST" else None)


def test_every_page_is_in_the_table(world: World) -> None:
    found = set()
    for rule in world.app.url_map.iter_rules():
        ours = rule.rule == "/" or rule.rule.startswith("/console")
        if not ours or rule.rule.startswith(ELSEWHERE):
            continue
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            parts = rule.rule.split("<")
            plain = parts[0] + "".join("<" + part.split(":")[-1] for part in parts[1:])
            name = f"{method} {plain}"
            for beginning, other in NAMES.items():
                if name == beginning or plain.startswith(beginning):
                    name = name.replace("<name>", f"<{other}>")
            found.add(name)
            open_ = access_of(world.app.view_functions[rule.endpoint]) == PUBLIC
            assert name in ROUTES, f"add {name} to ROUTES"
            assert open_ == (ROUTES[name].status == OPEN), name
    assert found == set(ROUTES)


@pytest.mark.parametrize("name", GUARDED)
def test_a_stranger_is_sent_to_sign_in(world: World, name: str) -> None:
    stranger = Browser(world.home, world.app)
    answer = _ask(world, stranger, name)
    if name.startswith("GET "):
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/console/sign-in?next=/console")
    else:
        assert answer.status_code == 401
        assert "Your session has ended" in answer.text


@pytest.fixture(scope="module")
def half(world: World) -> Browser:
    return world.browser("half.way")


@pytest.mark.parametrize("name", GUARDED)
def test_half_a_sign_in_opens_nothing(world: World, half: Browser, name: str) -> None:
    assert _ask(world, half, name).status_code in (302, 401)


@pytest.mark.parametrize("name", [name for name in GUARDED if name.startswith("POST ")])
def test_another_sites_form_does_nothing(world: World, owner: Browser, name: str) -> None:
    answer = _ask(world, owner, name, csrf=False)
    assert answer.status_code == 403
    assert "You may not do this" in answer.text


@pytest.fixture(scope="module")
def owner(world: World) -> Browser:
    return world.browser("first.admin")


@pytest.fixture(scope="module")
def rival(world: World) -> Browser:
    return world.browser("rival.admin")


@pytest.mark.parametrize("name", GUARDED)
def test_another_organisation_sees_and_changes_nothing(world: World, rival: Browser, name: str) -> None:
    if rival.state()["state"] != "signed-in":  # it signed out, which is one of the forms
        rival.sign_in("rival.admin")
    answer = _ask(world, rival, name)
    assert answer.status_code == ROUTES[name].status, answer.text[:3000]
    said = answer.text
    answer.close()
    if name.startswith("GET ") or answer.status_code >= 400:
        asked = {*ROUTES[name].form.values(), *re.split("/|copy-", _path(name, world.ids)[1])}
        told = [mark for mark in world.marks() if mark in said and mark not in asked]
        assert told == []


def test_everything_is_as_it_was(world: World, owner: Browser) -> None:
    """Run last: nothing that the rival sent above did anything."""
    ids = world.ids
    assert owner.get(f"/keys/{ids['copy_id']}").get_json()["revoked_at"] is None
    assert owner.get(f"/jobs/{ids['job_id']}").get_json()["state"] == "queued"
    links = owner.get(f"/copies/{ids['copy_id']}/links").get_json()["items"]
    assert [link["withdrawn_at"] for link in links] == [None]
    with world.home.database.read() as session:
        person = people.get_person(session, ids["person"])
        assert (person.role, person.disabled_at) == ("admin", None)
        assert tokens.get_token(session, 1, ids["prefix"]).revoked_at is None
        probes = session.query(SecurityEvent).filter_by(kind="permission.foreign-id").count()
    assert probes > 0, "who asks for others' ids is noticed"


def test_a_link_into_the_console_leads_nowhere_else_after_the_sign_in(world: World) -> None:
    for wanted in ("https://evil.example", "//evil.example", "/\\evil.example", "/console\\..\\x", "/d/x"):
        visitor = Browser(world.home, world.app)
        data = {"name": "first.admin", "password": PASSWORD, "next": wanted}
        answer = visitor.client.post("/console/sign-in", data=data)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/console")


def test_another_sites_form_does_not_sign_anybody_in(world: World) -> None:
    visitor = Browser(world.home, world.app)
    data = {"name": "first.admin", "password": PASSWORD}
    answer = visitor.client.post("/console/sign-in", data=data, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert visitor.cookie() == ""
    answer = visitor.client.post("/console/sign-in", data=data, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403


@pytest.mark.parametrize("name", [name for name in GUARDED if name.startswith("GET ")])
def test_pages_allow_our_own_scripts_alone(world: World, owner: Browser, name: str) -> None:
    answer = _ask(world, owner, name)
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    if answer.mimetype == "text/html":
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text


def test_an_address_of_no_page_keeps_the_menu_for_who_is_signed_in(world: World, owner: Browser) -> None:
    answer = owner.client.get("/console/no-such-page")
    assert (answer.status_code, "first.admin" in answer.text) == (404, True)
    answer = Browser(world.home, world.app).client.get("/console/no-such-page")
    assert (answer.status_code, "To the sign-in" in answer.text) == (404, True)
