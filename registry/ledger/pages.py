"""The ledger in the console: entries, checkpoints, and proofs that the reader's own browser checks."""

from __future__ import annotations

import re

from flask import Blueprint, redirect, request, url_for
from sqlalchemy import select

from registry.accounts.permissions import Permission
from registry.api.access import home, requires
from registry.console.page import Answer, Form, listing, render
from registry.errors import NotFoundError
from registry.ledger import service
from registry.ledger.models import LedgerCheckpoint, LedgerEntry
from verifier import merkle, note

pages = Blueprint("ledger_pages", __name__, url_prefix="/console/ledger", template_folder="templates")

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")
KINDS = {
    service.MODEL: "Model",
    service.CERTIFICATE: "Certificate",
    service.RECEIPT: "Receipt",
    service.REVOCATION: "Revocation",
    service.COUNTERSIGNATURE: "Countersignature",
}


@pages.get("")
@requires(Permission.READ_KEYS)
def index() -> Answer:
    """The newest checkpoint and entries; a number or digest leads to its entry."""
    form = Form(request.args)
    wanted = form.get("q").strip().lower()
    if wanted.isdecimal() and len(wanted) < 16:
        return redirect(url_for("ledger_pages.entry", index=int(wanted)))
    with home().database.read() as session:
        if _DIGEST.fullmatch(wanted):
            try:
                found = service.find_entry(session, bytes.fromhex(wanted.removeprefix("sha256:")))
                return redirect(url_for("ledger_pages.entry", index=found.index))
            except NotFoundError:
                form.errors["q"] = "No record with this digest was ever logged."
        elif wanted:
            form.errors["q"] = "Give an entry's number, or a record's SHA-256."
        entries = listing(session, select(LedgerEntry), LedgerEntry.index)
        head = service.verify_head(session, home().identity)
    return render("ledger/index.html", entries=entries, head=head, form=form, kinds=KINDS)


@pages.get("/entries/<int:index>")
@requires(Permission.READ_KEYS)
def entry(index: int) -> Answer:
    """One entry with its proof."""
    with home().database.read() as session:
        found = service.entry(session, index)
        proof = service.describe_inclusion(session, home().identity, found)
    return render("ledger/entry.html", entry=found, proof=proof, kinds=KINDS, origin=home().identity.origin)


@pages.get("/checkpoints")
@requires(Permission.READ_KEYS)
def checkpoints() -> Answer:
    """Signed tree heads, newest first."""
    with home().database.read() as session:
        found = listing(session, select(LedgerCheckpoint), LedgerCheckpoint.size)
    return render("ledger/checkpoints.html", checkpoints=found)


@pages.get("/checkpoints/<int:size>")
@requires(Permission.READ_KEYS)
def checkpoint(size: int) -> Answer:
    """One signed tree head."""
    identity = home().identity
    with home().database.read() as session:
        row = session.get(LedgerCheckpoint, size)
    if row is None:
        raise NotFoundError(f"no tree of {size} entries was signed.", "See the list of checkpoints.")
    head = merkle.Checkpoint.open(row.note, identity.public)
    return render(
        "ledger/checkpoint.html",
        row=row,
        head=head,
        verifier_key=note.verifier_key(head.origin, identity.public),
    )


@pages.get("/consistency")
@requires(Permission.READ_KEYS)
def consistency() -> Answer:
    """That the ledger only grew between two sizes."""
    form = Form(request.args)
    proof = None
    with home().database.read() as session:
        newest = service.size(session)
        form.values.setdefault("new", str(newest))
        if form.get("old"):
            old = form.number("old", 1, max(1, newest))
            new = form.number("new", 1, max(1, newest))
            with form.refusals():
                if form.ok:
                    proof = service.describe_consistency(session, home().identity, old, new)
    return render(
        "ledger/consistency.html", form=form, proof=proof, newest=newest, origin=home().identity.origin
    )
