"""Models over HTTP, and the uploads that they are made of."""

from __future__ import annotations

from typing import Annotated, Any, BinaryIO, cast

from flask import Response, request
from flask_openapi3 import APIBlueprint, RawModel, Tag
from pydantic import Field, StringConstraints
from sqlalchemy import select

from registry.accounts.permissions import Permission
from registry.api import repeats
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import ModelLabel, Path, Reply
from registry.generators import service, uploads
from registry.generators.jobs import RegisterModel
from registry.generators.models import Model
from registry.jobs import routes as jobs

models = APIBlueprint(
    "models",
    __name__,
    url_prefix="/api/v1/models",
    abp_tags=[Tag(name="models", description="Registered generators.")],
)

uploading = APIBlueprint(
    "uploads",
    __name__,
    url_prefix="/api/v1/uploads",
    abp_tags=[Tag(name="uploads", description="Weights on their way in.")],
)

LARGEST_FILE = 64 << 30
"""Bytes of one uploaded file."""


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
    collusion_resistant: bool = Field(description="Whether its keys are biased against colluders.")
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


@models.post("", responses={202: jobs.JobReply})
@requires(Permission.WRITE_MODELS)
def register_model(header: repeats.RepeatHeader, body: RegisterModel) -> Response:  # noqa: ARG001
    """Register a model of your organisation: a job checks and stores its weights."""
    return jobs.started("register-model", body)


class UploadPath(Path):
    """Which upload: a name of your choice."""

    upload: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9-]+$")]


_PART = "[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}"


class UploadFilePath(UploadPath):
    """Which file of an upload."""

    path: Annotated[str, StringConstraints(max_length=300, pattern=f"^{_PART}(/{_PART}){{0,8}}$")]


class UploadedFileReply(Reply):
    """A stored file."""

    path: str
    sha256: str
    size: int


class UploadReply(Reply):
    """What an upload holds so far: sizes in bytes by path."""

    files: dict[str, int]


class FileBody(RawModel):
    """The bytes of a file."""

    mimetypes = ["application/octet-stream"]  # noqa: RUF012  (flask-openapi3's own form)


@uploading.get("/<upload>", responses={200: UploadReply})
@requires(Permission.WRITE_MODELS)
def show_upload(path: UploadPath) -> dict[str, Any]:
    """What an upload of your organisation holds so far."""
    return {"files": uploads.files(home(), principal().organisation, path.upload)}


@uploading.put(
    "/<upload>/files/<path:path>",
    responses={
        201: UploadedFileReply,
        409: problem("A file and a folder of the same name"),
        413: problem("Too large"),
    },
)
@requires(Permission.WRITE_MODELS)
def put_file(path: UploadFilePath, raw: FileBody) -> tuple[dict[str, Any], int]:  # noqa: ARG001
    """Send one file; one that is there is replaced."""
    request.max_content_length = LARGEST_FILE
    owner = principal().organisation
    return uploads.store(home(), owner, path.upload, path.path, cast(BinaryIO, request.stream)), 201


@uploading.delete("/<upload>", responses={204: None})
@requires(Permission.WRITE_MODELS)
def discard_upload(path: UploadPath) -> tuple[str, int]:
    """Remove an upload."""
    uploads.discard(home(), principal().organisation, path.upload)
    return "", 204
