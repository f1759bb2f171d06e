"""Recipients in the console."""

from __future__ import annotations

from flask import Blueprint, request, url_for
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.accounts import service
from registry.accounts.models import Recipient
from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.console.page import Answer, Form, done, listing, render
from registry.errors import NotFoundError
from registry.keys import bulk
from registry.keys import service as keys
from registry.keys.models import UserKey

pages = Blueprint("recipient_pages", __name__, url_prefix="/console/recipients", template_folder="templates")


@pages.get("")
@requires(Permission.READ_RECIPIENTS)
def index() -> Answer:
    """The organisation's recipients, newest first."""
    form = Form(request.args)
    beginning = form.get("q").strip().lower()
    with home().database.read() as session:
        query = service.select_recipients(principal().organisation, beginning)
        found = listing(session, query, Recipient.id)
        counted = _copies(session, [row.id for row in found])
    return render(
        "accounts/recipients.html", recipients=found, copies=counted, form=form, filtered=bool(beginning)
    )


@pages.get("/new")
@requires(Permission.WRITE_RECIPIENTS)
def new() -> Answer:
    """The form for a recipient."""
    return render("accounts/new_recipient.html", form=Form())


@pages.post("/new")
@requires(Permission.WRITE_RECIPIENTS)
def add() -> Answer:
    """Add a recipient."""
    form = Form.sent()
    email = form.text("email", longest=254)
    given = form.text("public_key", longest=2_000, needed=False)
    key = None
    if given:
        with form.refusals("public_key"):
            key = bulk.public_key(given)
    with form.refusals():
        if form.ok:
            with home().database.write() as session:
                added = service.add_recipient(session, email, key, principal().organisation)
            return done(url_for("recipient_pages.show", email=added.email), f"{added.email} is a recipient.")
    return render("accounts/new_recipient.html", form=form), 422


@pages.get("/<email>")
@requires(Permission.READ_RECIPIENTS)
def show(email: str) -> Answer:
    """One recipient and his copies."""
    owner = principal().organisation
    try:
        with home().database.read() as session:
            recipient = service.get_recipient(session, email, owner)
            chosen = keys.select_keys(owner).where(UserKey.recipient_id == recipient.id)
            found = listing(session, chosen, UserKey.ledger_index)
    except NotFoundError:
        raise NotFoundError(f"there is no recipient {email}.", "See the list of recipients.") from None
    return render(
        "accounts/recipient.html",
        recipient=service.describe(recipient),
        copies=found,
        email=recipient.email,
        erased=service.is_erased(recipient.email),
    )


@pages.post("/<email>/erase")
@requires(Permission.MANAGE_PEOPLE)
def erase(email: str) -> Answer:
    """Erase who a recipient is."""
    from registry.copies import erasure

    erased = erasure.erase(home(), email, principal().organisation)
    return done(
        url_for("recipient_pages.show", email=erased.email),
        "The recipient is erased. His copies stay valid and resolvable; nobody can name him any more.",
        "warn",
    )


def _copies(session: Session, recipients: list[int]) -> dict[int, int]:
    """How many copies each of these recipients has."""
    query = (
        select(UserKey.recipient_id, func.count())
        .where(UserKey.recipient_id.in_(recipients))
        .group_by(UserKey.recipient_id)
    )
    return {row[0]: row[1] for row in session.execute(query)}
