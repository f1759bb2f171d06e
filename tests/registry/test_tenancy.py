"""Every route, asked by a stranger and by the administrator of another organisation.

``ROUTES`` says of each what the other administrator gets. A new route fails
:func:`test_every_route_is_in_the_table` until it is added here: with the request that would reach the first
organisation's things by their ids, and the status that refuses it.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyotp
import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from registry.accounts import factors, people, tokens
from registry.accounts.models import SecurityEvent
from registry.accounts.permissions import Permission, Role
from registry.api.access import PUBLIC, access_of
from registry.app import create_app
from registry.c2pa.manifests import ALGORITHM
from registry.home import Home
from tests.registry.accounts.support import Browser, add_admin
from tests.registry.cases.support import foreign
from tests.registry.resolve.support import QUANTA, Caller, issue, query, signs
from tests.registry.support import MODEL, RECIPIENT

Ids = dict[str, str]
ADMINISTRATOR = "first.admin"


@dataclass(frozen=True)
class Route:
    """How another organisation's administrator asks a route, and the status of the answer.

    A 2xx may show what is his own; never a mark of the first organisation.
    """

    status: int
    body: Callable[[Ids], Any] = field(default=lambda ids: None)
    data: bytes | None = None
    query: Callable[[Ids], dict[str, str]] = field(default=lambda ids: {})


OPEN = Route(0)
"""Anybody may ask; what it shows is public, or known to whoever has the secret in the path."""

NEVER_A_TOKEN = 403
"""Own accounts are changed by people who are signed in."""

ROUTES: dict[str, Route] = {
    # What concerns oneself.
    "GET /api/v1/account": Route(NEVER_A_TOKEN),
    "PUT /api/v1/account/password": Route(NEVER_A_TOKEN, lambda ids: {"new": "a quite different phrase"}),
    "POST /api/v1/account/totp": Route(NEVER_A_TOKEN),
    "POST /api/v1/account/totp/confirmation": Route(NEVER_A_TOKEN, lambda ids: {"code": "000000"}),
    "DELETE /api/v1/account/totp": Route(NEVER_A_TOKEN),
    "POST /api/v1/account/recovery-codes": Route(NEVER_A_TOKEN),
    "POST /api/v1/account/passkeys": Route(NEVER_A_TOKEN, lambda ids: {"name": "x", "credential": {}}),
    "POST /api/v1/account/passkeys/options": Route(NEVER_A_TOKEN),
    "DELETE /api/v1/account/passkeys/<number>": Route(NEVER_A_TOKEN),
    "POST /api/v1/account/identities": Route(NEVER_A_TOKEN, lambda ids: {"provider": "corp"}),
    "DELETE /api/v1/account/identities/<number>": Route(NEVER_A_TOKEN),
    # People, organisations, tokens.
    "GET /api/v1/people": Route(200),
    "POST /api/v1/people": Route(409, lambda ids: {"name": ids["name"], "role": "viewer"}),
    "PATCH /api/v1/people/<name>": Route(404, lambda ids: {"role": "viewer", "disabled": True}),
    "POST /api/v1/people/<name>/invitation": Route(404),
    "DELETE /api/v1/people/<name>/factors": Route(404),
    "GET /api/v1/organisations": Route(200),
    "POST /api/v1/organisations": Route(403, lambda ids: {"name": "third", "admin": {"name": "third"}}),
    "GET /api/v1/tokens": Route(200),
    "POST /api/v1/tokens": Route(201, lambda ids: {"name": "mine", "role": "admin"}),
    "DELETE /api/v1/tokens/<prefix>": Route(404),
    "GET /api/v1/security-events": Route(200),
    # Recipients, models, keys.
    "GET /api/v1/recipients": Route(200),
    "POST /api/v1/recipients": Route(201, lambda ids: {"email": "bob@example.org"}),
    "GET /api/v1/recipients/<email>": Route(404),
    "DELETE /api/v1/recipients/<email>": Route(404),
    "GET /api/v1/models": Route(200),
    "POST /api/v1/models": Route(
        202, lambda ids: {"name": "own", "adapter": "latent-diffusion", "weights": f"upload:{ids['upload']}"}
    ),
    "GET /api/v1/models/<model>": Route(404),
    "GET /api/v1/uploads/<upload>": Route(404),
    "PUT /api/v1/uploads/<upload>/files/<path>": Route(201, data=b"his own"),
    "DELETE /api/v1/uploads/<upload>": Route(204),
    "GET /api/v1/keys": Route(200),
    "POST /api/v1/keys": Route(404, lambda ids: {"model": ids["model"], "recipient": ids["email"]}),
    "GET /api/v1/keys/<key_id>": Route(404),
    "POST /api/v1/keys/<key_id>/revocation": Route(404, lambda ids: {"reason": "mine now"}),
    "POST /api/v1/keys/<key_id>/opening": Route(404, lambda ids: {"reason": "mine now"}),
    "POST /api/v1/bundles": Route(404, lambda ids: {"model": ids["model"], "keys": "with-recipients"}),
    # Copies.
    "GET /api/v1/copies/<copy_id>": Route(404),
    "GET /api/v1/copies/<copy_id>/archive": Route(404),
    "GET /api/v1/copies/<copy_id>/files/<path>": Route(404),
    "GET /api/v1/copies/<copy_id>/links": Route(404),
    "POST /api/v1/copies/<copy_id>/links": Route(404, lambda ids: {"hours": 1}),
    "DELETE /api/v1/copies/<copy_id>/links/<link_id>": Route(404),
    "GET /api/v1/downloads": Route(200),
    "GET /api/v1/downloads/<download_id>": Route(404),
    "GET /api/v1/downloads/<download_id>/receipt": Route(404),
    "GET /api/v1/downloads/<download_id>/countersignature": Route(404),
    "PUT /api/v1/downloads/<download_id>/countersignature": Route(
        404,
        lambda ids: {
            "schema": "hallmark/countersignature/1",
            "registry": "0" * 32,
            "download_id": ids["download_id"],
            "receipt": "0" * 64,
            "signature": "A" * 86 + "==",
        },
    ),
    # Jobs.
    "GET /api/v1/jobs": Route(200),
    "POST /api/v1/jobs": Route(
        404, lambda ids: {"kind": "export-model", "arguments": {"model": ids["model"]}}
    ),
    "GET /api/v1/jobs/<job_id>": Route(404),
    "POST /api/v1/jobs/<job_id>/cancel": Route(404),
    "POST /api/v1/jobs/<job_id>/retry": Route(404),
    "GET /api/v1/jobs/<job_id>/events": Route(404),
    "GET /api/v1/jobs/<job_id>/logs": Route(404),
    "GET /api/v1/jobs/<job_id>/files/<name>": Route(404),
    # Cases.
    "GET /api/v1/cases": Route(200),
    "POST /api/v1/cases": Route(201, lambda ids: {"title": "own"}),
    "GET /api/v1/cases/<case_id>": Route(404),
    "PATCH /api/v1/cases/<case_id>": Route(404, lambda ids: {"version": 1, "status": "closed"}),
    "PUT /api/v1/cases/<case_id>/disclosure": Route(404, lambda ids: {"disclosed": True}),
    "GET /api/v1/cases/<case_id>/images": Route(404),
    "POST /api/v1/cases/<case_id>/images": Route(404, data=b"his own"),
    "DELETE /api/v1/cases/<case_id>/images": Route(404),
    "GET /api/v1/cases/<case_id>/images/<image_id>": Route(404),
    "GET /api/v1/cases/<case_id>/images/<image_id>/timestamp": Route(404),
    "POST /api/v1/cases/<case_id>/checks": Route(404, lambda ids: {}),
    "GET /api/v1/cases/<case_id>/findings": Route(404),
    "GET /api/v1/cases/<case_id>/notes": Route(404),
    "POST /api/v1/cases/<case_id>/notes": Route(404, lambda ids: {"text": "mine now"}),
    "GET /api/v1/cases/<case_id>/events": Route(404),
    "POST /api/v1/cases/<case_id>/report": Route(404, lambda ids: {}),
    # Resolving.
    "GET /api/v1/resolvable-models": Route(200),
    "GET /api/v1/resolutions": Route(200),
    "POST /api/v1/resolve": Route(404, lambda ids: json.loads(ids["reading"])),
    "GET /api/v1/grants": Route(200),
    "POST /api/v1/grants": Route(404, lambda ids: {"model": ids["model"], "organisation": "rival"}),
    "GET /api/v1/grants/<grant_id>": Route(404),
    "DELETE /api/v1/grants/<grant_id>": Route(404),
    "GET /api/v1/unmaskings": Route(200),
    "POST /api/v1/unmaskings": Route(
        404, lambda ids: {"resolution": ids["resolution"], "key_id": ids["pseudonym"], "reason": "curious"}
    ),
    "GET /api/v1/unmaskings/<unmasking_id>": Route(404),
    "POST /api/v1/unmaskings/<unmasking_id>/decision": Route(404, lambda ids: {"approve": True}),
    # C2PA.
    "GET /c2pa/v1/matches/byBinding": Route(200, query=lambda ids: json.loads(ids["binding"])),
    "POST /c2pa/v1/matches/byBinding": Route(200, lambda ids: json.loads(ids["binding"])),
    "POST /c2pa/v1/matches/byContent": Route(415, data=b"no image"),
    "GET /c2pa/v1/manifests/<manifest_id>": Route(404),
    # What is public.
    "GET /api/openapi.json": OPEN,
    "GET /api/v1/session": OPEN,
    "POST /api/v1/session": OPEN,
    "DELETE /api/v1/session": OPEN,
    "POST /api/v1/session/totp": OPEN,
    "POST /api/v1/session/passkey": OPEN,
    "POST /api/v1/session/passkey/options": OPEN,
    "POST /api/v1/account/invitation": OPEN,
    "GET /auth/oidc/<name>/start": OPEN,
    "GET /auth/oidc/<name>/callback": OPEN,
    "GET /api/v1/ledger/checkpoint": OPEN,
    "GET /api/v1/ledger/consistency": OPEN,
    "GET /api/v1/ledger/entries": OPEN,
    "GET /api/v1/ledger/entries/<index>": OPEN,
    "GET /api/v1/ledger/entries/<index>/inclusion": OPEN,
    "GET /api/v1/ledger/records/<digest>/inclusion": OPEN,
    "GET /api/v1/model-signing-key": OPEN,
    "GET /ledger/checkpoint": OPEN,
    "GET /ledger/tile/<level>/<number>": OPEN,
    "GET /ledger/tile/entries/<number>": OPEN,
    "GET /tuf/metadata/<name>": OPEN,
    "GET /tuf/targets/<path>": OPEN,
    "GET /c2pa/v1/services/supportedAlgorithms": OPEN,
    "GET /c2pa/v1/authority": OPEN,
    "GET /d/<secret>": OPEN,
    "GET /d/<secret>/archive": OPEN,
    "GET /d/<secret>/files/<path>": OPEN,
    "GET /d/<secret>/receipt": OPEN,
    "PUT /d/<secret>/countersignature": OPEN,
}

GUARDED = [name for name, route in ROUTES.items() if route is not OPEN]


@dataclass(frozen=True)
class World:
    """A registry with things of the first organisation, and two administrators."""

    home: Home
    owner: Caller
    rival: Caller
    ids: Ids

    @property
    def client(self) -> FlaskClient:
        return self.owner.client

    @property
    def marks(self) -> list[str]:
        """What no answer to the rival may hold."""
        kept = (
            "case_id",
            "image_id",
            "key_id",
            "email",
            "link_id",
            "download_id",
            "job_id",
            "grant_id",
            "unmasking_id",
            "prefix",
        )
        return [self.ids[name] for name in kept] + [self.ids["name"], self.ids["digest"]]


@pytest.fixture(scope="module")
def world(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tenancy") / "home"
    home = Home.open(Path(shutil.copytree(ready_sqlite, folder)))
    with (folder / "config.toml").open("a") as file:
        file.write('\n[limits]\nrequests = ""\nstrangers = ""\nsign_in = ""\n')
    app = create_app(home)
    with home.database.write() as session:
        people.add_organisation(session, "rival")
        people.add_organisation(session, "auditors")
        people.add_person(session, 1, ADMINISTRATOR, Role.ADMIN)
    callers = {}
    for name in ("default", "rival", "auditors"):
        with home.database.write() as session:
            number = people.organisation(session, name).id
            row, secret = tokens.create(session, number, name, Role.ADMIN, scopes=set(Permission))
        callers[name] = Caller(app.test_client(), secret, row.prefix)
    owner = callers["default"]
    yield World(home, owner, callers["rival"], _belongings(home, owner, callers["auditors"]))
    home.close()


@pytest.fixture(scope="module")
def signed_in(world: World) -> Browser:
    """The browser of an administrator of the first organisation."""
    add_admin(world.home, "signed.in")
    browser = Browser(world.home, world.client.application)
    assert browser.sign_in("signed.in").get_json()["state"] == "signed-in"
    return browser


@pytest.fixture(scope="module")
def half(world: World) -> Browser:
    """The browser of one who showed the password and owes the second factor."""
    add_admin(world.home, "half.way")
    with world.home.database.write() as session:
        person = people.get_person(session, "half.way")
        secret, _ = factors.begin_totp(session, world.home.master, person)
    with world.home.database.write() as session:
        factors.confirm_totp(session, world.home.master, person, pyotp.TOTP(secret).now())
    browser = Browser(world.home, world.client.application)
    browser.sign_in("half.way")
    return browser


def _belongings(home: Home, owner: Caller, auditor: Caller) -> Ids:
    """One of each thing that an organisation can have."""

    def made(answer: TestResponse) -> Any:
        assert answer.status_code < 300, answer.get_json()
        return answer.get_json()

    (key_id,) = issue(home)
    copy_id = f"copy-{key_id}"
    archive = owner.get(f"/copies/{copy_id}/archive")
    assert archive.status_code == 200
    archive.get_data()
    archive.close()
    grant = made(owner.post("/grants", {"model": MODEL, "organisation": "auditors"}))
    asked = query(home, QUANTA * signs(home, key_id), model=f"default/{MODEL}")
    found = made(auditor.post("/resolve", asked))
    wanted = {"resolution": found["resolution"], "key_id": found["copies"][0]["key_id"], "reason": "case 17"}
    export = {"kind": "export-model", "arguments": {"model": MODEL}}
    own = _binding(query(home, QUANTA * signs(home, key_id)))
    matches = made(owner.post("/c2pa/v1/matches/byBinding", own))["matches"]
    upload = owner.request(
        "PUT",
        "/uploads/weights/files/owners-secret.bin",
        data=b"weights",
        headers={"Content-Type": "application/octet-stream"},
    )
    assert upload.status_code == 201
    case_id = made(owner.post("/cases", {"title": "the owner's case"}))["id"]
    suspect = owner.request(
        "POST",
        f"/cases/{case_id}/images",
        data=foreign(),
        headers={"Content-Type": "application/octet-stream"},
    )
    return {
        "case_id": case_id,
        "image_id": made(suspect)["files"][0]["image"],
        "key_id": key_id,
        "copy_id": copy_id,
        "email": RECIPIENT,
        "model": MODEL,
        "digest": made(owner.get(f"/models/{MODEL}"))["digest"].removeprefix("sha256:"),
        "link_id": made(owner.post(f"/copies/{copy_id}/links", {"hours": 1}))["link_id"],
        "download_id": made(owner.get("/downloads"))["items"][0]["download_id"],
        "job_id": made(owner.post("/jobs", export))["job_id"],
        "grant_id": grant["id"],
        "unmasking_id": made(auditor.post("/unmaskings", wanted))["id"],
        "resolution": found["resolution"],
        "pseudonym": wanted["key_id"],
        "prefix": owner.prefix,
        "name": ADMINISTRATOR,
        "upload": "weights",
        "path": "owners-secret.bin",
        "number": "1",
        "manifest_id": matches[0]["manifestId"],
        "reading": json.dumps(asked),
        "binding": json.dumps(_binding(asked)),
    }


def _binding(asked: dict[str, Any]) -> dict[str, str]:
    return {"alg": ALGORITHM, "value": base64.b64encode(json.dumps(asked).encode()).decode()}


def _ask(
    caller: Caller | None, client: FlaskClient, name: str, ids: Ids, csrf: str | None = None
) -> TestResponse:
    method, rule = name.split(" ")
    route, path = ROUTES[name], rule
    for parameter, value in ids.items():
        path = path.replace(f"<{parameter}>", value)
    assert "<" not in path, f"{path}: give the world an id"
    headers = {} if caller is None else {"Authorization": f"Bearer {caller.token}"}
    if csrf is not None:
        headers["X-CSRF-Token"] = csrf
    sent: dict[str, Any] = {}
    if route.data is not None:
        sent, headers = {"data": route.data}, {**headers, "Content-Type": "application/octet-stream"}
    elif (body := route.body(ids)) is not None:
        sent = {"json": body}
    return client.open(path, method=method, headers=headers, query_string=route.query(ids), **sent)


def test_every_route_is_in_the_table(world: World) -> None:
    app = world.client.application
    found = set()
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            plain = "".join(
                part if i == 0 else "<" + part.split(":")[-1] for i, part in enumerate(rule.rule.split("<"))
            )
            name = f"{method} {plain}"
            if rule.rule == "/" or rule.rule.startswith("/console"):
                continue  # pages: tests/registry/console/test_tenancy.py
            found.add(name)
            public = access_of(app.view_functions[rule.endpoint]) == PUBLIC
            assert public == (ROUTES.get(name) is OPEN), f"add {name} to ROUTES"
    assert found == set(ROUTES)


@pytest.mark.parametrize("name", GUARDED)
def test_a_stranger_is_turned_away(world: World, name: str) -> None:
    client = world.client.application.test_client()
    answer = _ask(None, client, name, world.ids)
    assert answer.status_code == 401
    assert answer.mimetype == "application/problem+json"
    forged = Caller(client, f"hm_{world.owner.prefix}_{'A' * 43}", "")
    assert _ask(forged, client, name, world.ids).status_code == 401
    client.set_cookie("hallmark_session", "A" * 43)
    assert _ask(None, client, name, world.ids).status_code == 401


@pytest.mark.parametrize("name", GUARDED)
def test_half_a_sign_in_opens_nothing(world: World, half: Browser, name: str) -> None:
    assert half.state()["state"] == "factor-needed"
    assert _ask(None, half.client, name, world.ids, half.csrf).status_code == 401


@pytest.mark.parametrize("name", [name for name in GUARDED if not name.startswith("GET ")])
def test_another_site_changes_nothing_in_the_name_of_who_is_signed_in(
    world: World, signed_in: Browser, name: str
) -> None:
    answer = _ask(None, signed_in.client, name, world.ids)
    assert answer.status_code == 403
    assert "X-CSRF-Token" in answer.get_json()["detail"]


@pytest.mark.parametrize("name", GUARDED)
def test_another_organisation_sees_and_changes_nothing(world: World, name: str) -> None:
    answer = _ask(world.rival, world.rival.client, name, world.ids)
    said = answer.get_data(as_text=True)
    assert answer.status_code == ROUTES[name].status, said
    if answer.status_code < 300:
        assert [mark for mark in world.marks if mark in said] == []


@pytest.mark.parametrize("name", [name for name in GUARDED if ROUTES[name].status == 404])
def test_what_is_anothers_looks_like_what_is_not_there(world: World, name: str) -> None:
    shapes = {parameter: _invented(value) for parameter, value in world.ids.items()}
    shapes |= {kept: world.ids[kept] for kept in ("number", "path", "binding")}
    shapes["manifest_id"] = "urn:c2pa:00000000-0000-0000-0000-000000000000"
    shapes["reading"] = world.ids["reading"].replace(MODEL, shapes["model"])
    theirs = _ask(world.rival, world.rival.client, name, world.ids).get_json()
    nobodys = _ask(world.rival, world.rival.client, name, shapes).get_json()
    assert _unnamed(theirs, world.ids) == _unnamed(nobodys, shapes)


def _unnamed(problem: dict[str, Any], ids: Ids) -> dict[str, Any]:
    """A problem in which the ids that were asked for stand as their names."""
    for parameter, value in sorted(ids.items(), key=lambda entry: -len(entry[1])):
        if parameter != "number":
            problem |= {key: problem[key].replace(value, parameter) for key in ("detail", "hint")}
    return {**problem, "request_id": ""}


def _invented(value: str) -> str:
    """Another id of the same form, which nobody has."""
    if not any(character.isdigit() for character in value):
        return f"{value[:2]}x{value[2:]}"
    return value.translate(str.maketrans("0123456789", "1234567890"))


def test_the_owner_finds_everything_as_it_was(world: World) -> None:
    """Run last: no request of the rival's above did anything."""
    get = world.owner.get
    ids = world.ids
    assert get(f"/keys/{ids['key_id']}").get_json()["revoked_at"] is None
    assert get(f"/uploads/{ids['upload']}").get_json()["files"] == {ids["path"]: 7}
    assert get(f"/jobs/{ids['job_id']}").get_json()["state"] == "queued"
    assert [grant["id"] for grant in get("/grants").get_json()["items"]] == [ids["grant_id"]]
    assert get(f"/unmaskings/{ids['unmasking_id']}").get_json()["state"] == "pending"
    links = get(f"/copies/{ids['copy_id']}/links").get_json()["items"]
    assert [(link["link_id"], link["withdrawn_at"]) for link in links] == [(ids["link_id"], None)]
    names = {person["name"]: person for person in get("/people").get_json()["items"]}
    assert (names[ADMINISTRATOR]["role"], names[ADMINISTRATOR]["disabled_at"]) == ("admin", None)
    tokens_left = {token["prefix"]: token["revoked_at"] for token in get("/tokens").get_json()["items"]}
    assert tokens_left[ids["prefix"]] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "parameter"),
    [
        ("GET", "/keys/{key_id}", None, "key_id"),
        ("GET", "/copies/{copy_id}/archive", None, "copy_id"),
        ("GET", "/models/{model}", None, "model"),
        ("GET", "/downloads/{download_id}", None, "download_id"),
        ("GET", "/jobs/{job_id}", None, "job_id"),
        ("DELETE", "/grants/{grant_id}", None, "grant_id"),
        ("POST", "/unmaskings/{unmasking_id}/decision", {"approve": True}, "unmasking_id"),
        ("DELETE", "/tokens/{prefix}", None, "prefix"),
        ("POST", "/keys", {"model": MODEL, "recipient": RECIPIENT}, "model"),
    ],
)
def test_probing_is_logged_for_the_operator_alone(
    world: World, method: str, path: str, body: Any, parameter: str
) -> None:
    def probes() -> list[SecurityEvent]:
        with world.home.database.read() as session:
            found = select(SecurityEvent).where(SecurityEvent.kind == "permission.foreign-id")
            return list(session.execute(found.order_by(SecurityEvent.id)).scalars())

    with world.home.database.write() as session:
        number = people.organisation(session, "rival").id
        row, secret = tokens.create(session, number, "probe", Role.ADMIN)
    prober = Caller(world.rival.client, secret, row.prefix)
    before = len(probes())
    answer = prober.request(method, path.format(**world.ids), body)
    assert answer.status_code == 404
    answer.close()
    fresh = probes()[before:]
    assert [json.loads(event.detail) for event in fresh] == [{parameter: world.ids[parameter]}]
    assert (fresh[0].organisation_id, fresh[0].actor) == (None, f"token {row.prefix}")
    shown = prober.get("/security-events?kind=permission.foreign-id").get_json()["items"]
    assert shown == []
    operators = world.owner.get("/security-events?kind=permission.foreign-id").get_json()["items"]
    assert operators[0]["id"] == fresh[0].id


def test_an_id_that_nobody_has_is_no_probing(world: World) -> None:
    with world.home.database.read() as session:
        found = select(SecurityEvent.id).where(SecurityEvent.kind == "permission.foreign-id")
        before = session.execute(found).all()
    world.rival.get(f"/keys/{'0' * 24}").close()
    with world.home.database.read() as session:
        assert session.execute(found).all() == before
