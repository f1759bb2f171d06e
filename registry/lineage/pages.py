"""The lineage tree in the console: how an organisation's models are related, by the images they make."""

from __future__ import annotations

from flask import Blueprint
from markupsafe import Markup

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.console.page import Answer, render
from registry.lineage import service

pages = Blueprint("lineage_pages", __name__, url_prefix="/console/lineage", template_folder="templates")


@pages.get("")
@requires(Permission.READ_MODELS)
def index() -> Answer:
    """The tree and its distances; what is missing, where there are fewer than two fingerprints."""
    owner = principal().organisation
    with home().database.read() as session:
        known = service.fingerprints(session, owner)
        tree = service.tree(session, owner) if len(known) > 1 else None
        nearest = service.nearest(session, owner)
    # Made by us: names are escaped where the drawing is made, and it has no script and no style.
    limit = 0.0 if tree is None else service.network().spec.relative
    drawing = None if tree is None else Markup(tree.svg(limit))  # noqa: S704
    return render("lineage/index.html", drawing=drawing, nearest=nearest, known=known, limit=limit)
