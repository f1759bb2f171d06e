"""Cases as services: timestamps, shares of alpha, keys left out, what readers see, the report."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from click.testing import CliRunner
from PIL import Image
from sqlalchemy import select

from registry import cli
from registry.accounts.permissions import Role
from registry.cases import checking, images, reporting, service, showing
from registry.cases.models import CaseFinding
from registry.errors import ForbiddenError, InputError, NotFoundError, StateError
from registry.generators import service as generators
from registry.home import Home
from registry.verification import verify_ledger
from tests.registry.cases.support import foreign, image_of, png, samples, who
from tests.registry.resolve.support import issue
from tests.registry.support import MODEL, RECIPIENT
from verifier import proof
from verifier.report import opened
from verifier.report.signatures import verified
from verifier.report.statement import decode


def checked(home: Home, case_id: str, **options: object) -> dict[str, int]:
    checking.start(home, who(home), case_id, in_background=False, **options)  # type: ignore[arg-type]
    return checking.work(home, case_id, who(home).organisation)


def seen_by(home: Home, case_id: str, role: Role) -> list[showing.Shown]:
    with home.database.read() as session:
        case = service.get_case(session, case_id, who(home).organisation)
        return showing.findings(home, session, who(home, role), case)


def test_a_case_from_images_to_the_signed_report(ready: Home) -> None:
    (key_id,) = issue(ready)
    case_id = service.open_case(ready, who(ready), "Leak <b>of May</b>").case_id
    files = [("a.png", image_of(ready, key_id)), ("<script>.png", foreign())]
    received = images.add(ready, who(ready), case_id, files)
    assert [each.error for each in received] == [None, None]
    assert checked(ready, case_id) == {"done": 2, "failed": 0}

    first, second = seen_by(ready, case_id, Role.ADMIN)
    assert first.finding is not None
    assert second.finding is not None
    assert [copy.key_id for copy in first.finding.copies] == [key_id]
    assert first.finding.copies[0].recipient == RECIPIENT
    assert first.finding.copies[0].matching_bits == 32
    assert first.finding.images[0].path == "a.png"
    assert first.bits is not None
    assert sum(first.bits.agrees) == 32
    assert (second.finding.verdict, second.bits) == ("not-attributed", None)
    bounds = (first.finding.copies[0].log10_p_family, first.finding.images[0].log10_p)
    assert all(bound is not None and bound < -6 for bound in bounds)

    note = service.note(ready, who(ready), case_id, "Seen at\nthe agency.")
    for form in ("html", "pdf"):
        name, content = reporting.make(ready, who(ready), case_id, form, notes=[note.note_id])  # type: ignore[arg-type]
        envelope = opened(content)
        report, _ = decode(envelope.content)
        verified(envelope, report)
        assert name == f"{case_id}.{form}"
        assert [exhibit.finding.verdict for exhibit in report.exhibits] == ["attributed", "not-attributed"]
        assert report.exhibits[0].named[0].certificate is not None
        assert report.exhibits[0].thumbnails[0] is not None
        assert "the agency" in report.case.notes[1]  # type: ignore[union-attr]
    page = reporting.make(ready, who(ready), case_id, "html")[1].decode()
    assert "<b>of May</b>" not in page
    assert "<script>.png" not in page


def test_hashes_are_in_the_ledger_before_anything_is_tested(ready: Home) -> None:
    case_id = service.open_case(ready, who(ready), "x").case_id
    images.add(ready, who(ready), case_id, [("a.png", foreign(1)), ("b.png", foreign(2))])
    with ready.database.read() as session:
        case = service.get_case(session, case_id, who(ready).organisation)
        image = service.images(session, case)[0]
        proved = service.prove_timestamp(ready, session, image)
    assert set(proved["document"]) == {"schema", "registry", "images", "logged_at", "signature"}
    assert image.sha256.hex() in proved["document"]["images"]
    trust = ready.identity.registry
    assert proof.check_inclusion(proved["inclusion"], trust, proved["document"]) >= 0
    verify_ledger(ready)


def test_a_key_issued_after_the_images_came_is_left_out(ready: Home) -> None:
    issue(ready)
    (late,) = issue(ready)
    data = image_of(ready, late)
    before = service.open_case(ready, who(ready), "after the issue").case_id
    images.add(ready, who(ready), before, [("a.png", data)])
    checked(ready, before)
    assert seen_by(ready, before, Role.ADMIN)[0].finding.attributed  # type: ignore[union-attr]

    # The same image at hand first, then a key that it happens to fit.
    case_id = service.open_case(ready, who(ready), "before the issue").case_id
    images.add(ready, who(ready), case_id, [("a.png", data)])
    with ready.database.write() as session:
        case = service.get_case(session, case_id, who(ready).organisation)
        stamp = service.images(session, case)[0].timestamp_id
        row = session.get_one(service.CaseTimestamp, stamp)
        place = row.ledger_index
    checking.start(ready, who(ready), case_id, in_background=False)
    with ready.database.write() as session:
        finding = session.execute(select(CaseFinding).order_by(CaseFinding.id.desc())).scalars().first()
        assert finding is not None
        assert finding.before == place
        finding.before = place - 2  # as if the last key had come after the timestamp
    checking.work(ready, case_id, who(ready).organisation)
    (shown,) = seen_by(ready, case_id, Role.ADMIN)
    assert shown.finding is not None
    assert not shown.finding.attributed
    assert shown.finding.evidence.hypotheses == 1


def test_all_findings_share_the_alpha_of_the_case(sqlite_ready: Home) -> None:
    home = sqlite_ready
    issue(home)
    case_id = service.open_case(home, who(home), "x", alpha=1e-7).case_id
    for number in range(3):
        images.add(home, who(home), case_id, [(f"{n}.png", foreign(10 * number + n)) for n in range(3)])
        checked(home, case_id)
    with home.database.read() as session:
        chosen = list(session.execute(select(CaseFinding)).scalars())
    assert len(chosen) == 9
    assert sum(finding.alpha / finding.groups for finding in chosen) < 1e-7
    assert sorted({finding.alpha for finding in chosen}, reverse=True) == [1e-7 / 2, 1e-7 / 6, 1e-7 / 12]
    with pytest.raises(StateError, match="no image to check"):
        checking.start(home, who(home), case_id)
    with pytest.raises(InputError, match="alpha must lie"):
        service.open_case(home, who(home), "x", alpha=1e-3)


def test_a_set_is_judged_together_and_each_images_part_is_shown(sqlite_ready: Home) -> None:
    home = sqlite_ready
    (key_id,) = issue(home)
    case_id = service.open_case(home, who(home), "x").case_id
    files = [("a.png", image_of(home, key_id, 1)), ("b.png", image_of(home, key_id, 2)), ("c.png", foreign())]
    images.add(home, who(home), case_id, files)
    checked(home, case_id, as_set=True)
    (shown,) = seen_by(home, case_id, Role.ADMIN)
    assert shown.finding is not None
    assert shown.finding.attributed
    with_key, _, without_key = shown.finding.images
    assert with_key.log10_p is not None
    assert with_key.log10_p < -8
    assert without_key.log10_p is not None
    assert without_key.log10_p > -3
    assert without_key.log10_p_without is not None


def test_a_set_whose_images_contradict_each_other_gets_no_verdict_and_says_so(sqlite_ready: Home) -> None:
    home = sqlite_ready
    keys_issued = issue(home, 2)
    case_id = service.open_case(home, who(home), "x").case_id
    files = [(f"{n}.png", image_of(home, key_id, n)) for n, key_id in enumerate(keys_issued)]
    images.add(home, who(home), case_id, files)
    checked(home, case_id, as_set=True)
    (shown,) = seen_by(home, case_id, Role.ADMIN)
    assert shown.finding is not None
    assert (shown.finding.verdict, shown.finding.copies, shown.bits) == ("not-attributed", [], None)
    assert [image.alone for image in shown.finding.images] == [[f"copy-{key_id}"] for key_id in keys_issued]
    said = shown.document()["statement"]
    assert said.startswith("These images contradict each other")
    assert "0.png names" in said


def test_lineage_is_told_without_keys_and_goes_into_the_report(sqlite_ready: Home) -> None:
    home = sqlite_ready
    for family in ("vae", "flow"):
        generators.add_model(home, f"zoo-{family}", family, f"builtin:zoo-{family}@1")
    case_id = service.open_case(home, who(home), "x").case_id
    small = Image.new("RGB", (9, 40), "red")
    files = [(f"{n}.png", png(image)) for n, image in enumerate([*samples("vae", 12), small])]
    received = images.add(home, who(home), case_id, files)
    assert "both sides need 16" in str(received[-1].error)
    checked(home, case_id, as_set=True)
    (shown,) = seen_by(home, case_id, Role.AUDITOR)
    assert shown.finding is not None
    assert (shown.finding.verdict, shown.finding.model) == ("not-attributed", None)
    assert shown.finding.lineage is not None
    assert shown.finding.lineage.model == "zoo-vae@1"
    page = reporting.make(home, who(home), case_id, "html")[1].decode()
    assert "made by zoo-vae@1" in page
    again = CliRunner().invoke(cli.cli, ["case", "show", case_id, "--home", str(home.settings.home)])
    assert "made by zoo-vae@1 (confidence" in again.output


def test_a_set_of_two_models_is_said_to_be_mixed_image_by_image(sqlite_ready: Home) -> None:
    home = sqlite_ready
    for family in ("vae", "flow"):
        generators.add_model(home, f"zoo-{family}", family, f"builtin:zoo-{family}@1")
    case_id = service.open_case(home, who(home), "x").case_id
    both = [*samples("vae", 16), *samples("flow", 16)]
    images.add(home, who(home), case_id, [(f"{n}.png", png(image)) for n, image in enumerate(both)])
    checked(home, case_id, as_set=True)
    (shown,) = seen_by(home, case_id, Role.AUDITOR)
    assert shown.finding is not None
    assert shown.finding.lineage is not None
    assert shown.finding.lineage.model is None
    assert shown.finding.lineage.note.startswith("the set mixes models: zoo-")
    told = [image.notes[0].rpartition(" ")[2] for image in shown.finding.images]
    assert sum(map(str.__eq__, told, ["zoo-vae@1"] * 16 + ["zoo-flow@1"] * 16)) >= 28


def test_numbers_and_names_are_for_those_who_may_see_them(sqlite_ready: Home) -> None:
    home = sqlite_ready
    (key_id,) = issue(home)
    case_id = service.open_case(home, who(home), "x").case_id
    images.add(home, who(home), case_id, [("a.png", image_of(home, key_id))])
    checked(home, case_id)
    auditor = who(home, Role.AUDITOR)

    def look() -> tuple[showing.Shown, str]:
        (shown,) = seen_by(home, case_id, Role.AUDITOR)
        return shown, json.dumps(shown.document()) + json.dumps(shown.detail)

    shown, text = look()
    assert shown.finding is not None
    copy = shown.finding.copies[0]
    assert (copy.recipient, copy.matching_bits, copy.log10_p, copy.log10_p_family) == (None,) * 4
    assert shown.bits is None
    assert shown.finding.images[0].log10_p is None
    assert not {"tested", "readings", "runner_up"} & set(shown.detail)
    assert RECIPIENT not in text
    report, _ = decode(opened(reporting.make(home, auditor, case_id, "html")[1]).content)
    assert report.exhibits[0].tested is None
    assert not report.exhibits[0].recomputed
    with pytest.raises(ForbiddenError):
        service.disclose(home, auditor, case_id, True)
    service.disclose(home, who(home), case_id, True)
    shown, text = look()
    assert shown.bits is not None
    assert RECIPIENT not in text
    with home.database.read() as session:
        stored = session.execute(select(CaseFinding)).scalar_one()
    assert RECIPIENT not in (stored.document or "") + (stored.detail or "")


def test_each_wrong_file_is_reported_and_the_others_are_taken(sqlite_ready: Home) -> None:
    home = sqlite_ready
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", foreign(1))
        archive.writestr("folder/other.png", foreign(2))
        archive.writestr("notes.txt", "no image")
        archive.writestr("../../etc/passwd.png", foreign(1))
        archive.writestr("__MACOSX/._good.png", b"x")
    case_id = service.open_case(home, who(home), "x").case_id
    files = [
        ("all.zip", packed.getvalue()),
        ("cut.zip", packed.getvalue()[:200]),
        ("cut.png", foreign(3)[:300]),
        ("empty.png", b""),
    ]
    received = images.add(home, who(home), case_id, files)
    assert [(each.name, each.error is None) for each in received] == [
        ("all.zip/good.png", True),
        ("all.zip/folder/other.png", True),
        ("all.zip/notes.txt", False),
        ("all.zip/../../etc/passwd.png", False),
        ("cut.zip", False),
        ("cut.png", False),
        ("empty.png", False),
    ]
    assert "in the case already" in str(received[3].error)
    again = images.add(home, who(home), case_id, [("again.png", foreign(1))])
    assert again[0].image_id == received[0].image_id


def test_two_people_who_edit_a_case_do_not_overwrite_each_other(ready: Home) -> None:
    case = service.open_case(ready, who(ready), "x")
    service.edit(ready, who(ready), case.case_id, seen=1, title="first")
    with pytest.raises(StateError, match="changed meanwhile"):
        service.edit(ready, who(ready), case.case_id, seen=1, status=service.Status.CLOSED)
    with ready.database.read() as session:
        now = service.get_case(session, case.case_id, who(ready).organisation)
        trail = [row.kind for row in session.execute(service.select_trail(now)).scalars()]
    assert (now.title, now.status, now.version) == ("first", "open", 2)
    assert trail == ["opened", "edited"]


def test_a_closed_case_takes_nothing_and_its_images_can_be_erased(ready: Home) -> None:
    (key_id,) = issue(ready)
    case_id = service.open_case(ready, who(ready), "x").case_id
    images.add(ready, who(ready), case_id, [("ada.png", image_of(ready, key_id))])
    checked(ready, case_id)
    with pytest.raises(StateError, match="is open"):
        service.erase(ready, who(ready), case_id)
    service.edit(ready, who(ready), case_id, seen=1, status=service.Status.CLOSED)
    with pytest.raises(StateError, match="closed"):
        images.add(ready, who(ready), case_id, [("b.png", foreign())])
    service.erase(ready, who(ready), case_id)
    assert not ready.storage.exists(service.folder_name(case_id))
    (shown,) = seen_by(ready, case_id, Role.ADMIN)
    assert shown.finding is not None
    assert shown.finding.attributed
    assert shown.finding.images[0].path == "erased"
    reporting.make(ready, who(ready), case_id, "html")
    verify_ledger(ready)


def test_a_spent_budget_fails_the_finding_and_it_is_tried_again(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = sqlite_ready
    issue(home)
    case_id = service.open_case(home, who(home), "x").case_id
    images.add(home, who(home), case_id, [("a.png", foreign())])
    with monkeypatch.context() as patch:
        patch.setattr("registry.resolve.budgets.ACTOR_UNITS", 0)
        assert checked(home, case_id) == {"done": 0, "failed": 1}
    assert "units" in str(seen_by(home, case_id, Role.ADMIN)[0].row.error)
    assert checking.retry(home, who(home), case_id) == 1
    assert checking.work(home, case_id, who(home).organisation) == {"done": 1, "failed": 0}
    with home.database.read() as session:
        assert session.execute(select(CaseFinding)).scalar_one().round == 1


def test_a_case_of_nobody_is_not_found(sqlite_ready: Home) -> None:
    with pytest.raises(NotFoundError):
        service.note(sqlite_ready, who(sqlite_ready), "case-0000000000000000", MODEL)
