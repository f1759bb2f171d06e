"""Testing the images of a case: rounds that take their share of alpha, findings one by one.

    start(home, principal, case_id)                          # all images that were not tested alone yet
    start(home, principal, case_id, images=[...], as_set=True)
    work(home, case_id, organisation)                        # makes the findings that wait

A round is the images that one check is about. Round r of a case has ``alpha / (r (r + 1))``: halves, sixths,
twelfths, which add up to less than alpha however many rounds there will be, and whatever people learned from
earlier ones. Its groups share that equally, and the models they are tested for each group's part.

``detail`` of a finding is JSON: ``resolutions`` (the queries behind it, one a model), ``network`` and, for a
model of one's own, ``readings``, ``tested`` and ``runner_up``. No bit of a key is in it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.accounts.permissions import Principal, Role
from registry.cases import images as case_images
from registry.cases import service
from registry.cases.models import Case, CaseFinding, CaseFindingImage, CaseImage, CaseTimestamp
from registry.db import unix_now
from registry.errors import InputError, RegistryError, StateError
from registry.home import Home
from registry.jobs import service as jobs
from registry.resolve import service as resolving
from registry.resolve.grants import Target
from verifier.errors import VerifierError
from verifier.finding import (
    CopyEntry,
    EvidenceEntry,
    Finding,
    ImageEntry,
    LedgerEntry,
    ModelEntry,
    NetworkEntry,
)
from verifier.images import decode_image

WAITING, DONE, FAILED = "waiting", "done", "failed"


def start(
    home: Home,
    principal: Principal,
    case_id: str,
    *,
    images: Sequence[str] | None = None,
    as_set: bool = False,
    in_background: bool = True,
) -> list[str]:
    """Begin a round: ids of the findings that will be made, one an image or one of all ``as_set``.

    ``images`` are ids (``None``: all that were never tested alone). :class:`StateError` where there is
    nothing to test or the case is closed, :class:`InputError` for a set that is too large.
    """
    with home.database.write() as session:
        case = service.get_case(session, case_id, principal.organisation, lock=True)
        if case.status == service.Status.CLOSED or case.erased_at is not None:
            raise StateError(f"{case_id} is closed.", "Open a case whose images are still there.")
        chosen = _chosen(session, case, images)
        groups = [chosen] if as_set else [[image] for image in chosen]
        if as_set and not 2 <= len(chosen) <= resolving.IMAGES_MOST:
            raise InputError(f"a set has 2 to {resolving.IMAGES_MOST} images, not {len(chosen)}.")
        if not resolving.readable_targets(session, case.organisation_id):
            raise StateError(
                "no model with a network is open to your organisation.",
                "Register and train one, or ask a distributor for a grant.",
            )
        case.rounds += 1
        share = case.alpha / (case.rounds * (case.rounds + 1))
        made = []
        for group in groups:
            finding = CaseFinding(
                finding_id=f"finding-{secrets.token_hex(8)}",
                investigation_id=case.id,
                round=case.rounds,
                alpha=share,
                groups=len(groups),
                before=_before(session, group),
                state=WAITING,
                requested_by=principal.label,
                person_id=principal.person,
                token_id=principal.token,
                requested_at=unix_now(),
            )
            session.add(finding)
            session.flush()
            session.add_all(
                CaseFindingImage(finding_id=finding.id, place=place, image_id=image.id)
                for place, image in enumerate(group)
            )
            made.append(finding.finding_id)
        service.say(
            session, case, principal.label, "check started",
            round=case.rounds, groups=len(groups), alpha=share, set=as_set,
        )  # fmt: skip
        if in_background:
            jobs.enqueue(session, case.organisation_id, "check-case", {"case": case_id}, principal)
    return made


def retry(home: Home, principal: Principal, case_id: str) -> int:
    """Try failed findings again; they are the same tests, so they cost no alpha. Their number."""
    with home.database.write() as session:
        case = service.get_case(session, case_id, principal.organisation, lock=True)
        failed = session.execute(
            service.select_findings(case).where(CaseFinding.state == FAILED)
        ).scalars().all()  # fmt: skip
        for finding in failed:
            finding.state, finding.error = WAITING, None
            finding.person_id, finding.token_id = principal.person, principal.token
            finding.requested_by = principal.label
        if failed:
            service.say(session, case, principal.label, "check repeated", findings=len(failed))
            jobs.enqueue(session, case.organisation_id, "check-case", {"case": case_id}, principal)
        return len(failed)


def _chosen(session: Session, case: Case, wanted: Sequence[str] | None) -> list[CaseImage]:
    if wanted is not None:
        found = [service.get_image(session, case, image_id) for image_id in dict.fromkeys(wanted)]
    else:
        sizes = (
            select(CaseFindingImage.finding_id)
            .group_by(CaseFindingImage.finding_id)
            .having(func.count() == 1)
        )
        tested = select(CaseFindingImage.image_id).where(CaseFindingImage.finding_id.in_(sizes))
        query = select(CaseImage).where(CaseImage.investigation_id == case.id, CaseImage.id.not_in(tested))
        found = list(session.execute(query.order_by(CaseImage.id)).scalars())
    if not found:
        raise StateError("there is no image to check.", "Add one first.")
    return found


def _before(session: Session, group: Sequence[CaseImage]) -> int:
    """The ledger index from which on keys are left out: that of the earliest timestamp among the images."""
    stamps = [image.timestamp_id for image in group]
    query = select(func.min(CaseTimestamp.ledger_index)).where(CaseTimestamp.id.in_(stamps))
    return session.execute(query).scalar_one()


def work(
    home: Home,
    case_id: str,
    organisation: int,
    progress: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> dict[str, int]:
    """Make the findings of a case that wait, one by one; how many were made and how many failed."""
    with home.database.read() as session:
        case = service.get_case(session, case_id, organisation)
        waiting = (
            session.execute(
                service.select_findings(case).where(CaseFinding.state == WAITING).order_by(CaseFinding.id)
            )
            .scalars()
            .all()
        )
    made = {DONE: 0, FAILED: 0}
    seen = progress(len(waiting))
    for number, finding in enumerate(waiting, 1):
        made[_make(home, case, finding)] += 1
        seen(number)
    return made


def _make(home: Home, case: Case, finding: CaseFinding) -> str:
    principal = Principal(
        case.organisation_id,
        Role.AUDITOR,
        finding.requested_by,
        person=finding.person_id,
        token=finding.token_id,
    )
    try:
        found, detail = _judge(home, principal, case, finding)
        state, error = DONE, None
    except (RegistryError, VerifierError) as refusal:
        if getattr(refusal, "exit_code", 2) == 4:
            raise
        found, detail, state, error = None, {}, FAILED, refusal.diagnostics()
    with home.database.write() as session:
        row = session.execute(
            select(CaseFinding).where(CaseFinding.id == finding.id).with_for_update()
        ).scalar_one()
        if row.state != WAITING:  # another worker was quicker
            return row.state
        row.state, row.error, row.found_at = state, error, unix_now()
        row.document = None if found is None else json.dumps(found.document())
        row.detail = json.dumps(detail)
        owner = session.get_one(Case, case.id)
        said = "failed" if found is None else found.verdict
        service.say(session, owner, "registry", "finding", finding=row.finding_id, result=said)
    return state


def _judge(
    home: Home, principal: Principal, case: Case, finding: CaseFinding
) -> tuple[Finding, dict[str, Any]]:
    """One finding over all models that are open to the organisation."""
    with home.database.read() as session:
        rows = service.images_of(session, finding)
        targets = resolving.readable_targets(session, case.organisation_id)
    if not targets:
        raise StateError("no model is open to your organisation any more.", "Ask the distributor.")
    pictures = [
        (
            row.image_id,
            row.sha256.hex(),
            decode_image(
                home.storage.read(case_images.content_name(case.case_id, row.sha256)),
                row.image_id,
                case_images.PIXELS_MOST,
            ),
        )
        for row in rows
    ]
    judged = [
        resolving.judge_images(
            home,
            principal,
            target,
            pictures,
            alpha=finding.alpha,
            groups=finding.groups * len(targets),
            before=finding.before,
        )
        for target in targets
    ]
    told = resolving.lineage_of(home, case.organisation_id, [picture for _, _, picture in pictures])
    entries = [ImageEntry(row.image_id, row.sha256.hex(), row.width, row.height) for row in rows]
    noted = told.noted(entries, range(len(entries)))
    found, detail = _merged(noted, finding, targets, judged)
    return replace(found, lineage=told.entry), detail


def _merged(
    entries: list[ImageEntry],
    finding: CaseFinding,
    targets: Sequence[Target],
    judged: Sequence[resolving.Judged],
) -> tuple[Finding, dict[str, Any]]:
    """The answers of all models as one finding, and its detail."""
    naming = [number for number, each in enumerate(judged) if each.answer.named]
    first = judged[naming[0] if naming else 0]
    documents = [each.answer.document for each in judged]
    explained = first.explained
    hypotheses = sum(document["evidence"]["hypotheses"] for document in documents)
    if explained is not None:
        hypotheses = explained.hypotheses
        for place, part in enumerate(explained.images):
            entries[place] = ImageEntry(
                **{
                    **vars(entries[place]),
                    "pose": part.pose,
                    "log10_p": part.log10_p,
                    "log10_p_without": part.log10_p_without,
                }
            )
    copies = [copy for number in naming for copy in _copies(judged[number])]
    for document in documents:
        for entry, image in zip(entries, document["images"], strict=True):
            entry.alone.extend(image["alone"])
    ledgers = documents[naming[0]]["ledger"] if naming else documents[0]["ledger"]
    same = {each.network.onnx for each in judged}
    made = Finding(
        images=entries,
        verdict="attributed" if naming else "not-attributed",
        copies=copies,
        model=ModelEntry(**documents[naming[0]]["model"]) if naming else None,
        lineage=None,
        evidence=EvidenceEntry(
            first.network.spec.bits, hypotheses, finding.alpha, finding.groups * len(targets)
        ),
        network=NetworkEntry(first.network.onnx if naming or len(same) == 1 else None, "registry"),
        ledger=LedgerEntry(**ledgers),
        elapsed_ms=0.0,
    ).consistent()
    if not made.attributed:
        explained = None
    spec = first.network.spec
    detail: dict[str, Any] = {
        "resolutions": [
            {
                "model": target.label,
                "granted": target.grant is not None,
                "resolution": document["resolution"],
                "named": [copy["key_id"] for copy in document["copies"]],
            }
            for target, document in zip(targets, documents, strict=True)
        ],
        "network": {
            "digest": first.network.onnx,
            "version": spec.version,
            "size": spec.size,
            "quantum": spec.quantum,
        },
    }
    if explained is not None:
        detail |= {
            "readings": [part.logits for part in explained.images],
            "tested": explained.tested,
            "runner_up": None if explained.runner_up is None else asdict(explained.runner_up),
        }
    return made, detail


def _copies(judged: resolving.Judged) -> list[CopyEntry]:
    """Copies without recipients; with numbers, strongest first, where they were worked out."""
    shown = [CopyEntry(**{**copy, "recipient": None}) for copy in judged.answer.document["copies"]]
    if judged.explained is None:
        return shown
    by_key = dict(zip(sorted(judged.answer.named), shown, strict=True))
    return [
        CopyEntry(
            **{
                **vars(by_key[entry.user_key]),
                "matching_bits": entry.matching_bits,
                "log10_p": entry.log10_p,
                "log10_p_family": entry.log10_p_family,
            }
        )
        for entry in judged.explained.copies
    ]
