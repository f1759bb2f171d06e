"""Reports end to end: made from findings and images, read by people, checked by the accused."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import World, make_world, signing_key
from verifier import Verifier, dsse, phi
from verifier.bundle import Bundle, unix
from verifier.cli import cli
from verifier.errors import InputError, TrustError
from verifier.opening import Opening
from verifier.report import checking, commands, making, opened, render_html, render_pdf, sealed, statement
from verifier.report.container import serialised

AUDITOR = signing_key(77)
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A registry, images, findings, openings and reports, as an auditor's folder holds them."""
    made = make_world(tmp_path_factory.mktemp("world"), keys=20)
    folder = made.folder
    made.bundle()
    made.bundle("public.bundle", with_keys=False)
    (folder / "auditor.pem").write_bytes(pem(AUDITOR))
    (folder / "opening.json").write_text(json.dumps(made.opening(7)))
    for seed in (1, 2):
        made.save_image(7, seed)
    made.save_foreign(1)
    runs = {
        "set.json": ["--set", "key7-1-0-32.png", "key7-2-0-32.png"],
        "none.json": ["foreign1.png"],
    }
    for name, arguments in runs.items():
        paths = [argument if argument.startswith("--") else str(folder / argument) for argument in arguments]
        result = invoke("check", *paths, "--bundle", folder / "test.bundle", "--json")
        (folder / name).write_text(result.stdout)
    outs = ["--out", folder / "report.html", "--out", folder / "report.pdf", "--out", folder / "report.json"]
    signed = [
        "--key",
        folder / "auditor.pem",
        "--name",
        "Ada <Auditor>",
        "--case",
        "C-7",
        "--note",
        "A\nremark",
    ]
    made_from = [folder / "set.json", folder / "none.json", "--bundle", folder / "test.bundle"]
    assert invoke("report", *made_from, *outs, *signed, "--opening", folder / "opening.json").exit_code == 0
    return made


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`verifier report ...` in the auditor's folder."""
    for name in ("HALLMARK_BUNDLE", "HALLMARK_TRUST", "HALLMARK_KEY", "HALLMARK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(world.folder)
    return lambda *arguments: invoke("report", *arguments)


@pytest.fixture
def check(world: World, run: Run) -> Run:
    """`verifier report --check ...` as whoever is accused does it: with a bundle without keys."""
    trust = ["--trust", world.registry, "--signer", dsse.key_id(AUDITOR.public_key())]
    return lambda *arguments: run("--check", "--offline", "--bundle", "public.bundle", *trust, *arguments)


def lines(result: Result) -> dict[str, tuple[str, str]]:
    """What was checked: outcome and detail by name."""
    found = json.loads(result.stdout)["lines"]
    return {line["what"]: (line["outcome"], line["detail"]) for line in found}


def one_sentence(result: Result, code: int, *fragments: str) -> None:
    assert result.exit_code == code, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.stderr


def envelope(world: World) -> dsse.Envelope:
    return opened((world.folder / "report.html").read_bytes())


def forged(world: World, change: Callable[[dict[str, Any]], None], key: Ed25519PrivateKey = AUDITOR) -> bytes:
    """A page of a report with other contents, signed by whoever has ``key``."""
    document = json.loads(envelope(world).content)
    change(document["predicate"])
    return render_html(dsse.sign(json.dumps(document).encode(), dsse.IN_TOTO, key))


class Words(HTMLParser):
    """The visible words of a page, its pictures, and whatever might load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.images, self.scripts, self.links = "", 0, [], 0
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._hidden = tag in ("script", "style")
        self.images += tag == "img" and str(given["src"]).startswith("data:image/jpeg;base64,")
        if tag == "script":
            self.scripts.append(given.get("type"))
        self.links += any(name in given for name in ("href", "onload", "onerror")) or tag in (
            "iframe",
            "link",
        )

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.words += "" if self._hidden else data + " "


def test_a_page_loads_and_runs_nothing_and_says_what_a_lawyer_needs(world: World) -> None:
    page = Words((world.folder / "report.html").read_text())
    assert page.scripts == ["application/json"]
    assert page.links == 0
    assert page.images == 3
    for shown in (
        "At least one of these images depends on the key of " + world.copy_id(7),
        "No copy can be named for this image",
        "not the probability that the holder of the copy is innocent",
        "Ada <Auditor>",
        "C-7",
        "bruno@example.com",
        "64 of 64",
        "Limits of the method",
        "How to check this report",
        dsse.key_id(AUDITOR.public_key()),
        world.models[0].documents[7]["commitment"],
        "entry 8 of 21",
        "onnxruntime",
    ):
        assert shown in page.words, shown
    for image in json.loads((world.folder / "set.json").read_text())["images"]:
        assert image["sha256"] in page.words
    assert str(world.folder) not in page.words


def test_both_layouts_hold_the_same_signed_report_and_are_reproducible(world: World) -> None:
    html, pdf = ((world.folder / f"report.{kind}").read_bytes() for kind in ("html", "pdf"))
    assert opened(html) == opened(pdf) == opened((world.folder / "report.json").read_bytes())
    assert render_html(envelope(world)) == html
    assert render_pdf(envelope(world)) == pdf
    assert b"report.dsse.json" in pdf
    report, blocks = statement.decode(envelope(world).content)
    assert statement.encode(report, blocks) == envelope(world).content
    assert [exhibit.recomputed for exhibit in report.exhibits] == [True, True]


def test_the_payload_is_an_in_toto_statement_about_the_images(world: World) -> None:
    document = json.loads(envelope(world).content)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    digests = {subject["digest"]["sha256"] for subject in document["subject"]}
    assert digests == {
        image["sha256"]
        for name in ("set.json", "none.json")
        for image in json.loads((world.folder / name).read_text())["images"]
    }


def test_the_accused_computes_everything_again(world: World, check: Run) -> None:
    result = check("report.html", "report.pdf")
    assert "FAILS" not in result.stdout
    found = lines(check("report.html", "--json"))
    unchecked = {what for what, (outcome, _) in found.items() if outcome != "holds"}
    assert unchecked == {"finding 2: that no copy can be named"}
    assert result.exit_code == 1
    assert found["finding 1: the opened commitment"][0] == "holds"
    detail = found["finding 1: readings, score and probability"][1]
    computed, stated = re.findall(r"10\^(-[\d.]+)", detail)[:2]
    assert computed == stated
    assert found["finding 1: its place in the ledger"] == ("holds", "entry 8 of 21")


def test_whoever_has_the_key_table_checks_a_verdict_of_nobody_too(world: World, check: Run) -> None:
    result = check("report.html", "--bundle", "test.bundle")
    assert result.exit_code == 0, result.output
    assert "The report is what it says." in result.stdout


def test_the_key_stays_secret_unless_it_is_opened(world: World, run: Run, check: Run) -> None:
    secret = world.opening(7)
    made = ["set.json", "--bundle", "test.bundle", "--key", "auditor.pem"]
    assert run(*made, "--out", "closed.html").exit_code == 0
    closed = opened((world.folder / "closed.html").read_bytes()).content.decode()
    assert secret["phi"] not in closed
    assert '"kind":"bits"' not in closed
    found = lines(check("closed.html", "--json"))
    assert found["the opened commitment"][0] == "not checked"
    assert found["readings, score and probability"][0] == "not checked"
    with_file = lines(check("closed.html", "--opening", "opening.json", "--json"))
    assert {outcome for outcome, _ in with_file.values()} == {"holds"}
    assert run(*made, "--out", "shown.html", "--show-bits").exit_code == 0
    shown = opened((world.folder / "shown.html").read_bytes()).content.decode()
    assert secret["phi"] in shown
    assert secret["blinder"] not in shown
    assert '"kind":"bits"' in shown


def test_a_registry_computes_with_keys_that_its_report_does_not_show(world: World) -> None:
    found = making.read_findings([world.folder / "set.json"])
    bundle, opening = Bundle.open(world.folder / "public.bundle"), Opening.parse(world.opening(7))
    using = making.Making(bundle, images=[world.folder], known=[opening], device="cpu")
    report = making.make(found, using, title="Case 7", created_at="2026-11-27T12:00:00Z")
    (exhibit,) = report.exhibits
    assert exhibit.recomputed
    assert exhibit.named[0].certificate == world.models[0].documents[7]
    assert exhibit.named[0].opened is None
    assert opening.phi not in sealed(report, world.key, "the registry").content.decode()


def test_an_expired_bundle_serves_whoever_is_accused_later(world: World, check: Run, tmp_path: Path) -> None:
    made_at = "2026-02-01T00:00:00Z"
    path = world.bundle("old.bundle", with_keys=False, expires_at="2026-03-01T00:00:00Z")
    bundle = Bundle.open(path, now=unix(made_at))
    using = making.Making(bundle, images=[world.folder], openings=[Opening.parse(world.opening(7))])
    found = making.read_findings([world.folder / "set.json"])
    report = making.make(found, using, title="Then", created_at=made_at)
    (tmp_path / "then.html").write_bytes(render_html(sealed(report, AUDITOR, "Ada")))
    result = check(tmp_path / "then.html", "--bundle", path, "--images", world.folder)
    assert result.exit_code == 0, result.output
    one_sentence(check("report.html", "--bundle", path), 3, "expired")


def test_a_collusion_resistant_models_bound_takes_its_secret_biases(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20, bits=128, scheme=phi.BIASED)
    world.save_image(7)
    found = Verifier.from_bundle(world.bundle(), device="cpu").check([tmp_path / "key7-1-0-32.png"])
    assert found[0].copies[0].id == world.copy_id(7)
    auditor, public = Bundle.open(world.bundle()), Bundle.open(world.bundle("p.bundle", with_keys=False))
    opening = Opening.parse(world.opening(7))
    using = making.Making(auditor, images=[tmp_path], openings=[opening], device="cpu")
    report = making.make(
        [(tmp_path / "f.json", found[0])], using, title="T", created_at="2026-02-01T00:00:00Z"
    )
    page = render_html(sealed(report, AUDITOR, "Ada"))
    assert b"about half would point" not in page
    outcomes = {}
    for name, bundle in (("auditor", auditor), ("public", public)):
        checked = checking.check(page, checking.Checking(bundle, [tmp_path], trust=world.registry))
        lines = {line.what: line for line in checked.lines}
        outcomes[name] = lines["readings, score and probability"]
        assert lines["the opened commitment"].outcome == "holds"
    assert outcomes["auditor"].outcome == "holds"
    assert outcomes["public"].outcome == "not checked"
    assert "collusion-resistant" in outcomes["public"].detail


def test_images_are_found_under_other_names(world: World, check: Run, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(("key7-1-0-32.png", "key7-2-0-32.png", "foreign1.png")):
        content = (world.folder / name).read_bytes()
        (tmp_path / "deep" / f"evidence-{number}.png").write_bytes(content)
    (tmp_path / "report.html").write_bytes((world.folder / "report.html").read_bytes())
    found = lines(check(tmp_path / "report.html", "--images", tmp_path, "--json"))
    assert found["finding 1: readings, score and probability"][0] == "holds"


def test_missing_and_changed_images_are_told_apart(
    world: World, check: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_bytes((world.folder / "report.html").read_bytes())
    (tmp_path / "key7-1-0-32.png").write_bytes((world.folder / "foreign1.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    result = check("report.html", "--bundle", world.folder / "public.bundle", "--json")
    assert result.exit_code == 3
    found = lines(result)
    assert found["finding 1: image key7-1-0-32.png"][0] == "fails"
    assert "not the image that was checked" in found["finding 1: image key7-1-0-32.png"][1]
    assert found["finding 1: image key7-2-0-32.png"][0] == "not checked"
    assert found["finding 1: readings, score and probability"][0] == "not checked"


@pytest.mark.parametrize("kind", ["html", "pdf", "json"])
def test_a_report_with_any_byte_of_its_payload_changed_is_refused(
    world: World, check: Run, tmp_path: Path, kind: str
) -> None:
    content = (world.folder / f"report.{kind}").read_bytes()
    start = content.index(b'"payload": "') + 12
    target = tmp_path / f"altered.{kind}"
    for offset in (40, 1000, 5000):
        place = start + offset
        target.write_bytes(
            content[:place] + (b"A" if content[place : place + 1] != b"A" else b"B") + content[place + 1 :]
        )
        result = check(target)
        assert result.exit_code in (2, 3)
        assert len(result.stderr.strip().splitlines()) == 1


def test_visible_words_that_are_not_signed_are_found(world: World, check: Run, tmp_path: Path) -> None:
    page = (world.folder / "report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("at most 1 in 1 million", "at most 1 in 1 billion"))
    result = check(tmp_path / "page.html", "--images", world.folder, "--json")
    assert result.exit_code == 3
    assert lines(result)["the visible pages"][0] == "fails"
    pdf = (world.folder / "report.pdf").read_bytes().replace(b"/Creator", b"/Creatoe")
    (tmp_path / "page.pdf").write_bytes(pdf)
    found = lines(check(tmp_path / "page.pdf", "--images", world.folder, "--json"))
    assert found["the visible pages"][0] == "not checked"
    assert invoke("report", tmp_path / "page.html", "--out", tmp_path / "fresh.html").exit_code == 0
    assert (tmp_path / "fresh.html").read_text() == page


def test_an_author_who_lies_is_found_out(world: World, check: Run, tmp_path: Path) -> None:
    def exhibit(predicate: dict[str, Any]) -> Any:
        return predicate["exhibits"][0]

    def stronger(predicate: dict[str, Any]) -> None:
        exhibit(predicate)["finding"]["copies"][0]["log10_p_family"] -= 5

    def another_copy(predicate: dict[str, Any]) -> None:
        exhibit(predicate)["named"][0]["certificate"] = world.models[0].documents[8]

    def other_bits(predicate: dict[str, Any]) -> None:
        exhibit(predicate)["named"][0]["opened"] = {
            name: world.opening(8)[name] for name in ("phi", "blinder")
        }

    def other_ledger(predicate: dict[str, Any]) -> None:
        exhibit(predicate)["named"][0]["inclusion"]["proof"][0] = "00" * 32

    def fewer_keys(predicate: dict[str, Any]) -> None:
        exhibit(predicate)["finding"]["evidence"]["hypotheses"] = 1

    def altered_manifest(predicate: dict[str, Any]) -> None:
        predicate["origin"]["manifest"]["models"][0]["keys_issued"] = 1

    def other_readings(predicate: dict[str, Any]) -> None:
        exhibit(predicate)["readings"][0] = [0] * 64

    def milder_words(predicate: dict[str, Any]) -> None:
        predicate["page"] = predicate["page"][:-3]

    expected = {
        stronger: "finding 1: readings, score and probability",
        another_copy: f"finding 1: certificate of {world.copy_id(7)}",
        other_bits: "finding 1: the opened commitment",
        other_ledger: "finding 1: its place in the ledger",
        fewer_keys: "finding 1: network and number of keys",
        altered_manifest: "what the registry signed: the bundle that was used",
        other_readings: "finding 1: what each image adds",
        milder_words: "words of the report",
    }
    target = tmp_path / "lie.html"
    for change, line in expected.items():
        target.write_bytes(forged(world, change))
        result = check(target, "--images", world.folder, "--json")
        assert result.exit_code == 3, change
        assert lines(result)[line][0] == "fails", (change, lines(result))


def test_whose_signature_and_whose_registry_it_is_has_to_be_said(world: World, run: Run) -> None:
    found = lines(run("--check", "report.html", "--bundle", "public.bundle", "--json"))
    assert found["whose signature it is"][0] == "not checked"
    assert found["the registry"][0] == "not checked"
    result = run("--check", "report.html", "--bundle", "public.bundle", "--signer", "0" * 64, "--json")
    assert result.exit_code == 3
    assert lines(result)["whose signature it is"][0] == "fails"


def test_a_key_that_signs_reports_is_made_here(world: World, run: Run, check: Run, tmp_path: Path) -> None:
    key = tmp_path / "signing.pem"
    made = invoke("key", "new", "--signing", "--out", key)
    assert made.exit_code == 0, made.output
    (signer,) = re.findall(r"\b[0-9a-f]{64}\b", made.stdout)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = load_pem_public_key((tmp_path / "signing.pem.pub").read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    assert dsse.key_id(public) == signer
    out = tmp_path / "signed.html"
    assert run("none.json", "--bundle", "test.bundle", "--key", key, "--out", out).exit_code == 0
    found = lines(run("--check", out, "--bundle", "test.bundle", "--signer", signer, "--json"))
    assert found["whose signature it is"][0] == "holds"
    assert invoke("key", "new", "--signing", "--out", key).exit_code == 2, "no key is replaced"
    assert invoke("key", "new", "--out", tmp_path / "sealing").exit_code == 0
    result = run("none.json", "--bundle", "test.bundle", "--key", tmp_path / "sealing", "--out", out)
    one_sentence(result, 2, "another kind than Ed25519", "verifier key new --signing")


def test_a_draft_is_marked_and_never_passes(world: World, run: Run, check: Run) -> None:
    result = run("none.json", "--bundle", "test.bundle", "--out", "draft.html", "--out", "draft.pdf")
    assert result.exit_code == 0
    assert "not signed" in result.output
    assert "Draft: nobody signed this report." in (world.folder / "draft.html").read_text()
    one_sentence(check("draft.html"), 3, "not signed")
    one_sentence(check("draft.pdf"), 3, "not signed")


def test_a_finding_that_does_not_hold_is_not_reported(world: World, run: Run) -> None:
    stated = json.loads((world.folder / "set.json").read_text())
    other = {**stated, "copies": [{**stated["copies"][0], "id": world.copy_id(8), "key_id": "00" * 12}]}
    (world.folder / "other.json").write_text(json.dumps(other))
    result = run("other.json", "--bundle", "test.bundle", "--out", "other.html")
    one_sentence(result, 3, "does not hold", world.copy_id(7))
    assert not (world.folder / "other.html").exists()


def test_without_keys_an_author_says_that_nothing_was_computed_again(world: World, run: Run) -> None:
    made = ["set.json", "--bundle", "public.bundle", "--out", "word.html", "--key", "auditor.pem"]
    assert run(*made).exit_code == 0
    assert "They are the word of whoever made the finding" in (world.folder / "word.html").read_text()
    assert run(*made, "--opening", "opening.json").exit_code == 0
    assert "They are the word of whoever" not in (world.folder / "word.html").read_text()


def test_bad_input_ends_with_one_sentence(world: World, run: Run, check: Run, tmp_path: Path) -> None:
    finding = json.loads((world.folder / "none.json").read_text())
    files = {
        "schema.json": {**finding, "schema": "hallmark/finding/9"},
        "fields.json": {**finding, "verdict": "attributed"},
        "types.json": {**finding, "evidence": {**finding["evidence"], "alpha": "small"}},
        "more.json": {**finding, "guilty": True},
        "moved.json": {
            **finding,
            "images": [{**finding["images"][0], "path": "away.png", "sha256": "0" * 64}],
        },
        "network.json": {**finding, "network": {**finding["network"], "digest": "0" * 64}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "empty.json").write_text("\n")
    (tmp_path / "key.pem").write_text("no key")
    opening = {**world.opening(7), "phi": world.opening(8)["phi"]}
    (tmp_path / "opening.json").write_text(json.dumps(opening))
    with_bundle, out = ("--bundle", "test.bundle"), ("--out", tmp_path / "x.html")
    for code, fragment, arguments in [
        (2, "expected schema", [tmp_path / "schema.json"]),
        (2, "names copies exactly if", [tmp_path / "fields.json"]),
        (2, "alpha is not a number", [tmp_path / "types.json"]),
        (2, "'guilty'", [tmp_path / "more.json"]),
        (2, "was not found", [tmp_path / "moved.json"]),
        (2, "does not hold the network", [tmp_path / "network.json", "--images", world.folder]),
        (2, "is no finding", [tmp_path / "text.json"]),
        (2, "holds no finding", [tmp_path / "empty.json"]),
        (2, "cannot read", [tmp_path / "absent.json"]),
        (2, "no such file or folder", ["none.json", "--images", tmp_path / "absent"]),
        (2, "no private key", ["none.json", "--key", tmp_path / "key.pem"]),
        (2, "is no opening", ["none.json", "--opening", "none.json"]),
        (3, "do not match the commitment", ["set.json", "--opening", tmp_path / "opening.json"]),
        (2, "must end with", ["none.json", "--out", tmp_path / "x.docx"]),
        (2, "cannot write", ["none.json", "--out", tmp_path / "absent" / "x.html"]),
        (2, "cannot read the bundle", ["none.json", "--bundle", tmp_path / "absent"]),
    ]:
        one_sentence(run(*with_bundle, *out, *arguments), code, fragment)
        assert not (tmp_path / "x.html").exists()
    assert run("none.json").exit_code == 2
    assert run("--check", "report.html", *out).exit_code == 2
    for name in ("none.json", "test.bundle", "foreign1.png", tmp_path / "empty.json"):
        one_sentence(check(name), 2)


def test_a_full_disk_leaves_no_half_report(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    target.write_text("the old one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        commands.write(target, b"new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the old one"]


def test_names_that_are_no_unicode_are_shown_and_checked(world: World, run: Run, tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"caf\xe9-\xff.png")
    image.write_bytes((world.folder / "foreign1.png").read_bytes())
    found = invoke("check", image, "--bundle", "test.bundle", "--json")
    (tmp_path / "finding.json").write_text(found.stdout)
    outs = ("--out", tmp_path / "x.html", "--out", tmp_path / "x.pdf")
    result = run(tmp_path / "finding.json", "--bundle", "test.bundle", "--key", "auditor.pem", *outs)
    assert result.exit_code == 0, result.output
    assert "caf\\udce9-\\udcff.png" in (tmp_path / "x.html").read_text()
    checked = run("--check", tmp_path / "x.pdf", "--bundle", "test.bundle", "--json")
    assert lines(checked)["that no copy can be named"][0] == "holds"


def test_scripts_in_names_and_notes_stay_text(world: World, run: Run, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script></script><!--\u202egnp.exe"
    result = run(
        *("none.json", "--bundle", "test.bundle", "--out", tmp_path / "x.html", "--out", tmp_path / "x.pdf"),
        *(
            "--title",
            hostile,
            "--name",
            hostile,
            "--case",
            hostile,
            "--note",
            hostile,
            "--key",
            "auditor.pem",
        ),
    )
    assert result.exit_code == 0, result.output
    page = Words((tmp_path / "x.html").read_text())
    assert page.scripts == ["application/json"]
    assert "<script>alert(1)</script></script><!--\\u202egnp.exe" in page.words
    assert "\u202e" not in (tmp_path / "x.html").read_text()


@settings(max_examples=60)
@given(data=st.data())
def test_mutated_reports_never_crash_a_reader(world: World, data: st.DataObject) -> None:
    content = bytearray(serialised(envelope(world)) if data.draw(st.booleans()) else envelope(world).content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        whole = content.startswith(b'{"payload":')
        statement.decode(opened(bytes(content)).content if whole else bytes(content))
    except (InputError, TrustError):
        pass


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-1, 1)
    | st.text(max_size=3)
    | st.just([])
    | st.just({})
)


@settings(max_examples=120)
@given(data=st.data())
def test_any_value_in_any_place_is_refused_or_rendered(world: World, data: st.DataObject) -> None:
    document = json.loads(envelope(world).content)
    place: Any = document["predicate"]
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 3)):
            place = inner
            continue
        place[key] = data.draw(LEAVES)
        break
    payload = json.dumps(document).encode()
    try:
        page = render_html(dsse.wrap(payload, dsse.IN_TOTO))
    except InputError:
        return
    assert base64.b64encode(payload) in page
    signed = serialised(dsse.sign(payload, dsse.IN_TOTO, AUDITOR))
    bundle = Bundle.open(world.folder / "test.bundle")
    with suppress(InputError, TrustError):
        checking.check(signed, checking.Checking(bundle, [world.folder], trust=world.registry, device="cpu"))
