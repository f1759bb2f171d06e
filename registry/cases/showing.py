"""What a reader of a case is shown of its findings: decided when he asks, from what he may know by then.

    for shown in findings(home, session, principal, case): shown.finding, shown.bits, shown.document()

- Bits, bounds and the runner-up tell about keys. Whoever may export the key table could work them out himself
  and sees them; others do once he disclosed the case's evidence. Of another organisation's model nobody does:
  there a copy is a pseudonym and whether it was revoked.
- Recipients are shown to whoever may read them. Others ask for them (:mod:`registry.resolve.unmasking`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts.models import Recipient
from registry.accounts.permissions import Permission, Principal
from registry.cases import service
from registry.cases.models import Case, CaseFinding, CaseImage
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.ledger import service as ledger
from registry.resolve.explaining import agreement
from verifier import words
from verifier.bundle import utc
from verifier.finding import CopyEntry, Finding, parse
from verifier.report.blocks import Bits


@dataclass(frozen=True)
class Shown:
    """A finding for one reader. ``detail`` holds no more than he may see, ``bits`` is of the first copy."""

    row: CaseFinding
    images: Sequence[CaseImage]
    finding: Finding | None
    detail: dict[str, Any]
    bits: Bits | None

    @property
    def disclosed(self) -> bool:
        """Whether bits and bounds are among it."""
        return "tested" in self.detail

    @property
    def resolution(self) -> str | None:
        """The query that named the copies, for unmasking."""
        named = [entry for entry in self.detail.get("resolutions", []) if entry["named"]]
        return named[0]["resolution"] if named else None

    def document(self) -> dict[str, Any]:
        """As the API gives it."""
        row, found = self.row, self.finding
        return {
            "id": row.finding_id,
            "state": row.state,
            "round": row.round,
            "images": [image.image_id for image in self.images],
            "requested_by": row.requested_by,
            "requested_at": utc(row.requested_at),
            "found_at": None if row.found_at is None else utc(row.found_at),
            "keys_before": row.before,
            "error": row.error,
            "finding": None if found is None else found.document(),
            "statement": None if found is None else words.headline(found),
            "chance": None if found is None else words.chance(found),
            "resolution": self.resolution,
            "runner_up": self.detail.get("runner_up"),
        }


def discloses(principal: Principal, case: Case) -> bool:
    """Whether bits and bounds are for this reader."""
    return case.disclosed or Permission.EXPORT_BUNDLES in principal.permissions


def findings(
    home: Home, session: Session, principal: Principal, case: Case, rows: Sequence[CaseFinding] | None = None
) -> list[Shown]:
    """Findings of a case (``None``: all), oldest first."""
    if rows is None:
        rows = session.execute(service.select_findings(case).order_by(CaseFinding.id)).scalars().all()
    return [shown(home, session, principal, case, row) for row in rows]


def shown(home: Home, session: Session, principal: Principal, case: Case, row: CaseFinding) -> Shown:
    """One of them."""
    images = service.images_of(session, row)
    if row.document is None:
        return Shown(row, images, None, {}, None)
    finding = parse(json.loads(row.document))
    detail = json.loads(row.detail or "{}")
    open_ = discloses(principal, case)
    names = {image.image_id: image.name for image in images}
    entries = [
        replace(
            entry,
            path=names[entry.path],
            log10_p=entry.log10_p if open_ else None,
            log10_p_without=entry.log10_p_without if open_ else None,
        )
        for entry in finding.images
    ]
    recipients = _recipients(session, case, finding) if _may_read(principal) else {}
    copies = [_copy(copy, open_, recipients.get(copy.key_id)) for copy in finding.copies]
    finding = replace(finding, images=entries, copies=copies)
    if not open_:
        detail = {name: detail[name] for name in ("resolutions", "network") if name in detail}
    return Shown(row, images, finding, detail, _bits(home, session, case, finding, detail))


def certificate(
    home: Home, session: Session, case: Case, copy: CopyEntry
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The signed certificate of a copy of one's own model and the proof that it is in the ledger."""
    if copy.id is None:
        return None
    identity = home.identity
    key = keys.get_key(session, identity.registry, copy.key_id, case.organisation_id)
    entry = ledger.entry(session, key.row.ledger_index)
    return key.document, ledger.describe_inclusion(session, identity, entry)


def _may_read(principal: Principal) -> bool:
    return Permission.READ_RECIPIENTS in principal.permissions


def _copy(copy: CopyEntry, open_: bool, recipient: str | None) -> CopyEntry:
    copy = replace(copy, recipient=recipient)
    return copy if open_ else replace(copy, matching_bits=None, log10_p=None, log10_p_family=None)


def _recipients(session: Session, case: Case, finding: Finding) -> dict[str, str]:
    """E-mail addresses by key id, of copies of the organisation's own models."""
    own = [bytes.fromhex(copy.key_id) for copy in finding.copies if copy.id is not None]
    query = (
        select(UserKey.key_id, Recipient.email)
        .join(Recipient, Recipient.id == UserKey.recipient_id)
        .where(UserKey.key_id.in_(own), UserKey.organisation_id == case.organisation_id)
    )
    return {row.key_id.hex(): row.email for row in session.execute(query)} if own else {}


def _bits(home: Home, session: Session, case: Case, finding: Finding, detail: dict[str, Any]) -> Bits | None:
    """Bit by bit, how strongly the reading that named the first copy agrees with its key."""
    tested = detail.get("tested")
    if not finding.copies or tested is None:
        return None
    first = finding.copies[0]
    key = keys.get_key(session, home.identity.registry, first.key_id, case.organisation_id)
    agrees = agreement(tested, keys.derive(home, key))
    largest = max(1, *(abs(value) for value in tested))
    right = sum(agrees)
    caption = (
        f"{right} of {len(agrees)} bits were read as the key has them (up), {len(agrees) - right} "
        "otherwise (down); the longer a bar, the surer the reading. Of a key that has nothing to do with the "
        "images about half agree."
    )
    return Bits(caption, [abs(value) / largest for value in tested], [1 if same else 0 for same in agrees])
