"""Bundles over HTTP: composed for whoever asks, kept nowhere."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from registry.accounts import security
from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.files import attachment
from registry.api.problems import Problem
from registry.api.schemas import WHOLE, Base64Key, Body, ModelLabel
from registry.bundles import service

MEDIA_TYPE = "application/vnd.hallmark.bundle+zip"
LONGEST_DAYS = 366
MOST_AUDITORS = 16
EXPORTED_KEYS = "bundle.keys-exported"

bundles = APIBlueprint(
    "bundles",
    __name__,
    url_prefix="/api/v1/bundles",
    abp_tags=[Tag(name="bundles", description="What verifiers need to read images offline.")],
)


class BundleRequest(Body):
    """What goes into a bundle. One with keys is for authorised auditors only: it is secret."""

    model: Annotated[ModelLabel | None, Field(description="Only this model; all of yours if empty.")] = None
    keys: Annotated[
        Literal["none", "pseudonymous", "with-recipients"],
        Field(description="Whether the key table goes in, and with it whose keys they are."),
    ] = "none"
    expires_days: Annotated[int, Field(ge=1, le=LONGEST_DAYS), WHOLE] = 30
    auditors: Annotated[
        list[Base64Key],
        Field(
            default_factory=list,
            max_length=MOST_AUDITORS,
            description="X25519 public keys, base64 of 32 bytes: the key table is encrypted to them.",
        ),
    ]


@bundles.post(
    "",
    responses={
        200: {
            "description": "The bundle",
            "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        404: problem("No such model"),
        409: problem("No model is trained"),
    },
)
@requires(Permission.EXPORT_BUNDLES)
def export_bundle(body: BundleRequest) -> Response:
    """Export a bundle of your organisation's models. Key tables of millions are quicker as files of a
    `registry bundle export`."""
    options = service.BundleOptions(
        with_keys=body.keys != "none",
        with_recipients=body.keys == "with-recipients",
        model=body.model,
        organisation=principal().organisation,
        expires_days=body.expires_days,
        auditors=[_auditor(key) for key in body.auditors],
    )
    if options.auditors and not options.with_keys:
        raise Problem(409, "there is nothing for auditors in a bundle without keys.", "Choose `keys` too.")
    with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
        path = Path(folder) / "hallmark.bundle"
        service.export(home(), path, options)
        size, file = path.stat().st_size, path.open("rb")  # which outlives its name
    if options.with_keys:
        with home().database.write() as session:
            security.record(session, EXPORTED_KEYS, model=body.model, keys=body.keys)
    return attachment(file, size, MEDIA_TYPE, "hallmark.bundle")


def _auditor(text: str) -> X25519PublicKey:
    """An auditor's key; one of the few points with which no secret can be agreed on is refused."""
    key = X25519PublicKey.from_public_bytes(base64.b64decode(text))
    try:
        X25519PrivateKey.generate().exchange(key)
    except ValueError:
        raise Problem(
            409, "one of `auditors` is no key that anybody holds.", "Ask the auditor again."
        ) from None
    return key
