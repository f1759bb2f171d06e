"""The trust root in the console, for the operator: what is published, until when, and under which keys."""

from __future__ import annotations

from flask import Blueprint, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import people
from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.console.page import Answer, Form, done, render
from registry.errors import ForbiddenError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.trust import service
from registry.trust.models import TrustKey
from registry.trust.repository import ONLINE

pages = Blueprint("trust_pages", __name__, url_prefix="/console/trust", template_folder="templates")


@pages.get("")
@requires(Permission.MANAGE_ORGANISATIONS)
def index() -> Answer:
    """Roles, their keys and validity, published models."""
    _require_operator()
    return _page(Form())


@pages.post("/publish")
@requires(Permission.MANAGE_ORGANISATIONS)
def publish() -> Answer:
    """Publish the present state; perhaps a further model, or one no longer."""
    _require_operator()
    form = Form.sent()
    with form.refusals():
        with home().database.read() as session:
            add = _models(session, form.get("add"))
            withdraw = _models(session, form.get("withdraw"))
        service.publish(home(), add, withdraw)
        said = "Checkpoint, revocations and networks are published as they are now."
        return done(url_for("trust_pages.index"), said)
    return _page(form), 409


@pages.post("/refresh")
@requires(Permission.MANAGE_ORGANISATIONS)
def refresh() -> Answer:
    """Sign the timestamp again."""
    _require_operator()
    form = Form.sent()
    with form.refusals():
        service.refresh(home())
        return done(url_for("trust_pages.index"), "The timestamp is signed again.")
    return _page(form), 409


def _page(form: Form) -> str:
    owner = principal().organisation
    with home().database.read() as session:
        exists = service.exists(session)
        published = service.published_models(session) if exists else ()
        known = {model.id for model in published}
        others = [
            model
            for model in generators.models(session, owner)
            if model.id not in known and generators.networks(session, model)
        ]
        keys = session.execute(select(TrustKey).order_by(TrustKey.id.desc())).scalars().all()
    return render(
        "trust/index.html",
        exists=exists,
        roles=service.status(home()) if exists else (),
        online=ONLINE,
        published=published,
        others=others,
        keys=keys,
        form=form,
    )


def _models(session: Session, name: str) -> list[Model]:
    return [generators.get_model(session, name, principal().organisation)] if name else []


def _require_operator() -> None:
    with home().database.read() as session:
        if not people.is_operator(session, principal().organisation):
            raise ForbiddenError("only the operator's organisation looks after the trust root.", "Ask it.")
