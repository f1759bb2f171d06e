from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from sqlalchemy import select

from registry import cli
from registry.accounts import service as accounts
from registry.accounts.models import Recipient, SecurityEvent
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.config import HOME_VARIABLE
from registry.copies.erasure import erase
from registry.db import Base
from registry.errors import InputError, StateError
from registry.home import Home
from registry.keys.models import KeyRevocation
from registry.keys.service import Issuer, derive, get_key, revoke
from registry.verification import verify_ledger
from tests.registry.api.client import Client, client
from tests.registry.support import MODEL, RECIPIENT

OTHER = "bob@example.org"


@dataclass
class Story:
    """A recipient with a downloaded copy, a revoked one and an open link, beside another recipient."""

    home: Home
    admin: Client
    downloaded: str
    revoked: str
    url: str


@pytest.fixture
def story(ready: Home) -> Story:
    app = create_app(ready)
    admin = client(app, ready)
    with ready.database.write() as session:
        accounts.add_recipient(session, OTHER)
    downloaded, revoked = (str(d["copy_id"]) for d in Issuer.open(ready, MODEL, RECIPIENT).issue(2))
    revoke(ready, revoked, "leaked by Ada")
    links = []
    for copy_id in (downloaded, downloaded):
        made = admin.post(f"/copies/{copy_id}/links", json={"hours": 1}).json
        assert made is not None
        links.append(made["url"].removeprefix("http://localhost"))
    stranger = app.test_client()
    response = stranger.get(f"{links[0]}/archive", headers={"User-Agent": "Ada's browser"})
    assert response.get_data()
    response.close()
    return Story(ready, admin, downloaded, revoked, links[1])


def everything(home: Home) -> str:
    """All that the database holds, as text."""
    with home.database.read() as session:
        return "\n".join(
            repr(tuple(row))
            for table in Base.metadata.sorted_tables
            for row in session.execute(select(table))
        )


def test_nothing_tells_any_more_who_he_is_and_every_proof_holds(story: Story) -> None:
    home = story.home
    with home.database.read() as session:
        salt = accounts.get_recipient(session, RECIPIENT).salt
        before = get_key(session, home.identity.registry, story.downloaded)
    found = story.admin.request("DELETE", f"/recipients/{RECIPIENT}")
    assert (found.status_code, found.json) == (
        200,
        {
            "email": f"recipient-{before.row.recipient_id}@erased.invalid",
            "copies": 2,
            "links_withdrawn": 1,
            "downloads_cleared": 1,
        },
    )
    told = everything(home)
    for trace in (RECIPIENT, repr(salt), "Ada's browser", "leaked by Ada"):
        assert trace not in told
    assert OTHER in told
    verify_ledger(home)
    with home.database.read() as session:
        after = get_key(session, home.identity.registry, story.downloaded)
    assert after.document == before.document
    assert bytes(derive(home, after)) == bytes(derive(home, before))
    (download,) = story.admin.get("/downloads").json["items"]  # type: ignore[index]
    assert (download["origin"], download["user_agent"]) == ("erased", "")
    assert story.admin.get(f"/downloads/{download['download_id']}/receipt").status_code == 200
    assert create_app(home).test_client().get(story.url).status_code == 410


def test_his_open_links_end_and_used_ones_stay_used(story: Story) -> None:
    erase(story.home, RECIPIENT)
    listed = story.admin.get(f"/copies/{story.downloaded}/links").json["items"]  # type: ignore[index]
    assert sorted((link["used_at"] is None, link["withdrawn_at"] is None) for link in listed) == [
        (False, True),
        (True, False),
    ]


def test_no_new_link_leads_to_his_copies(story: Story) -> None:
    erase(story.home, RECIPIENT)
    refused = story.admin.post(f"/copies/{story.downloaded}/links", json={"hours": 1})
    assert refused.status_code == 409
    assert "stands for a recipient who was erased" in str(refused.json)


def test_it_is_logged_without_saying_whom(story: Story) -> None:
    done = erase(story.home, RECIPIENT)
    with story.home.database.read() as session:
        event = session.execute(
            select(SecurityEvent).where(SecurityEvent.kind == "recipient.erased")
        ).scalar_one()
        assert json.loads(event.detail) == {"recipient": done.email}
        reasons = session.execute(select(KeyRevocation.reason)).scalars().all()
    assert reasons == ["erased"]


def test_nothing_is_issued_to_who_was_erased_and_he_may_come_again(story: Story) -> None:
    done = erase(story.home, RECIPIENT)
    with pytest.raises(StateError, match="stands for a recipient who was erased"):
        Issuer.open(story.home, MODEL, done.email).issue(1)
    assert story.admin.request("DELETE", f"/recipients/{done.email}").status_code == 409
    assert story.admin.request("DELETE", f"/recipients/{RECIPIENT}").status_code == 404
    with story.home.database.write() as session:
        again = accounts.add_recipient(session, RECIPIENT)
        assert again.email != done.email
    assert len(Issuer.open(story.home, MODEL, RECIPIENT).issue(1)) == 1


def test_nobody_takes_the_name_of_who_will_be_erased(story: Story) -> None:
    with story.home.database.write() as session:
        number = accounts.get_recipient(session, RECIPIENT).id
        with pytest.raises(InputError, match="stand for recipients who were erased"):
            accounts.add_recipient(session, f"Recipient-{number}@{accounts.ERASED}")
    assert erase(story.home, RECIPIENT).email == f"recipient-{number}@{accounts.ERASED}"


def test_only_an_administrator_erases_and_only_his_own(story: Story) -> None:
    app = create_app(story.home)
    for other in (client(app, story.home, Role.ISSUER), client(app, story.home, organisation="other")):
        assert other.request("DELETE", f"/recipients/{RECIPIENT}").status_code in (403, 404)
    with story.home.database.read() as session:
        assert session.execute(select(Recipient).where(Recipient.email == RECIPIENT)).scalar_one()


def test_the_command_asks_first(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(sqlite_ready.settings.home))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert cli.run(["recipient", "erase", RECIPIENT]) == 130
    assert cli.run(["recipient", "erase", "eve@example.org", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "no recipient eve@example.org" in said
    assert "recipient add" not in said
    assert cli.run(["recipient", "erase", RECIPIENT, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["email"].endswith("@erased.invalid")
    assert cli.run(["recipient", "list"]) == 0
    assert RECIPIENT not in capsys.readouterr().out
