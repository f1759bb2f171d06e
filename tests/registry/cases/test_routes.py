"""Cases over HTTP: the way from a file to a report, uploads that go wrong, and other organisations' pages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from registry.accounts.permissions import Role
from registry.api.document import Api
from registry.app import create_app
from registry.cases import checking, images, service
from registry.home import Home
from tests.registry.accounts.support import Browser, add_admin, add_person
from tests.registry.api.client import Client, client
from tests.registry.cases.support import foreign, image_of, who
from tests.registry.resolve.support import issue
from tests.registry.support import RECIPIENT

BYTES = {"Content-Type": "application/octet-stream"}


def opened(user: Client, title: str = "a case") -> str:
    return str(user.post("/cases", json={"title": title}).get_json()["id"])


def test_a_case_over_http(app: Api, ready: Home) -> None:
    (key_id,) = issue(ready)
    auditor, admin = client(app, ready, Role.AUDITOR), client(app, ready)
    case = opened(auditor)
    sent = auditor.post(f"/cases/{case}/images?name=a.png", data=image_of(ready, key_id), headers=BYTES)
    assert [entry["error"] for entry in sent.get_json()["files"]] == [None]
    assert len(auditor.post(f"/cases/{case}/checks", json={}).get_json()["findings"]) == 1
    assert auditor.post(f"/cases/{case}/checks", json={}).status_code == 409
    with ready.database.read() as session:
        jobs = auditor.get("/jobs").get_json()["items"]
        assert [job["kind"] for job in jobs] == ["check-case"]
        owner = service.get_case(session, case, who(ready).organisation).organisation_id
    checking.work(ready, case, owner)
    (found,) = auditor.get(f"/cases/{case}/findings").get_json()["items"]
    assert found["statement"].startswith("This image depends on the key of copy-")
    copy = found["finding"]["copies"][0]
    assert (copy["key_id"], copy["recipient"], copy["log10_p"]) == (key_id, None, None)
    (seen,) = admin.get(f"/cases/{case}/findings").get_json()["items"]
    assert seen["finding"]["copies"][0]["recipient"] == RECIPIENT
    asked = {"resolution": found["resolution"], "key_id": key_id, "reason": "case 7"}
    assert auditor.post("/unmaskings", json=asked).status_code == 201
    assert auditor.request("PUT", f"/cases/{case}/disclosure", json={"disclosed": True}).status_code == 403
    report = auditor.post(f"/cases/{case}/report", json={"format": "html"})
    assert report.status_code == 200
    assert RECIPIENT not in report.text
    edited = auditor.request("PATCH", f"/cases/{case}", json={"version": 1, "status": "closed"})
    assert edited.get_json()["status"] == "closed"
    again = auditor.request("PATCH", f"/cases/{case}", json={"version": 1, "status": "open"})
    assert again.status_code == 409
    kinds = [event["kind"] for event in auditor.get(f"/cases/{case}/events").get_json()["items"]]
    assert kinds[::-1][:4] == ["opened", "images added", "check started", "finding"]


def test_a_case_that_is_opened_again_with_the_same_key_is_the_same(app: Api, ready: Home) -> None:
    user = client(app, ready)
    headers = {"Idempotency-Key": "case-1"}
    first = user.post("/cases", json={"title": "x"}, headers=headers).get_json()
    assert user.post("/cases", json={"title": "x"}, headers=headers).get_json() == first


def announced(user: Client, case: str, body: bytes, length: int) -> tuple[int, str]:
    """Status and text of the answer to an upload that says it has another length than it has."""
    path = f"/api/v1/cases/{case}/images"
    builder = EnvironBuilder(path=path, method="POST", data=body, headers={**user._headers, **BYTES})
    environ = builder.get_environ()
    environ["CONTENT_LENGTH"] = str(length)
    body_of, status, _ = run_wsgi_app(user._client.application, environ)
    return int(status[:3]), b"".join(body_of).decode()


def test_an_upload_that_is_too_large_is_refused_with_the_limit(sqlite_ready: Home) -> None:
    user = client(create_app(sqlite_ready), sqlite_ready)
    case = opened(user)
    status, said = announced(user, case, b"beginning", 500 << 20)
    assert status == 413
    assert str(images.LARGEST_UPLOAD) in said
    assert user.get(f"/cases/{case}").get_json()["counts"]["images"] == 0


def test_an_upload_that_broke_off_leaves_nothing(sqlite_ready: Home) -> None:
    user = client(create_app(sqlite_ready), sqlite_ready)
    case = opened(user)
    whole = foreign()
    status, _ = announced(user, case, whole[: len(whole) // 2], len(whole))
    assert status == 400
    assert user.get(f"/cases/{case}").get_json()["counts"]["images"] == 0


# --- pages, as tests/registry/console/test_tenancy.py -------------------------------------------------------

PAGES: dict[str, tuple[int, dict[str, str]]] = {
    "GET /console/cases": (200, {}),
    "GET /console/cases/new": (200, {}),
    "POST /console/cases/new": (303, {"title": "own"}),
    "GET /console/cases/<case_id>": (404, {}),
    "GET /console/cases/<case_id>/findings": (404, {}),
    "GET /console/cases/<case_id>/events": (404, {}),
    "POST /console/cases/<case_id>/images": (404, {}),
    "POST /console/cases/<case_id>/check": (303, {}),
    "POST /console/cases/<case_id>/retry": (404, {}),
    "POST /console/cases/<case_id>/edit": (404, {"title": "mine", "status": "closed", "version": "1"}),
    "POST /console/cases/<case_id>/notes": (404, {"text": "mine"}),
    "POST /console/cases/<case_id>/disclosure": (404, {"disclosed": "on"}),
    "POST /console/cases/<case_id>/erase": (303, {}),
    "POST /console/cases/<case_id>/unmaskings": (404, {"reason": "mine"}),
    "POST /console/cases/<case_id>/report": (303, {"format": "html"}),
    "GET /console/cases/<case_id>/images/<image_id>/thumbnail": (404, {}),
    "GET /console/cases/<case_id>/images/<image_id>/timestamp.json": (404, {}),
}


class World:
    """A case of the first organisation, and who asks for it."""

    def __init__(self, home: Home) -> None:
        self.home, self.app = home, create_app(home)
        add_admin(home, "owner")
        add_admin(home, "rival.admin", "rival")
        add_person(home, "vic", Role.VIEWER)
        self.case = service.open_case(home, who(home), "the owner's secret title")
        (received,) = images.add(home, who(home), self.case.case_id, [("secret-name.png", foreign())])
        self.image = str(received.image_id)
        self._browsers: dict[str | None, Browser] = {}

    def ask(self, browser: Browser, name: str, csrf: bool = True) -> Any:
        method, path = name.split(" ")
        path = path.replace("<case_id>", self.case.case_id).replace("<image_id>", self.image)
        data = {**PAGES[name][1], **({"csrf_token": browser.csrf} if csrf else {})}
        return browser.client.open(path, method=method, data=data if method == "POST" else None)

    def browser(self, name: str | None) -> Browser:
        if name not in self._browsers:
            self._browsers[name] = Browser(self.home, self.app)
            if name is not None:
                self._browsers[name].sign_in(name)
        return self._browsers[name]


@pytest.fixture(scope="module")
def world(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = Home.open(Path(shutil.copytree(ready_sqlite, tmp_path_factory.mktemp("pages") / "home")))
    with (home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nrequests = ""\nstrangers = ""\nsign_in = ""\n')
    yield World(home)
    home.close()


def test_every_page_of_cases_is_in_the_table(world: World) -> None:
    found = {
        f"{method} {re.sub('<[a-z]+:', '<', rule.rule)}"
        for rule in world.app.url_map.iter_rules()
        if rule.rule.startswith("/console/cases")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert found == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_another_organisation_sees_and_changes_nothing(world: World, name: str) -> None:
    rival = world.browser("rival.admin")
    answer = world.ask(rival, name)
    assert answer.status_code == PAGES[name][0], answer.text[:2000]
    for mark in ("secret title", "secret-name", world.case.case_id):
        assert mark not in answer.text.replace(f"/console/cases/{world.case.case_id}", "").replace(
            f"no case {world.case.case_id}", ""
        )
    with world.home.database.read() as session:
        now = service.get_case(session, world.case.case_id, who(world.home).organisation)
    assert (now.version, now.rounds, now.status, now.disclosed) == (1, 0, "open", False)


@pytest.mark.parametrize("name", PAGES)
def test_strangers_viewers_and_other_sites_get_nothing(world: World, name: str) -> None:
    assert world.ask(world.browser(None), name).status_code in (302, 401)
    assert world.ask(world.browser("vic"), name).status_code == 403
    if name.startswith("POST "):
        assert world.ask(world.browser("owner"), name, csrf=False).status_code == 403
