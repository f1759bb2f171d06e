"""Cases in a real browser: files dropped in, findings that appear, the report; and what goes wrong."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from registry.accounts.permissions import Role
from registry.cases import images, service
from registry.home import Home
from tests.registry.accounts.support import add_admin, add_person
from tests.registry.cases.support import foreign, image_of, who
from tests.registry.console.browser import (
    DARK,
    LIGHT,
    PHONE,
    Console,
    Watched,
    accessibility,
    console,
    overflows,
)
from tests.registry.resolve.support import issue
from tests.servers import running
from verifier.report import opened
from verifier.report.signatures import verified
from verifier.report.statement import decode

NASTY = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"{{7*7}}"


@pytest.fixture(scope="module")
def served(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The console and a worker, with a copy issued; ``ada`` and ``eve`` are administrators of two houses."""
    home = Home.open(Path(shutil.copytree(ready_sqlite, tmp_path_factory.mktemp("cases") / "home")))
    add_admin(home)
    add_admin(home, "eve", "rival")
    add_person(home, "vic", Role.VIEWER)
    add_person(home, "ann", Role.AUDITOR)
    issue(home)
    worker = [sys.executable, "-m", "registry.cli", "worker", "--home", str(home.settings.home)]
    log = home.settings.home / "worker.log"
    with console(home) as found, running(worker, log, env={**os.environ, "OMP_NUM_THREADS": "1"}):
        yield found
    home.close()


def key_of(home: Home) -> str:
    from sqlalchemy import select

    from registry.keys.models import UserKey

    with home.database.read() as session:
        return session.execute(select(UserKey.key_id)).scalars().first().hex()  # type: ignore[union-attr]


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    page.get_by_label("Suspect images").set_input_files(
        [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files]
    )
    page.get_by_role("button", name="Add and check").click()


def opened_case(tab: Watched, title: str) -> str:
    tab.page.goto("/console/cases/new")
    tab.page.get_by_label("Title").fill(title)
    tab.page.get_by_role("button", name="Open the case").click()
    tab.page.wait_for_url(re.compile(r"/console/cases/case-[0-9a-f]{16}$"))
    return tab.page.url.rpartition("/")[2]


def test_from_dropped_files_to_the_signed_report(served: Console, tmp_path: Path) -> None:
    context = served.context(LIGHT)
    tab = served.page(context)
    page = tab.page
    tab.sign_in("ada")
    address = f"/console/cases/{opened_case(tab, 'Leak of 3 May')}"
    suspect = image_of(served.home, key_of(served.home))
    drop(page, ("suspect.png", suspect), ("garden.png", foreign(3)), ("letter.txt", b"no image"))
    expect(page.get_by_text("letter.txt: This file is no image")).to_be_visible()
    named = page.locator("article.finding", has_text="suspect.png")
    expect(named.get_by_text("This image depends on the key of")).to_be_visible(timeout=60_000)
    expect(named.get_by_text("1 in", exact=False).first).to_be_visible()
    other = page.locator("article.finding", has_text="garden.png")
    expect(other.get_by_text("No copy can be named for this image.", exact=True)).to_be_visible(
        timeout=60_000
    )

    named.get_by_text("Bit by bit").click()
    expect(named.locator("svg rect.agrees")).to_have_count(32)
    page.reload()
    page.get_by_label("Write a note").fill(NASTY)
    page.get_by_role("button", name="Add the note").click()
    expect(page.locator("article.card", has_text="onerror=alert").first).to_be_visible()
    page.get_by_role("button", name="Report", exact=True).click()
    page.get_by_label(NASTY[:20], exact=False).check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Make the report").click()
    download.value.save_as(tmp_path / "report.pdf")
    envelope = opened((tmp_path / "report.pdf").read_bytes())
    report, _ = decode(envelope.content)
    verified(envelope, report)
    assert report.case is not None
    assert report.case.notes[-1].endswith(NASTY)
    page.keyboard.press("Escape")
    for kind in (LIGHT, DARK, PHONE):
        shown = served.page(served.context(kind)) if kind != LIGHT else tab
        if kind != LIGHT:
            shown.sign_in("ada")
            shown.page.goto(address)
        for closed in shown.page.locator("article.finding details summary").all()[:2]:
            closed.click()
        assert accessibility(shown.page) == []
        assert not overflows(shown.page)
        shown.shot("case", kind)
        shown.page.goto("/console/cases")
        assert accessibility(shown.page) == []
        shown.shot("cases", kind)
        assert shown.wrong == []


def test_texts_and_names_run_nothing(served: Console) -> None:
    home = served.home
    case = service.open_case(home, who(home), NASTY, NASTY)
    images.add(home, who(home), case.case_id, [(NASTY, foreign(4))])
    service.note(home, who(home), case.case_id, NASTY)
    tab = served.page()
    fired: list[str] = []
    tab.page.on("dialog", lambda dialog: (fired.append(dialog.message), dialog.dismiss()))
    tab.sign_in("ada")
    tab.page.goto(f"/console/cases/{case.case_id}")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text(NASTY)
    tab.page.goto("/console/cases")
    assert fired == []
    assert tab.wrong == []


def test_two_people_edit_a_case(served: Console) -> None:
    home = served.home
    case = service.open_case(home, who(home), "Edited twice")
    tab = served.page()
    page = tab.page
    tab.sign_in("ada")
    page.goto(f"/console/cases/{case.case_id}")
    service.edit(home, who(home), case.case_id, seen=1, title="Edited first")
    page.get_by_role("button", name="Edit").click()
    page.locator("dialog#edit").get_by_label("Title").fill("My title")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("was changed meanwhile")).to_be_visible()
    expect(page.locator("dialog#edit").get_by_label("Title")).to_have_value("My title")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("My title")


def test_a_lost_connection_loses_nothing_that_arrived(served: Console) -> None:
    tab = served.page()
    page = tab.page
    tab.sign_in("ada")
    case_id = opened_case(tab, "A bad line")
    sent: list[str] = []

    def flaky(route: object) -> None:
        sent.append("x")
        if len(sent) in (2, 3):
            route.abort("connectionreset")  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route("**/images", flaky)
    drop(page, ("1.png", foreign(21)), ("2.png", foreign(22)), ("3.png", foreign(23)))
    expect(page.get_by_text("3 images were added.")).to_be_visible(timeout=60_000)
    with served.home.database.read() as session:
        case = service.get_case(session, case_id, who(served.home).organisation)
        assert [image.name for image in service.images(session, case)] == ["1.png", "2.png", "3.png"]


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(served: Console, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    with large.open("wb") as file:
        file.truncate(500 << 20)
    tab = served.page()
    tab.sign_in("ada")
    opened_case(tab, "Large")
    tab.page.get_by_label("Suspect images").set_input_files(large)
    tab.page.get_by_role("button", name="Add and check").click()
    expect(tab.page.get_by_text("large.zip: It has 500 MB; 256 MB are the most.")).to_be_visible()


def test_a_viewer_and_another_organisation_see_nothing(served: Console) -> None:
    home = served.home
    case = service.open_case(home, who(home), "Not for you")
    for name in ("vic", "eve"):
        tab = served.page()
        tab.sign_in(name)
        answer = tab.page.goto(f"/console/cases/{case.case_id}")
        assert answer is not None
        assert answer.status == (403 if name == "vic" else 404)
        assert "Not for you" not in tab.page.content()
