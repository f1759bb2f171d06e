"""Forms, lists and figures of pages, without a browser."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from registry.accounts.models import Recipient
from registry.console import overview
from registry.console.assets import FOLDER, Assets
from registry.console.page import Form, state_of
from registry.copies.models import Download
from registry.db import unix_now
from registry.errors import ForbiddenError, InputError, IntegrityError, StateError
from registry.home import Home
from registry.keys import bulk
from registry.keys import service as keys
from registry.keys.models import UserKey
from tests.registry.accounts.support import Browser, admins_browser
from tests.registry.support import MODEL, RECIPIENT

SCRIPT = "\"'><script>alert(1)</script>"


@pytest.fixture
def browser(sqlite_ready: Home) -> Browser:
    return admins_browser(sqlite_ready)


def post(browser: Browser, path: str, **form: Any) -> Any:
    return browser.client.post(path, data={"csrf_token": browser.csrf, **form})


def test_a_form_says_what_is_wrong_with_each_field() -> None:
    form = Form({"name": "x\x00", "number": "12a", "choice": "?", "long": "y" * 9, "lines": "a\nb"})
    assert form.text("missing") == ""
    form.text("name")
    form.text("long", longest=8)
    form.text("lines")
    assert form.number("number", 1, 9) == 1
    form.choice("choice", ("a", "b"))
    assert set(form.errors) == {"missing", "name", "long", "lines", "number", "choice"}
    assert Form({"lines": "a\r\nb"}).text("lines", lines=True) == "a\nb"
    assert Form().number("days", 1, 9, default=3) == 3


def test_refusals_stay_in_the_form_and_failures_do_not() -> None:
    form = Form()
    with form.refusals():
        raise InputError("this is wrong.", "Do that.")
    assert form.problem == "This is wrong. Do that."
    with form.refusals("field"):
        raise ForbiddenError("not you.")
    assert form.errors == {"field": "Not you."}
    with pytest.raises(IntegrityError), form.refusals():
        raise IntegrityError("the disk is broken.")
    with pytest.raises(ZeroDivisionError), form.refusals():
        raise ZeroDivisionError


def test_a_change_by_somebody_else_is_noticed_once() -> None:
    form = Form({"seen": state_of({"role": "viewer"})})
    with pytest.raises(StateError, match="changed by somebody else"):
        form.require_unchanged("vic", {"role": "issuer"})
    form.require_unchanged("vic", {"role": "issuer"})


def test_scripts_in_every_field_are_only_ever_text(browser: Browser, sqlite_ready: Home) -> None:
    """What is typed comes back as text, on the form and wherever it is shown later."""
    forms = {
        "/console/recipients/new": {"email": SCRIPT, "public_key": SCRIPT},
        "/console/copies/issue": {"model": SCRIPT, "email": SCRIPT, "expires_days": SCRIPT},
        "/console/copies/issue-many": {"model": SCRIPT, "table_text": SCRIPT, "expires_days": SCRIPT},
        "/console/models/new": {
            "name": SCRIPT, "source": SCRIPT, "builtin": SCRIPT, "upload": SCRIPT, "adapter": SCRIPT,
            "scheme": SCRIPT, "bits": SCRIPT, "psnr": SCRIPT,
        },
        "/console/administration/people/new": {"name": SCRIPT, "role": SCRIPT, "email": SCRIPT},
        "/console/administration/organisations": {"name": SCRIPT, "admin": SCRIPT, "email": SCRIPT},
        "/console/administration/tokens": {"name": SCRIPT, "role": SCRIPT, "expires_days": SCRIPT},
        "/console/grants": {"organisation": SCRIPT, "model": SCRIPT, "daily_units": SCRIPT},
        "/console/account/password": {"current": SCRIPT, "new": SCRIPT, "again": "other"},
        "/console/account/authenticator/confirm": {"code": SCRIPT, "secret": SCRIPT, "uri": SCRIPT},
        "/console/sign-in/invitation": {"invitation": SCRIPT, "password": SCRIPT, "again": SCRIPT},
    }  # fmt: skip
    for path, form in forms.items():
        answer = post(browser, path, **form)
        assert answer.status_code == 422, (path, answer.status_code)
        assert "<script>alert" not in answer.text, path
    (document,) = bulk.issue_orders(sqlite_ready, bulk.read_orders(RECIPIENT, MODEL), 1)
    keys.revoke(sqlite_ready, document["key_id"], SCRIPT)
    post(browser, "/console/administration/tokens", name=SCRIPT, role="viewer", expires_days="9")
    with sqlite_ready.database.write() as session:
        session.execute(update(Recipient).values(email=f"{SCRIPT}@example.org"))
    for path in (
        "/console/recipients", "/console/copies", f"/console/copies/{document['copy_id']}",
        "/console/administration/tokens", "/console/administration/security",
        f"/console/copies?q={SCRIPT}&model={SCRIPT}&state={SCRIPT}&after={SCRIPT}",
        f"/console/ledger?q={SCRIPT}",
        f"/console/recipients?q={SCRIPT}", f"/console/jobs?state={SCRIPT}", f"/console/models/{SCRIPT}",
        f"/console/{SCRIPT}", f"/console/sign-in?next={SCRIPT}&name={SCRIPT}&again=1",
    ):  # fmt: skip
        answer = browser.client.get(path)
        assert answer.status_code in (200, 404, 405), (path, answer.status_code)
        assert "<script>alert" not in answer.text, path
        assert "&lt;script&gt;alert" in answer.text or "/console/" in path, path


def test_a_table_that_is_too_large_is_refused_in_a_sentence(browser: Browser) -> None:
    headers = {"X-CSRF-Token": browser.csrf, "Content-Type": "multipart/form-data; boundary=x"}
    answer = browser.client.post("/console/copies/issue-many", data=b"a" * (9 << 20), headers=headers)
    assert answer.status_code == 413
    assert "That is too large" in answer.text


def test_links_of_a_batch_are_safe_in_a_spreadsheet(browser: Browser, sqlite_ready: Home) -> None:
    bulk.issue_orders(sqlite_ready, bulk.read_orders("email\n=cmd@example.org\n+1@example.org\n", MODEL), 1)
    answer = post(browser, "/console/copies/batch/1-99/links.csv", hours="5")
    assert answer.status_code == 200
    rows = [line.split(",")[0] for line in answer.text.splitlines()]
    assert rows == ["email", "'=cmd@example.org", "'+1@example.org"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_assets_are_sent_compressed_and_kept(browser: Browser) -> None:
    name = Assets.load().files["console.css"]
    answer = browser.client.get(f"/console/assets/{name}", headers={"Accept-Encoding": "gzip"})
    assert (answer.headers["Content-Encoding"], answer.mimetype) == ("gzip", "text/css")
    assert "immutable" in answer.headers["Cache-Control"]
    assert browser.client.get("/console/assets/manifest.json").status_code == 404
    assert browser.client.get("/console/assets/../page.py").status_code == 404
    assert (FOLDER / "LICENCES.txt").read_text().count("Apache") > 0


def test_days_are_counted_by_the_numbers_of_rows(home: Home) -> None:
    """What is found by halving is what counting everything gives."""
    with home.database.read() as session:
        assert overview.first_since(session, Download.id, Download.started_at, unix_now()) in (0, 1)
    rows = [(3, 100), (4, 100), (7, 150), (20, 400), (21, 400), (30, 900)]
    with home.database.write() as session:
        for number, time in rows:
            session.add(
                Recipient(id=number, organisation_id=1, email=f"{number}@x.org", salt=b"", created_at=time)
            )
    with home.database.read() as session:
        for moment in (0, 99, 100, 101, 150, 151, 400, 401, 899, 900, 901):
            found = overview.first_since(session, Recipient.id, Recipient.created_at, moment)
            assert sum(number < found for number, _ in rows) == sum(time < moment for _, time in rows)


def test_the_dashboard_warns(browser: Browser, sqlite_ready: Home) -> None:
    bulk.issue_orders(sqlite_ready, bulk.read_orders(f"email,expires_days\n{RECIPIENT},3\n", MODEL), 1)
    said = browser.client.get("/console").text
    assert "1 copy expires within 30 days" in said
    assert "The checkpoint’s signature and its root over the stored entries hold." in said
    with sqlite_ready.database.write() as session:
        session.execute(update(UserKey).values(expires_at=None))
    assert "within 30 days; expired" not in browser.client.get("/console").text
