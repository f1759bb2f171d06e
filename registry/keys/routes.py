"""Keys over HTTP: issuing, certificates, revocation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from flask import Response, current_app
from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from registry.accounts.permissions import Permission
from registry.api import repeats
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import WHOLE, Body, Email, KeyId, ModelLabel, Path, Reply, Text
from registry.keys import openings, service
from registry.keys.models import UserKey
from registry.keys.together import Together
from registry.serving.metrics import KEYS_ISSUED
from verifier.bundle import utc
from verifier.certificate import COPY_PREFIX

keys = APIBlueprint(
    "keys",
    __name__,
    url_prefix="/api/v1/keys",
    abp_tags=[Tag(name="keys", description="User keys: certificates of copies.")],
)

MOST_AT_ONCE = 1_000
"""Keys in one request: more are issued by more requests, or by `registry issue --count`."""


class KeyReply(Reply):
    """A key as lists show it."""

    key_id: str
    copy_id: str
    model: str
    recipient: str | None = Field(description="The address, for who may read recipients.")
    issued_at: str
    expires_at: str | None
    revoked_at: str | None
    ledger_index: int


class KeyPage(Reply):
    """Keys, newest first."""

    items: list[KeyReply]
    next: str | None


class CertificateReply(KeyReply):
    """A key with its signed certificate."""

    certificate: dict[str, Any]


class KeyQuery(PageQuery):
    """Which keys."""

    model: ModelLabel | None = None
    recipient: Email | None = None


class KeyPath(Path):
    """Which key: its key id or copy id."""

    key_id: KeyId


class NewKeys(Body):
    """Keys to issue: one copy each."""

    model: ModelLabel
    recipient: Email
    count: Annotated[int, Field(ge=1, le=MOST_AT_ONCE), WHOLE] = 1
    expires_days: Annotated[int, Field(ge=1, le=service.LONGEST_DAYS), WHOLE] | None = None


class IssuedReply(Reply):
    """Signed certificates, in ledger order."""

    certificates: list[dict[str, Any]]


class Revocation(Body):
    """Why a key is revoked. The reason may be personal and is not in the ledger."""

    reason: Text


class RevocationReply(Reply):
    """The signed revocation, as it is logged."""

    revocation: dict[str, Any]


class Reason(Body):
    """Why a key is opened: kept in the security log."""

    reason: Text


class OpeningReply(Reply):
    """An opened commitment, as `verifier report --check --opening` reads it."""

    schema_: Literal["hallmark/opening/1"] = Field(alias="schema")
    registry: str
    public_key: str
    certificate: dict[str, Any]
    inclusion: dict[str, Any]
    phi: str
    blinder: str


@keys.get("", responses={200: KeyPage, 404: problem("No such model or recipient")})
@requires(Permission.READ_KEYS)
def list_keys(query: KeyQuery) -> dict[str, Any]:
    """Keys of your organisation's models."""
    from registry.accounts import service as accounts
    from registry.generators import service as generators

    owner = principal().organisation
    chosen = service.select_keys(owner)
    with home().database.read() as session:
        if query.model is not None:
            chosen = chosen.where(UserKey.model_id == generators.get_model(session, query.model, owner).id)
        if query.recipient is not None:
            recipient = accounts.get_recipient(session, query.recipient, owner)
            chosen = chosen.where(UserKey.recipient_id == recipient.id)
        rows, more = page(session, chosen, UserKey.ledger_index, query)
        return {"items": [_describe(row) for row in rows], "next": more}


@keys.post(
    "", responses={201: IssuedReply, 404: problem("No such model or recipient"), 409: problem("Not ready")}
)
@requires(Permission.ISSUE)
def issue(header: repeats.RepeatHeader, body: NewKeys) -> Response:  # noqa: ARG001
    """Issue keys of one model to one recipient, all or none of them."""
    owner = principal().organisation

    def work(keep: repeats.Keep) -> str:
        answer = ""

        def draw() -> service.Batch:
            nonlocal answer
            issuer = service.Issuer.open(home(), body.model, body.recipient, owner)
            drawn = issuer.draw(body.count, body.expires_days)
            answer = json.dumps({"certificates": drawn.documents})
            return replace(drawn, also=repeats.keep_all, claim=keep.row(answer))

        together().issue(draw)
        KEYS_ISSUED.inc(body.count)
        return answer

    return repeats.once(home(), owner, 201, work)


@keys.get("/<key_id>", responses={200: CertificateReply})
@requires(Permission.READ_KEYS)
def show_key(path: KeyPath) -> dict[str, Any]:
    """One key with its certificate."""
    with home().database.read() as session:
        key = service.get_key(session, home().identity.registry, path.key_id, principal().organisation)
        row = session.execute(
            service.select_keys(principal().organisation).where(UserKey.id == key.row.id)
        ).one()
        return {**_describe(row), "certificate": key.document}


@keys.post("/<key_id>/revocation", responses={201: RevocationReply, 409: problem("It is revoked already")})
@requires(Permission.REVOKE)
def revoke(path: KeyPath, body: Revocation) -> tuple[dict[str, Any], int]:
    """Revoke a key: its copy is no longer delivered, and stays resolvable."""
    document = service.revoke(home(), path.key_id, body.reason, principal().organisation)
    return {"revocation": document}, 201


@keys.post("/<key_id>/opening", responses={200: OpeningReply})
@requires(Permission.OPEN_KEYS)
def open_key(path: KeyPath, body: Reason) -> dict[str, Any]:
    """Open a key's commitment: its bits and blinder, for a dispute. It is logged with its reason."""
    return openings.open_commitment(home(), path.key_id, body.reason, principal().organisation)


def _describe(row: Any) -> dict[str, Any]:
    key = row.UserKey
    named = Permission.READ_RECIPIENTS in principal().permissions
    return {
        "key_id": key.key_id.hex(),
        "copy_id": COPY_PREFIX + key.key_id.hex(),
        "model": f"{row.name}@{row.version}",
        "recipient": row.email if named else None,
        "issued_at": utc(key.issued_at),
        "expires_at": None if key.expires_at is None else utc(key.expires_at),
        "revoked_at": None if row.revoked_at is None else utc(row.revoked_at),
        "ledger_index": key.ledger_index,
    }


def together() -> Together:
    """The line in which this process's requests are committed."""
    line: Together = current_app.extensions.setdefault("hallmark_together", Together(home()))
    return line
