"""Grants to auditors in the console, and what they ask: whose a pseudonymous key is."""

from __future__ import annotations

from flask import Blueprint, url_for
from sqlalchemy.orm import Session

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.console.page import Answer, Form, done, listing, render
from registry.generators import service as generators
from registry.resolve import budgets, grants, unmasking
from registry.resolve.models import ResolveGrant, Unmasking

pages = Blueprint("grant_pages", __name__, url_prefix="/console/grants", template_folder="templates")


@pages.get("")
@requires(Permission.GRANT)
def index() -> Answer:
    """Who may resolve images on which of the organisation's models."""
    return _page(Form({"daily_units": str(budgets.GRANT_UNITS)}))


@pages.post("")
@requires(Permission.GRANT)
def add() -> Answer:
    """Give a grant."""
    form = Form.sent()
    model, organisation = form.text("model"), form.text("organisation", longest=63)
    units = form.number("daily_units", 1, grants.MOST_UNITS, budgets.GRANT_UNITS)
    days = form.number("expires_days", 1, 36_500) if form.get("expires_days").strip() else None
    with form.refusals():
        if form.ok:
            grants.create(home(), principal(), model, organisation, daily_units=units, expires_days=days)
            return done(url_for("grant_pages.index"), f"{organisation} may resolve images on {model}.")
    return _page(form), 422


@pages.post("/<grant_id>/withdraw")
@requires(Permission.GRANT)
def withdraw(grant_id: str) -> Answer:
    """End a grant."""
    grants.withdraw(home(), principal(), grant_id)
    return done(url_for("grant_pages.index"), "The grant is withdrawn.", "warn")


@pages.post("/unmaskings/<unmasking_id>")
@requires(Permission.APPROVE_UNMASKING)
def decide(unmasking_id: str) -> Answer:
    """Name the recipient to who asked, or refuse."""
    form = Form.sent()
    approve, note = form.get("approve") == "yes", form.text("note", needed=False)
    unmasking.decide(home(), principal(), unmasking_id, approve=approve, note=note)
    said = "The recipient is named to who asked; this is logged." if approve else "The request is refused."
    return done(url_for("grant_pages.index"), said, "good" if approve else "warn")


def _page(form: Form) -> str:
    owner = principal().organisation
    with home().database.read() as session:
        given = listing(session, grants.given(owner), ResolveGrant.id)
        models = [model.label for model in generators.models(session, owner)]
        asked = _asked(session, owner)
    return render("resolve/grants.html", grants=given, models=models, asked=asked, form=form)


def _asked(session: Session, owner: int) -> list[dict[str, object]]:
    """Requests that wait for the organisation's decision."""
    query = unmasking.visible(owner).where(Unmasking.owner_id == owner, Unmasking.state == unmasking.PENDING)
    rows = session.execute(query.order_by(Unmasking.id.desc()).limit(50)).scalars()
    return [unmasking.describe(session, row) for row in rows]
