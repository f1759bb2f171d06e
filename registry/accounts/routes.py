"""Recipients over HTTP."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy import select

from registry.accounts import service
from registry.accounts.models import Recipient
from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import Base64Key, Body, Email, Path, Reply

recipients = APIBlueprint(
    "recipients",
    __name__,
    url_prefix="/api/v1/recipients",
    abp_tags=[Tag(name="recipients", description="Who receives copies.")],
)


class RecipientReply(Reply):
    """A recipient."""

    email: str
    public_key: str | None = Field(description="Ed25519, base64 of 32 bytes.")
    created_at: str


class RecipientPage(Reply):
    """Recipients, newest first."""

    items: list[RecipientReply]
    next: str | None


class NewRecipient(Body):
    """A recipient to add."""

    email: Email
    public_key: Base64Key | None = Field(None, description="Ed25519, base64 of 32 bytes.")


class ErasedReply(Reply):
    """What stands for an erased recipient, and what of his was touched."""

    email: str
    copies: int
    links_withdrawn: int
    downloads_cleared: int


class RecipientPath(Path):
    """Which recipient."""

    email: Email


@recipients.get("", responses={200: RecipientPage})
@requires(Permission.READ_RECIPIENTS)
def list_recipients(query: PageQuery) -> dict[str, Any]:
    """Recipients of your organisation."""
    chosen = select(Recipient).where(Recipient.organisation_id == principal().organisation)
    with home().database.read() as session:
        rows, more = page(session, chosen, Recipient.id, query)
        return {"items": [service.describe(row) for row in rows], "next": more}


@recipients.post("", responses={201: RecipientReply, 409: problem("The address is registered already")})
@requires(Permission.WRITE_RECIPIENTS)
def add_recipient(body: NewRecipient) -> tuple[dict[str, Any], int]:
    """Add a recipient to your organisation."""
    key = None if body.public_key is None else service.raw_public_key(base64.b64decode(body.public_key))
    with home().database.write() as session:
        added = service.add_recipient(session, body.email, key, principal().organisation)
        return service.describe(added), 201


@recipients.get("/<email>", responses={200: RecipientReply})
@requires(Permission.READ_RECIPIENTS)
def show_recipient(path: RecipientPath) -> dict[str, Any]:
    """One recipient of your organisation."""
    with home().database.read() as session:
        return service.describe(service.get_recipient(session, path.email, principal().organisation))


@recipients.delete("/<email>", responses={200: ErasedReply, 409: problem("He was erased already")})
@requires(Permission.MANAGE_PEOPLE)
def erase_recipient(path: RecipientPath) -> dict[str, Any]:
    """Erase who a recipient is, for good: his copies stay valid and resolvable, and nobody can name him."""
    from registry.copies import erasure

    return asdict(erasure.erase(home(), path.email, principal().organisation))
