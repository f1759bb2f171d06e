"""Cases, their notes and their audit trail.

    case = open_case(home, principal, "Leak of 3 May")
    edit(home, principal, case.case_id, seen=case.version, status="closed")   # StateError if it has changed
    note(home, principal, case.case_id, "The agency sent two more.")

Everything that happens to a case adds a line to its trail, in the transaction in which it happens.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from registry.accounts import people, security
from registry.accounts.models import Person
from registry.accounts.permissions import Permission, Principal
from registry.cases.models import (
    Case,
    CaseEvent,
    CaseFinding,
    CaseFindingImage,
    CaseImage,
    CaseNote,
    CaseTimestamp,
)
from registry.db import stream, unix_now
from registry.errors import InputError, NotFoundError, StateError
from registry.home import Home
from registry.identity import Identity, signature_bytes, signature_text
from registry.ledger import service as ledger
from registry.ledger.audit import Record
from verifier import certificate, signing, words
from verifier.bundle import utc
from verifier.evidence import ALPHA

DIGEST_BYTES = 32
Made = TypeVar("Made")

LONGEST_TITLE, LONGEST_TEXT = 200, 10_000
ERASED = "case.images-erased"


class Status(StrEnum):
    """Where an investigation stands. ``disputed``: whoever is named objects."""

    OPEN = "open"
    DISPUTED = "disputed"
    CLOSED = "closed"


def open_case(
    home: Home, principal: Principal, title: str, description: str = "", alpha: float = ALPHA
) -> Case:
    """A new case. ``alpha`` bounds the probability that any of its findings names somebody falsely."""
    return open_case_with(home, principal, title, description, alpha, lambda _, case: case)


def open_case_with(
    home: Home,
    principal: Principal,
    title: str,
    description: str,
    alpha: float,
    also: Callable[[Session, Case], Made],
) -> Made:
    """The same; what ``also`` makes of the case within the transaction that opens it."""
    if not 1e-30 <= alpha <= ALPHA:
        raise InputError(f"alpha must lie between 1e-30 and {ALPHA:g}, not {alpha:g}.")
    now = unix_now()
    row = Case(
        case_id=f"case-{secrets.token_hex(8)}",
        organisation_id=principal.organisation,
        title=title,
        description=description,
        status=Status.OPEN,
        assigned_to=principal.person,
        alpha=alpha,
        rounds=0,
        disclosed=False,
        version=1,
        created_by=principal.label,
        created_at=now,
        changed_at=now,
    )
    with home.database.write() as session:
        session.add(row)
        session.flush()
        say(session, row, principal.label, "opened", title=title)
        session.flush()
        return also(session, row)


def get_case(session: Session, case_id: str, organisation: int, *, lock: bool = False) -> Case:
    """An organisation's case; :class:`NotFoundError`."""
    query = select(Case).where(Case.case_id == case_id, Case.organisation_id == organisation)
    row = session.execute(query.with_for_update() if lock else query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"there is no case {case_id}.", "See the list of cases.")
    return row


def select_cases(organisation: int, status: Status | None = None) -> Select[Case]:
    """An organisation's cases."""
    query = select(Case).where(Case.organisation_id == organisation)
    return query if status is None else query.where(Case.status == status)


def edit(
    home: Home,
    principal: Principal,
    case_id: str,
    *,
    seen: int,
    title: str | None = None,
    description: str | None = None,
    status: Status | None = None,
    assigned_to: str | None = None,
) -> Case:
    """Change what is given; ``assigned_to`` is a person's name, empty for nobody.

    :class:`StateError` where the case is no longer the version ``seen``: nothing is overwritten unseen.
    """
    with home.database.write() as session:
        case = get_case(session, case_id, principal.organisation, lock=True)
        if case.version != seen:
            raise StateError(
                f"{case_id} was changed meanwhile: it is version {case.version}, not {seen}.",
                "Look at it again, then repeat what should still change.",
            )
        changes: dict[str, Any] = {}
        if title is not None and title != case.title:
            changes["title"] = case.title = title
        if description is not None and description != case.description:
            case.description = description
            changes["description"] = "changed"
        if status is not None and status != case.status:
            changes["status"], case.status = status.value, status
            case.closed_at = unix_now() if status is Status.CLOSED else None
        if assigned_to is not None:
            person = people.get_person(session, assigned_to, principal.organisation) if assigned_to else None
            if case.assigned_to != (number := None if person is None else person.id):
                changes["assigned_to"], case.assigned_to = assigned_to or "nobody", number
        if changes:
            case.version += 1
            say(session, case, principal.label, "edited", **changes)
        return case


def disclose(home: Home, principal: Principal, case_id: str, disclosed: bool) -> Case:
    """Let all readers of the case see bits and bounds of its findings, or no longer.

    They tell about keys, so this takes whoever may export the key table: :class:`ForbiddenError`.
    """
    principal.require(Permission.EXPORT_BUNDLES)
    with home.database.write() as session:
        case = get_case(session, case_id, principal.organisation, lock=True)
        if case.disclosed != disclosed:
            case.disclosed, case.version = disclosed, case.version + 1
            say(session, case, principal.label, "evidence disclosed" if disclosed else "evidence withdrawn")
        return case


def note(home: Home, principal: Principal, case_id: str, text: str) -> CaseNote:
    """Add a note."""
    with home.database.write() as session:
        case = get_case(session, case_id, principal.organisation, lock=True)
        row = CaseNote(
            note_id=f"note-{secrets.token_hex(8)}",
            investigation_id=case.id,
            text=text,
            author=principal.label,
            written_at=unix_now(),
        )
        session.add(row)
        say(session, case, principal.label, "note added", note=row.note_id)
    return row


def notes(session: Session, case: Case) -> Sequence[CaseNote]:
    """All notes, oldest first."""
    return session.execute(select_notes(case).order_by(CaseNote.id)).scalars().all()


def select_notes(case: Case) -> Select[CaseNote]:
    """The notes."""
    return select(CaseNote).where(CaseNote.investigation_id == case.id)


def say(session: Session, case: Case, actor: str, kind: str, **detail: Any) -> None:
    """Add a line to the audit trail within the caller's transaction."""
    now = unix_now()
    case.changed_at = now
    session.add(
        CaseEvent(investigation_id=case.id, at=now, actor=actor, kind=kind, detail=json.dumps(detail))
    )


def select_trail(case: Case) -> Select[CaseEvent]:
    """The audit trail."""
    return select(CaseEvent).where(CaseEvent.investigation_id == case.id)


def mark(session: Session, case: Case) -> int:
    """A number that grows with everything that happens to a case."""
    query = select(func.max(CaseEvent.id)).where(CaseEvent.investigation_id == case.id)
    return session.execute(query).scalar() or 0


def erase(home: Home, principal: Principal, case_id: str) -> Case:
    """Remove the images of a closed case and their names; findings, hashes and timestamps stay.

    :class:`StateError` unless it is closed. Older backups of the registry still hold the images.
    """
    with home.database.write() as session:
        case = get_case(session, case_id, principal.organisation, lock=True)
        if case.status != Status.CLOSED:
            raise StateError(
                f"{case_id} is {case.status}.", "Close it first: its images are needed till then."
            )
        if case.erased_at is None:
            case.erased_at, case.version = unix_now(), case.version + 1
            for image in images(session, case):
                image.name = "erased"
            say(session, case, principal.label, "images erased")
            security.record(session, ERASED, organisation=case.organisation_id, case=case_id)
    home.storage.remove(folder_name(case_id))
    return case


def folder_name(case_id: str) -> str:
    """Storage name of the folder that holds a case's images and thumbnails, by SHA-256."""
    return f"cases/{case_id}"


def images(session: Session, case: Case) -> Sequence[CaseImage]:
    """The images, in the order in which they came."""
    return session.execute(select_images(case).order_by(CaseImage.id)).scalars().all()


def select_images(case: Case) -> Select[CaseImage]:
    """The images."""
    return select(CaseImage).where(CaseImage.investigation_id == case.id)


def get_image(session: Session, case: Case, image_id: str) -> CaseImage:
    """One of them; :class:`NotFoundError`."""
    query = select(CaseImage).where(CaseImage.investigation_id == case.id, CaseImage.image_id == image_id)
    row = session.execute(query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"the case has no image {image_id}.", "See its images.")
    return row


def select_findings(case: Case) -> Select[CaseFinding]:
    """The findings, waiting and failed ones too."""
    return select(CaseFinding).where(CaseFinding.investigation_id == case.id)


def images_of(session: Session, finding: CaseFinding) -> Sequence[CaseImage]:
    """The images that a finding is about, in its order."""
    query = (
        select(CaseImage)
        .join(CaseFindingImage, CaseFindingImage.image_id == CaseImage.id)
        .where(CaseFindingImage.finding_id == finding.id)
        .order_by(CaseFindingImage.place)
    )
    return session.execute(query).scalars().all()


def counts(session: Session, cases: Sequence[Case]) -> dict[int, dict[str, int]]:
    """How many images, notes and findings (by state) cases have, by the number of their rows."""
    number, own = func.count(), [case.id for case in cases]
    found = {case: dict.fromkeys(("images", "notes", "waiting", "done", "failed"), 0) for case in own}
    for name, table in (("images", CaseImage), ("notes", CaseNote)):
        column = table.investigation_id
        for case, many in session.execute(select(column, number).where(column.in_(own)).group_by(column)):
            found[case][name] = many
    grouped = (CaseFinding.investigation_id, CaseFinding.state)
    query = select(*grouped, number).where(CaseFinding.investigation_id.in_(own)).group_by(*grouped)
    for case, state, many in session.execute(query):
        found[case][state] = many
    return found


def describe_all(session: Session, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """:func:`describe` of each, in as many statements as for one."""
    numbers = counts(session, cases)
    assigned = {case.assigned_to for case in cases if case.assigned_to is not None}
    query = select(Person.id, Person.name).where(Person.id.in_(assigned))
    names: dict[int, str] = dict(row._tuple() for row in session.execute(query)) if assigned else {}
    return [_describe(case, numbers[case.id], names) for case in cases]


def describe(session: Session, case: Case) -> dict[str, Any]:
    """A case as the API and `registry case show` give it."""
    return describe_all(session, [case])[0]


def _describe(case: Case, numbers: dict[str, int], names: dict[int, str]) -> dict[str, Any]:
    return {
        "id": case.case_id,
        "title": case.title,
        "description": case.description,
        "status": case.status,
        "assigned_to": None if case.assigned_to is None else names[case.assigned_to],
        "alpha": case.alpha,
        "disclosed": case.disclosed,
        "version": case.version,
        "created_by": case.created_by,
        "created_at": utc(case.created_at),
        "changed_at": utc(case.changed_at),
        "closed_at": None if case.closed_at is None else utc(case.closed_at),
        "erased_at": None if case.erased_at is None else utc(case.erased_at),
        "counts": numbers,
    }


def describe_image(session: Session, image: CaseImage) -> dict[str, Any]:
    """An image of a case, with its place in the ledger."""
    stamp = session.get_one(CaseTimestamp, image.timestamp_id)
    return {
        "id": image.image_id,
        "name": image.name,
        "sha256": image.sha256.hex(),
        "size": image.size,
        "width": image.width,
        "height": image.height,
        "notes": json.loads(image.notes),
        "added_by": image.added_by,
        "added_at": utc(image.added_at),
        "ledger_index": stamp.ledger_index,
    }


def describe_note(row: CaseNote) -> dict[str, Any]:
    """A note."""
    return {"id": row.note_id, "text": row.text, "author": row.author, "written_at": utc(row.written_at)}


def sentence(row: CaseEvent) -> str:
    """A line of the audit trail in words."""
    detail = json.loads(row.detail)
    match row.kind:
        case "opened":
            return f"opened the case as {detail['title']}"
        case "images added":
            many = len(detail["images"])
            added = "an image" if many == 1 else f"{many} images"
            return f"added {added}, timestamped in ledger entry {detail['ledger_index']}"
        case "check started":
            groups = "a set" if detail["set"] else f"{detail['groups']} one by one"
            return f"began check {detail['round']} of {groups}, at a bound of {words.alpha(detail['alpha'])}"
        case "finding":
            return f"{detail['finding']}: {detail['result']}"
        case "edited":
            return "changed " + ", ".join(
                name.replace("_", " ") if value == "changed" else f"{name.replace('_', ' ')} to {value}"
                for name, value in detail.items()
            )
        case "note added":
            return f"added {detail['note']}"
        case "report made":
            return (
                f"made a report ({detail['form']}, {detail['findings']} findings, SHA-256 {detail['sha256']})"
            )
        case _:
            return row.kind


def describe_event(row: CaseEvent) -> dict[str, Any]:
    """A line of the audit trail."""
    return {"at": utc(row.at), "actor": row.actor, "kind": row.kind, "detail": json.loads(row.detail)}


# --- timestamps ---------------------------------------------------------------------------------------------


def timestamp(session: Session, identity: Identity, case: Case, digests: Sequence[bytes]) -> CaseTimestamp:
    """Put the hashes of images into the ledger, in the caller's transaction.

    The record that is logged holds these hashes, the registry and the time, and nothing else.
    """
    joined, now = b"".join(sorted(digests)), unix_now()
    document = identity.sign(_unsigned(identity.registry, joined, now))
    row = CaseTimestamp(
        investigation_id=case.id,
        digests=joined,
        signature=signature_bytes(document),
        logged_at=now,
        ledger_index=ledger.append(session, identity, ledger.CASE_IMAGES, [certificate.leaf(document)]),
    )
    session.add(row)
    session.flush()
    return row


def timestamp_document(row: CaseTimestamp, registry: str) -> signing.Document:
    """The signed record of a timestamp, byte for byte what is in the ledger."""
    return {**_unsigned(registry, row.digests, row.logged_at), "signature": signature_text(row.signature)}


def prove_timestamp(home: Home, session: Session, image: CaseImage) -> dict[str, Any]:
    """That an image was at hand when it was: the signed record and its place in the ledger."""
    row = session.get_one(CaseTimestamp, image.timestamp_id)
    entry = ledger.entry(session, row.ledger_index)
    return {
        "document": timestamp_document(row, home.identity.registry),
        "inclusion": ledger.describe_inclusion(session, home.identity, entry),
    }


def records(session: Session, registry: str) -> Generator[Record]:
    """All timestamps in ledger order, rebuilt from their rows."""
    for (row,) in stream(session, select(CaseTimestamp).order_by(CaseTimestamp.ledger_index)):
        yield row.ledger_index, timestamp_document(row, registry)


def _unsigned(registry: str, digests: bytes, logged_at: int) -> signing.Document:
    listed = [digests[i : i + DIGEST_BYTES].hex() for i in range(0, len(digests), DIGEST_BYTES)]
    return {
        "schema": ledger.CASE_IMAGES,
        "registry": registry,
        "images": listed,
        "logged_at": utc(logged_at),
    }
