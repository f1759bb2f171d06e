"""The console in a real browser against the real server: what people do with it, and how each page looks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyotp
import pytest
from playwright.sync_api import Page, Route, expect

from registry.accounts import people
from registry.accounts.permissions import Role
from tests.registry.accounts.support import PASSWORD, add_admin
from tests.registry.console.browser import (
    DARK,
    LIGHT,
    PHONE,
    VIEWPORTS,
    Console,
    Watched,
    accessibility,
    overflows,
)
from tests.registry.support import MODEL, RECIPIENT

SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"


@pytest.fixture(scope="module")
def ada(served: Console) -> Watched:
    """A tab in which the administrator of the first organisation is signed in."""
    tab = served.page()
    tab.sign_in("ada")
    return tab


def submit(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_signing_in_with_an_authenticator_and_a_passkey(served: Console) -> None:
    add_admin(served.home, "tess")
    context = served.context()
    tab = served.page(context)
    page = tab.page
    page.goto("/")
    expect(page).to_have_url(re.compile("/console/sign-in"))
    page.get_by_label("Name").fill("tess")
    page.get_by_label("Password").fill("a wrong password")
    submit(page, "Sign in")
    expect(page.get_by_role("alert").first).to_contain_text("The name or the password is wrong.")
    tab.sign_in("tess")

    page.goto("/console/account")
    submit(page, "Add an authenticator")
    secret = page.locator(".copyable code").inner_text()
    page.get_by_label("Six digits").fill(pyotp.TOTP(secret).now())
    submit(page, "Take it into use")
    expect(page.locator(".codes li")).to_have_count(10)
    codes = page.locator(".codes li").all_inner_texts()

    client = context.new_cdp_session(page)
    client.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    client.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    page.goto("/console/account")
    page.get_by_label("Name for a new passkey").fill("laptop")
    submit(page, "Add a passkey")
    expect(page.locator(".plain-list")).to_contain_text("laptop")

    page.locator("details.account summary").click()
    submit(page, "Sign out")
    tab.sign_in("tess")
    expect(page.get_by_role("heading", name="One more step")).to_be_visible()
    page.get_by_label("Code").fill(codes[0])
    submit(page, "Go on")
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()

    page.locator("details.account summary").click()
    submit(page, "Sign out")
    submit(page, "Sign in with a passkey")
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
    assert [said for said in tab.wrong if "422" not in said] == []
    context.close()


def test_an_invitation_sets_a_password(served: Console, ada: Watched) -> None:
    page = ada.page
    page.goto("/console/administration/people/new")
    page.get_by_label("Name to sign in with").fill("ivan")
    page.get_by_label("Role").select_option("issuer")
    submit(page, "Make the invitation")
    address = page.locator(".copyable code").inner_text()
    tab = served.page()
    tab.page.goto(address)
    tab.page.get_by_label("New password").fill(PASSWORD)
    tab.page.get_by_label("The same again").fill(PASSWORD)
    submit(tab.page, "Set the password")
    tab.sign_in("ivan")
    expect(tab.page.get_by_role("heading", name="Dashboard")).to_be_visible()
    assert tab.page.get_by_role("link", name="Register the first model").count() == 0


def test_registering_the_reference_model_and_seeing_its_fingerprint(ada: Watched) -> None:
    page = ada.page
    page.goto("/console/models/new")
    page.get_by_label("Name").fill("flowers")
    page.get_by_label("Builtin", exact=True).select_option("flowers-ldm@1")
    submit(page, "Register the model")
    expect(page.locator(".note.good").first).to_contain_text("is registered", timeout=120_000)
    page.get_by_role("link", name="flowers@1", exact=True).first.click()
    expect(page.get_by_role("heading", name="How many images a verdict needs")).to_be_visible()
    submit(page, "Draw pictures")
    expect(page.locator(".pictures img")).to_have_count(24, timeout=120_000)
    shown = page.locator(".pictures img").first.evaluate(
        "async (image) => { await image.decode(); return image.naturalWidth }"
    )
    assert shown == 64


def test_weights_arrive_over_a_connection_that_breaks_and_are_checked(
    served: Console, tmp_path: Path
) -> None:
    tab = served.page()
    tab.sign_in("ada")
    page, broken = tab.page, list[str]()

    def once(route: Route) -> None:
        if route.request.method == "PUT" and not broken:
            broken.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/api/v1/uploads/**", once)
    weights = tmp_path / "generator.safetensors"
    weights.write_bytes(b"these are no weights")
    page.goto("/console/models/new")
    page.get_by_label("Name").fill("mine")
    page.get_by_label("Files of mine").check()
    page.locator("#f-files").set_input_files(weights)
    page.get_by_label("Architecture").select_option("stylegan2")
    submit(page, "Register the model")
    said = page.locator(".note.bad")
    expect(said).to_contain_text("generator.safetensors: not a sound safetensors file", timeout=120_000)
    assert "/" not in said.inner_text().split(":")[0]
    assert len(broken) == 1


def test_a_table_with_bad_rows_issues_nothing(served: Console, ada: Watched) -> None:
    page = ada.page
    page.goto("/console/copies/issue")
    many = page.locator("section", has=page.get_by_role("heading", name="Many, from a table"))
    many.get_by_label("Model of rows that name none").select_option(f"{MODEL}@1")
    table = "email,expires_days\nnew1@example.com,10\nno address,10\nnew2@example.com,soon\n"
    many.get_by_label("or paste the table").fill(table)
    submit(page, "Issue all of them")
    rows = page.get_by_role("region", name="Rows that cannot be used").locator("tbody tr")
    expect(rows).to_have_count(2)
    assert [row.locator("th").inner_text() for row in rows.all()] == ["3", "4"]
    assert many.get_by_label("or paste the table").input_value() == table
    page.goto("/console/recipients?q=new1")
    expect(page.locator("#list")).to_contain_text("Nothing here fits.")


def test_a_table_is_issued_whole_and_its_links_work(served: Console, ada: Watched, tmp_path: Path) -> None:
    page = ada.page
    table = tmp_path / "table.csv"
    table.write_text(f"email,model\ncsv1@example.com,{MODEL}\ncsv2@example.com,{MODEL}\n")
    page.goto("/console/copies/issue")
    page.get_by_label("CSV file").set_input_files(table)
    submit(page, "Issue all of them")
    expect(page.get_by_role("status").first).to_contain_text("2 copies are issued")
    with page.expect_download() as download:
        submit(page, "Make the links")
    lines = download.value.path().read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["email", "csv1@example.com", "csv2@example.com"]
    stranger = served.context()
    answer = stranger.request.get(lines[1].split(",")[2] + "/archive")
    assert answer.status == 200
    assert len(answer.body()) > 10_000
    stranger.close()
    page.goto("/console/copies/downloads")
    first = page.locator("#list tbody tr").first
    expect(first).to_contain_text("delivered")
    with page.expect_download() as receipt:
        first.get_by_role("link", name="Receipt").click()
    assert json.loads(receipt.value.path().read_text())["schema"] == "hallmark/receipt/1"


def test_issuing_one_linking_and_revoking_it(ada: Watched) -> None:
    page = ada.page
    page.goto("/console/copies/issue")
    one = page.locator("section", has=page.get_by_role("heading", name="One copy"))
    one.get_by_label("Model").select_option(f"{MODEL}@1")
    one.get_by_label("Recipient’s address").fill(RECIPIENT)
    submit(page, "Issue the copy")
    expect(page.get_by_role("status").first).to_contain_text("is issued")
    submit(page, "New link")
    submit(page, "Make the link")
    expect(page.locator(".note.good .copyable code")).to_contain_text("/d/")
    page.get_by_role("button", name="Revoke", exact=True).click()
    page.get_by_label("Reason").fill(SCRIPT)
    submit(page, "Revoke the copy")
    expect(page.locator(".note.bad")).to_contain_text(SCRIPT)
    expect(page).not_to_have_title(re.compile("pwned"))
    expect(page.get_by_role("button", name="Revoke", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="New link")).to_have_count(0)
    page.goto("/console/copies?state=revoked")
    expect(page.locator("#list tbody tr")).to_have_count(1)


def test_finding_copies_by_address_as_one_types_and_chooses(ada: Watched) -> None:
    page = ada.page
    page.goto("/console/copies")
    page.get_by_label("Copy id or recipient’s address").fill("recipient3@example.com")
    submit(page, "Find")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    expect(page).to_have_url(re.compile("q=recipient3"))
    page.get_by_label("State", exact=True).select_option("revoked")
    expect(page.locator("#list")).to_contain_text("Nothing here fits.")


def test_a_proof_is_checked_in_the_browser_and_a_false_one_is_refused(ada: Watched) -> None:
    page = ada.page
    page.goto("/console/ledger/entries/2")
    expect(page.locator("[data-proof-result]")).to_contain_text("it holds")
    expect(page.locator("[data-proof-result]")).to_contain_text("The registry's key signed that root.")

    def altered(route: Route) -> None:
        answer = route.fetch()
        body = answer.text()
        digest = re.search(r"digest&#34;: &#34;([0-9a-f]{64})", body)
        assert digest is not None
        route.fulfill(response=answer, body=body.replace(digest[1], "0" * 64))

    page.route("**/console/ledger/entries/3", altered)
    page.goto("/console/ledger/entries/3")
    expect(page.locator("[data-proof-result]")).to_contain_text("This proof does not hold.")
    page.unroute("**/console/ledger/entries/3")
    page.goto("/console/ledger/consistency?old=3&new=9")
    expect(page.locator("[data-proof-result]")).to_contain_text("are the first of the 9 of now")


def test_an_ended_session_keeps_what_was_entered(served: Console) -> None:
    context = served.context()
    tab = served.page(context)
    page = tab.page
    tab.sign_in("ada")
    page.goto("/console/recipients/new")
    page.get_by_label("Address").fill("kept@example.com")
    context.clear_cookies()
    submit(page, "Add the recipient")
    expect(page.get_by_role("dialog", name="Your session has ended")).to_be_visible()
    with context.expect_page() as opened:
        page.get_by_role("link", name="Sign in again").click()
    again = opened.value
    again.get_by_label("Name").fill("ada")
    again.get_by_label("Password").fill(PASSWORD)
    again.get_by_role("button", name="Sign in", exact=True).click()
    expect(again.get_by_role("heading", name="You are signed in again")).to_be_visible()
    expect(page.get_by_role("heading", name="kept@example.com")).to_be_visible()
    context.close()


def test_a_recipient_is_erased(ada: Watched) -> None:
    page = ada.page
    page.goto("/console/recipients/new")
    page.get_by_label("Address").fill("leaving@example.com")
    submit(page, "Add the recipient")
    page.get_by_role("button", name="Erase", exact=True).click()
    dialog = page.get_by_role("dialog", name="Erase who this is?")
    expect(dialog).to_contain_text("nobody can tell whose they were")
    dialog.get_by_role("button", name="Erase for good").click()
    expect(page.get_by_role("status").first).to_contain_text("The recipient is erased.")
    expect(page.get_by_role("heading", level=1)).to_contain_text("@erased.invalid")
    expect(page.get_by_role("button", name="Erase", exact=True)).to_have_count(0)
    page.goto("/console/recipients?q=leaving")
    expect(page.get_by_text("leaving@example.com")).to_have_count(0)


def test_two_people_change_one_person(served: Console, ada: Watched) -> None:
    page = ada.page
    page.goto("/console/administration/people/vic")
    with served.home.database.write() as session:
        people.change_role(session, people.get_person(session, "vic"), Role.AUDITOR)
    page.get_by_label("Role").select_option("issuer")
    submit(page, "Change the role")
    expect(page.get_by_role("alert")).to_contain_text("changed by somebody else")
    assert page.get_by_label("Role").input_value() == "issuer"
    submit(page, "Change the role")
    expect(page.get_by_role("status").first).to_contain_text("vic is issuer now.")


def test_another_organisation_sees_nothing(served: Console) -> None:
    tab = served.page()
    tab.sign_in("eve")
    for path in ("/console/models", "/console/recipients", "/console/copies", "/console/jobs"):
        tab.page.goto(path)
        expect(tab.page.locator("main .empty")).to_be_visible()
    assert tab.page.goto(f"/console/models/{MODEL}").status == 404  # type: ignore[union-attr]
    expect(tab.page.get_by_role("heading", name="There is nothing here")).to_be_visible()


PAGES = {
    "dashboard": "/console",
    "models": "/console/models",
    "model": f"/console/models/{MODEL}@1",
    "model-new": "/console/models/new",
    "recipients": "/console/recipients",
    "recipient": f"/console/recipients/{RECIPIENT}",
    "recipient-new": "/console/recipients/new",
    "copies": "/console/copies",
    "issue": "/console/copies/issue",
    "downloads": "/console/copies/downloads",
    "ledger": "/console/ledger",
    "ledger-entry": "/console/ledger/entries/2",
    "ledger-growth": "/console/ledger/consistency?old=3",
    "checkpoints": "/console/ledger/checkpoints",
    "checkpoint": "/console/ledger/checkpoints/1",
    "administration": "/console/administration",
    "account": "/console/account",
    "people": "/console/administration/people",
    "person": "/console/administration/people/ada",
    "person-new": "/console/administration/people/new",
    "organisations": "/console/administration/organisations",
    "tokens": "/console/administration/tokens",
    "security": "/console/administration/security",
    "registry": "/console/administration/registry",
    "grants": "/console/grants",
    "jobs": "/console/jobs",
    "lineage": "/console/lineage",
    "trust": "/console/trust",
    "nothing": "/console/no-such-page",
}
DETAILS = {"copy": ("/console/copies", "#list tbody th a"), "job": ("/console/jobs", "#jobs tbody th a")}


def test_every_page_is_sound_and_kept_as_a_picture(served: Console) -> None:
    """axe finds nothing serious, no page is wider than a telephone, no script or policy complains."""
    tab = served.page()
    page = tab.page
    found: dict[str, list[str]] = {}

    def look(name: str) -> None:
        wrong = []
        for kind in (LIGHT, DARK, PHONE):
            page.emulate_media(color_scheme=DARK if kind == DARK else LIGHT)
            width, height = VIEWPORTS[kind]
            page.set_viewport_size({"width": width, "height": height})
            tab.shot(name, kind)
            if kind == PHONE:
                wrong += ["wider than the window"] if overflows(page) else []
            else:
                wrong += [f"{kind}: {finding}" for finding in accessibility(page)]
        if wrong:
            found[name] = wrong

    page.goto("/console/sign-in")
    look("sign-in")
    tab.sign_in("ada")
    for name, path in PAGES.items():
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == (404 if name == "nothing" else 200), path
        look(name)
    for name, (path, link) in DETAILS.items():
        page.goto(path)
        page.locator(link).first.click()
        look(name)
    assert found == {}
    assert [said for said in tab.wrong if "404" not in said] == []


def test_the_keyboard_reaches_everything(served: Console) -> None:
    tab = served.page()
    tab.sign_in("ada")
    page = tab.page
    page.goto("/console/copies")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Downloads")).to_be_focused()
    page.goto("/console/administration/people/vic")
    disable = page.get_by_role("button", name="Disable", exact=True)
    disable.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(disable).to_be_focused()
