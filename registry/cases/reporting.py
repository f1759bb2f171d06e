"""The report of a case: its findings, the notes chosen, what proves them; signed by the registry's key.

    name, content = make(home, principal, case_id, "pdf", notes=[note_id])
    verifier.report.opened(content)                       # the envelope, for `verifier report --check`

A report says what its author may see and nothing more; that it was made is part of the case's audit trail.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Literal

from sqlalchemy.orm import Session

from registry.accounts.models import Organisation
from registry.accounts.permissions import Principal
from registry.cases import images as case_images
from registry.cases import service, showing
from registry.cases.models import Case, CaseFinding
from registry.cases.showing import Shown
from registry.db import unix_now
from registry.errors import IntegrityError, NotFoundError, StateError
from registry.home import Home
from registry.ledger import service as ledger
from verifier import words
from verifier.bundle import utc
from verifier.report import Case as ReportCase
from verifier.report import Exhibit, Named, NetworkFacts, Origin, Report, render_html, render_pdf, sealed
from verifier.report.making import EXHIBITS_MOST, software

Form = Literal["html", "pdf"]
MEDIA_TYPES = {"html": "text/html", "pdf": "application/pdf"}


def make(
    home: Home,
    principal: Principal,
    case_id: str,
    form: Form,
    *,
    notes: Sequence[str] = (),
    findings: Sequence[str] | None = None,
) -> tuple[str, bytes]:
    """File name and content of the signed report of a case.

    ``notes`` are ids of the notes that go in, ``findings`` those of findings (``None``: all that are done).
    :class:`StateError` where there is none, :class:`NotFoundError` for an id that is not of this case.
    """
    with home.database.read() as session:
        case = service.get_case(session, case_id, principal.organisation)
        done = [row for row in _rows(session, case) if findings is None or row.finding_id in findings]
        if findings is not None and len(done) < len(set(findings)):
            raise NotFoundError("the case has not all of these findings, or some are not done.", "See them.")
        if not done:
            raise StateError(f"{case_id} has no finding yet.", "Add images and check them first.")
        if len(done) > EXHIBITS_MOST:
            raise StateError(f"a report holds {EXHIBITS_MOST} findings at most.", "Choose among them.")
        shown = showing.findings(home, session, principal, case, done)
        report = Report(
            title=f"Report on {case.title}",
            created_at=utc(unix_now()),
            origin=Origin(home.identity.registry, home.identity.public_text, ledger.checkpoint(session)),
            exhibits=[_exhibit(home, session, case, each) for each in shown],
            software=software(),
            case=ReportCase(
                case_id,
                case.title,
                utc(case.created_at),
                [_how_tested(session, case), *_notes(session, case, notes)],
            ),
        )
        owner = session.get_one(Organisation, case.organisation_id).name
    envelope = sealed(report, home.identity.signer, f"The registry, at the request of {owner}")
    content = render_pdf(envelope) if form == "pdf" else render_html(envelope)
    with home.database.write() as session:
        case = service.get_case(session, case_id, principal.organisation, lock=True)
        service.say(
            session, case, principal.label, "report made",
            form=form, sha256=hashlib.sha256(content).hexdigest(), findings=len(shown),
        )  # fmt: skip
    return f"{case_id}.{form}", content


def _rows(session: Session, case: Case) -> list[CaseFinding]:
    query = service.select_findings(case).where(CaseFinding.state == "done").order_by(CaseFinding.id)
    return list(session.execute(query).scalars())


def _notes(session: Session, case: Case, wanted: Sequence[str]) -> list[str]:
    known = {row.note_id: row for row in service.notes(session, case)}
    if missing := [note_id for note_id in wanted if note_id not in known]:
        raise NotFoundError(f"the case has no note {missing[0]}.", "See its notes.")
    return [
        f"{row.author}, {utc(row.written_at)}:\n{row.text}"
        for note_id, row in known.items()
        if note_id in wanted
    ]


def _how_tested(session: Session, case: Case) -> str:
    """How alpha was shared and which keys counted, for readers of the report."""
    images = [service.describe_image(session, image) for image in service.images(session, case)]
    entries = sorted({image["ledger_index"] for image in images})
    logged = f"entry {entries[0]}" if len(entries) == 1 else f"entries {', '.join(map(str, entries))}"
    return (
        f"All findings of this case together name anybody falsely with a probability of at most "
        f"{words.alpha(case.alpha)}; each has its share of that. The hashes of the images were put into the "
        f"ledger ({logged}) before anything was tested, and keys issued later were left out of the tests of "
        "an image."
    )


def _exhibit(home: Home, session: Session, case: Case, shown: Shown) -> Exhibit:
    assert shown.finding is not None, "only findings that are done"
    proved = [showing.certificate(home, session, case, copy) for copy in shown.finding.copies]
    network = shown.detail.get("network")
    return Exhibit(
        finding=shown.finding,
        named=[Named() if pair is None else Named(*pair) for pair in proved],
        readings=shown.detail.get("readings", []),
        tested=shown.detail.get("tested"),
        thumbnails=[_thumbnail(home, case, image.sha256) for image in shown.images],
        network=None if network is None or shown.finding.network.digest is None else NetworkFacts(**network),
        recomputed=shown.disclosed or not shown.finding.attributed,
        pose_search=True,
    )


def _thumbnail(home: Home, case: Case, sha256: bytes) -> str | None:
    try:
        content = home.storage.read(case_images.content_name(case.case_id, sha256) + case_images.THUMBNAIL)
    except IntegrityError:  # erased
        return None
    return base64.b64encode(content).decode()
