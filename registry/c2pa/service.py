"""From a soft binding or an image to the manifests of copies, under the disclosure rules of resolving.

    by_binding(home, principal, value)                   # [manifest id, ...], empty below alpha
    by_content(home, principal, image_bytes, model=None)
    manifest(home, principal, manifest_id)               # the manifest store, for whoever may resolve

A binding value under our algorithm is 32 bytes, as manifests carry it, or a query as JSON: the body of
``POST /api/v1/resolve``, whose readings the asker's own machine took.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Select, select

from registry.accounts.permissions import Principal
from registry.c2pa import manifests
from registry.c2pa.models import C2paManifest
from registry.errors import InputError, NotFoundError
from registry.generators.models import Model
from registry.home import Home
from registry.keys.models import UserKey
from registry.resolve import grants, service
from registry.resolve.requests import ResolveRequest

BINDING_BYTES = 32


def by_binding(home: Home, principal: Principal, value: str) -> list[str]:
    """Manifests bound to ``value`` (base64); :class:`InputError` where it is no value of our algorithm."""
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the value is not base64.", "Encode it with the standard alphabet.") from None
    if len(decoded) == BINDING_BYTES:
        return _bound(home, principal, decoded)
    try:
        asked = ResolveRequest.model_validate_json(decoded)
    except ValidationError:
        raise InputError(
            "the value is neither 32 bytes of a manifest's soft binding nor a query.",
            "See docs/c2pa.md for the form of queries.",
        ) from None
    try:
        return _manifest_ids(home, service.resolve(home, principal, asked.query()).named)
    except NotFoundError:
        return []


def by_content(home: Home, principal: Principal, data: bytes, model: str | None = None) -> list[str]:
    """Manifests of the copies that an image depends on; it is read here and not kept.

    Read for ``model`` or for every model that is open to the asker. :class:`verifier.errors.InputError` where
    the bytes are no image.
    """
    try:
        answers = service.resolve_image(home, principal, model, data)
    except NotFoundError:
        return []
    return _manifest_ids(home, [key for answer in answers for key in answer.named])


def manifest(home: Home, principal: Principal, manifest_id: str) -> bytes:
    """A manifest store; :class:`NotFoundError` unless its model is open to the asker."""
    query = _open(principal).where(C2paManifest.manifest_id == manifest_id)
    with home.database.read() as session:
        row = session.execute(query).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"there is no manifest {manifest_id}.", "Take the identifier from a match.")
    return manifests.read(home, row)


def _bound(home: Home, principal: Principal, binding: bytes) -> list[str]:
    query = _open(principal).where(C2paManifest.binding == binding)
    with home.database.read() as session:
        return [row.manifest_id for row in session.execute(query).scalars()]


def _open(principal: Principal) -> Select[Any]:
    """The manifests of models that are open to the asker."""
    models = grants.targets(principal.organisation).with_only_columns(Model.id)
    return (
        select(C2paManifest)
        .join(UserKey, UserKey.id == C2paManifest.user_key_id)
        .where(UserKey.model_id.in_(models))
    )


def _manifest_ids(home: Home, user_keys: Sequence[int]) -> list[str]:
    return [row.manifest_id for row in manifests.of(home, user_keys)]
