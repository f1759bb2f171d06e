"""Models over HTTP."""

from __future__ import annotations

from typing import Any

from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import select

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.api.pages import PageQuery, page
from registry.api.schemas import ModelLabel, Path, Reply
from registry.generators import service
from registry.generators.models import Model

models = APIBlueprint(
    "models",
    __name__,
    url_prefix="/api/v1/models",
    abp_tags=[Tag(name="models", description="Registered generators.")],
)


class NetworkReply(Reply):
    """An attribution network of a model."""

    version: int
    digest: str
    foreign_images: int
    installed_at: str


class ModelReply(Reply):
    """A registered model."""

    name: str
    version: int
    digest: str
    adapter: str
    basis: str | None
    bits: int | None
    strength: str | None
    secret_commitment: str
    registered_at: str
    keys_issued: int
    networks: list[NetworkReply]


class ModelPage(Reply):
    """Models, newest first."""

    items: list[ModelReply]
    next: str | None


class ModelPath(Path):
    """Which model: NAME (its newest version) or NAME@VERSION."""

    model: ModelLabel


@models.get("", responses={200: ModelPage})
@requires(Permission.READ_MODELS)
def list_models(query: PageQuery) -> dict[str, Any]:
    """Models of your organisation."""
    chosen = select(Model).where(Model.organisation_id == principal().organisation)
    with home().database.read() as session:
        rows, more = page(session, chosen, Model.id, query)
        return {"items": [service.describe(session, row) for row in rows], "next": more}


@models.get("/<model>", responses={200: ModelReply})
@requires(Permission.READ_MODELS)
def show_model(path: ModelPath) -> dict[str, Any]:
    """One model of your organisation."""
    with home().database.read() as session:
        return service.describe(session, service.get_model(session, path.model, principal().organisation))
