"""Resolving over HTTP: queries, grants, unmasking."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field, StringConstraints
from sqlalchemy import select

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import WHOLE, Body, ModelLabel, Path, Reply, Text
from registry.generators.models import Model
from registry.resolve import budgets, grants, service, unmasking
from registry.resolve.models import Resolution, ResolveGrant, Unmasking
from registry.resolve.requests import ResolveRequest
from registry.serving.metrics import RESOLVES
from verifier.bundle import utc

resolving = APIBlueprint(
    "resolve",
    __name__,
    url_prefix="/api/v1",
    abp_tags=[Tag(name="resolve", description="From readings of suspect images to copies.")],
)
granting = APIBlueprint(
    "grants",
    __name__,
    url_prefix="/api/v1/grants",
    abp_tags=[Tag(name="grants", description="Other organisations that may resolve on your models.")],
)
unmaskings = APIBlueprint(
    "unmaskings",
    __name__,
    url_prefix="/api/v1/unmaskings",
    abp_tags=[Tag(name="unmaskings", description="Who a recipient is: asked for, decided, logged.")],
)

PublicId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
ResolutionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")]
ShownKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")]


class FoundImage(Reply):
    """An image of the query. Numbers for it are never given for readings that a client sent."""

    path: str
    sha256: str | None
    width: int | None
    height: int | None
    error: str | None
    pose: dict[str, Any] | None
    log10_p: float | None
    log10_p_without: float | None
    alone: list[str]
    notes: list[str]


class FoundCopy(Reply):
    """A copy that the images depend on; under a grant a pseudonymous key id and little else."""

    id: str | None
    key_id: str
    sha256: str | None
    recipient: str | None
    issued_at: str | None
    revoked: bool
    matching_bits: int | None
    log10_p: float | None
    log10_p_family: float | None


class FoundModel(Reply):
    """The model whose key was found."""

    name: str
    version: int
    digest: str


class FoundEvidence(Reply):
    """What the verdict was held against."""

    bits: int
    hypotheses: int
    alpha: float
    groups: int


class FoundNetwork(Reply):
    """The network that read the images."""

    digest: str | None
    device: str


class FoundLedger(Reply):
    """The named certificate's place in the ledger."""

    index: int | None
    tree_size: int
    verified: bool


class FindingReply(Reply):
    """A finding (`hallmark/finding/1`). It is provisional as long as nobody read the image itself."""

    schema_: str = Field(alias="schema", serialization_alias="schema")
    resolution: str
    provisional: bool
    source: str
    images: list[FoundImage]
    verdict: Literal["attributed", "not-attributed"]
    copies: list[FoundCopy]
    model: FoundModel | None
    lineage: Annotated[None, Field(description="It is told from pixels, which stay on your device.")]
    evidence: FoundEvidence
    network: FoundNetwork
    ledger: FoundLedger
    elapsed_ms: float | None


class ResolvableNetworkReply(Reply):
    """A network whose readings are accepted."""

    digest: str
    package: str
    version: int
    bits: int
    largest_logit: int
    quantum: float


class ResolvableModel(Reply):
    """A model that you may resolve on; `model` is how a query names it."""

    model: str
    owner: str
    digest: str
    granted: bool
    expires_at: str | None
    networks: list[ResolvableNetworkReply]
    daily_units: int
    units_spent: int


class ResolvableModelPage(Reply):
    """Models that you may resolve on, newest first."""

    items: list[ResolvableModel]
    next: str | None


class ResolutionReply(Reply):
    """A query as it is logged: who, when, on what, the digest of its readings, the verdict."""

    id: str
    model: str
    actor: str
    organisation: Literal["own", "granted"]
    source: str
    network: str
    logits_sha256: str
    alpha: float
    images: int
    readings: int
    repeated: bool
    units: int
    verdict: Literal["attributed", "not-attributed"]
    asked_at: str


class ResolutionPage(Reply):
    """Queries, newest first."""

    items: list[ResolutionReply]
    next: str | None


class NewGrant(Body):
    """Who may resolve on what."""

    model: ModelLabel
    organisation: Annotated[Text, Field(description="The organisation's name in this registry.")]
    daily_units: Annotated[int, Field(ge=1, le=grants.MOST_UNITS), WHOLE] = budgets.GRANT_UNITS
    expires_days: Annotated[int, Field(ge=1, le=grants.LONGEST_DAYS), WHOLE] | None = None


class GrantReply(Reply):
    """A grant on one of your models."""

    id: str
    model: str
    organisation: str
    daily_units: int
    granted_by: str
    created_at: str
    expires_at: str | None
    withdrawn_at: str | None


class GrantPage(Reply):
    """Grants, newest first."""

    items: list[GrantReply]
    next: str | None


class GrantPath(Path):
    """Which grant."""

    grant_id: PublicId


class NewUnmasking(Body):
    """Whose copy is it that a resolution named, and why you need to know."""

    resolution: ResolutionId
    key_id: ShownKey
    reason: Text


class UnmaskedRecipient(Reply):
    """Who received the copy."""

    email: str
    key_id: str
    issued_at: str


class UnmaskingReply(Reply):
    """A request to be told a recipient."""

    id: str
    resolution: str
    model: str
    key_id: str
    reason: str
    requested_by: str
    requested_at: str
    state: Literal["pending", "approved", "denied"]
    note: str
    decided_by: str | None
    decided_at: str | None
    recipient: UnmaskedRecipient | None


class UnmaskingPage(Reply):
    """Unmaskings, newest first; a single one shows the recipient once it is approved."""

    items: list[UnmaskingReply]
    next: str | None


class UnmaskingPath(Path):
    """Which unmasking."""

    unmasking_id: PublicId


class Decision(Body):
    """Whether the recipient is told."""

    approve: bool
    note: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


@resolving.post(
    "/resolve",
    responses={
        200: FindingReply,
        404: problem("No such model, or not for you"),
        409: problem("The model has no network yet"),
    },
)
@requires(Permission.RESOLVE)
def resolve(body: ResolveRequest) -> dict[str, Any]:
    """Whose copy do these readings depend on? Below alpha the answer is `not-attributed` and nothing else."""
    found = service.resolve(home(), principal(), body.query()).document
    RESOLVES.labels(found["verdict"]).inc()
    return found


@resolving.get("/resolvable-models", responses={200: ResolvableModelPage})
@requires(Permission.RESOLVE)
def list_targets(query: PageQuery) -> dict[str, Any]:
    """Models that your organisation may resolve on: its own and those of grants to it."""
    chosen: Any = grants.targets(principal().organisation)
    with home().database.read() as session:
        rows, more = page(session, chosen, Model.id, query)
        found = [grants.Target(*row[:3]) for row in rows]
        return {"items": [service.describe_target(home(), session, each) for each in found], "next": more}


@resolving.get("/resolutions", responses={200: ResolutionPage})
@requires(Permission.READ_SECURITY_LOG)
def list_resolutions(query: PageQuery) -> dict[str, Any]:
    """Queries of your organisation, and those of others on your models."""
    own = principal().organisation
    with home().database.read() as session:
        chosen: Any = select(Resolution, Model).join(Model, Model.id == Resolution.model_id)
        either = (Resolution.organisation_id == own, Resolution.owner_id == own)
        rows, more = page(session, chosen, Resolution.id, query, either=either)
        return {"items": [_describe(row.Resolution, row.Model, own) for row in rows], "next": more}


@granting.get("", responses={200: GrantPage})
@requires(Permission.GRANT)
def list_grants(query: PageQuery) -> dict[str, Any]:
    """Grants on your organisation's models, ended ones too."""
    chosen: Any = grants.given(principal().organisation)
    with home().database.read() as session:
        rows, more = page(session, chosen, ResolveGrant.id, query)
        return {"items": [grants.describe(*row[:3]) for row in rows], "next": more}


@granting.post(
    "",
    responses={
        201: GrantReply,
        404: problem("No such model or organisation"),
        409: problem("There is a grant already"),
    },
)
@requires(Permission.GRANT)
def create_grant(body: NewGrant) -> tuple[dict[str, Any], int]:
    """Let another organisation resolve on one of your models. It sees pseudonyms, never recipients."""
    grant, model = grants.create(
        home(),
        principal(),
        body.model,
        body.organisation,
        daily_units=body.daily_units,
        expires_days=body.expires_days,
    )
    return grants.describe(grant, model, body.organisation), 201


@granting.get("/<grant_id>", responses={200: GrantReply})
@requires(Permission.GRANT)
def show_grant(path: GrantPath) -> dict[str, Any]:
    """One grant."""
    with home().database.read() as session:
        return grants.describe(*grants.find(session, principal().organisation, path.grant_id))


@granting.delete("/<grant_id>", responses={204: None})
@requires(Permission.GRANT)
def withdraw_grant(path: GrantPath) -> tuple[str, int]:
    """End a grant at once."""
    grants.withdraw(home(), principal(), path.grant_id)
    return "", 204


@unmaskings.get("", responses={200: UnmaskingPage})
@requires(Permission.REQUEST_UNMASKING)
def list_unmaskings(query: PageQuery) -> dict[str, Any]:
    """Unmaskings that your organisation asked for or decides."""
    with home().database.read() as session:
        rows, more = page(session, unmasking.visible(principal().organisation), Unmasking.id, query)
        return {"items": [unmasking.describe(session, row) for row in rows], "next": more}


@unmaskings.post(
    "",
    responses={
        201: UnmaskingReply,
        404: problem("No resolution of yours named it"),
        409: problem("It was asked for already"),
    },
)
@requires(Permission.REQUEST_UNMASKING)
def request_unmasking(body: NewUnmasking) -> tuple[dict[str, Any], int]:
    """Ask the distributor who received a copy that a resolution of yours named."""
    made = unmasking.request(home(), principal(), body.resolution, body.key_id, body.reason)
    return made, 201


@unmaskings.get("/<unmasking_id>", responses={200: UnmaskingReply})
@requires(Permission.REQUEST_UNMASKING)
def show_unmasking(path: UnmaskingPath) -> dict[str, Any]:
    """One unmasking; once it is approved with the recipient, and that is logged."""
    return unmasking.show(home(), principal(), path.unmasking_id)


@unmaskings.post(
    "/<unmasking_id>/decision", responses={200: UnmaskingReply, 409: problem("It is decided already")}
)
@requires(Permission.APPROVE_UNMASKING)
def decide_unmasking(path: UnmaskingPath, body: Decision) -> dict[str, Any]:
    """Approve or deny an unmasking about one of your models."""
    return unmasking.decide(home(), principal(), path.unmasking_id, approve=body.approve, note=body.note)


def _describe(row: Resolution, model: Model, own: int) -> dict[str, Any]:
    return {
        "id": row.resolution_id,
        "model": model.label,
        "actor": row.actor,
        "organisation": "own" if row.organisation_id == own else "granted",
        "source": row.source,
        "network": row.network.hex(),
        "logits_sha256": row.logits_sha256.hex(),
        "alpha": row.alpha,
        "images": row.images,
        "readings": row.readings,
        "repeated": row.repeated,
        "units": row.units,
        "verdict": "attributed" if row.attributed else "not-attributed",
        "asked_at": utc(row.asked_at),
    }
