"""C2PA manifests of copies: what made an image that is bound to them.

    manifests.of(home, [user_key_id])                    # rows, built where they are missing
    manifests.read(home, row)                            # the manifest store, application/c2pa

A manifest says: created by trained algorithmic media, by this model, and bound by our algorithm to images
whose fingerprint resolves to this value. It is about a copy and not about one image, so there is no file
whose bytes it could be bound to as well; its hard binding covers the binding value as text, from which
anybody can validate it. It holds neither key nor recipient.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import c2pa
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as DuplicateError

from registry.accounts.models import Organisation
from registry.c2pa.authority import Authority
from registry.c2pa.models import C2paManifest
from registry.db import unix_now
from registry.generators.models import Model
from registry.home import Home
from registry.keys.models import UserKey

ALGORITHM = "org.hallmark.latent.1"
"""The name of our soft binding; an operator of a public service registers one with C2PA."""

CREATED_BY_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ASSET_TYPE = "text/plain"


def of(home: Home, user_keys: Sequence[int]) -> list[C2paManifest]:
    """The manifests of some copies in that order."""
    with home.database.read() as session:
        query = select(C2paManifest).where(C2paManifest.user_key_id.in_(user_keys))
        built = {row.user_key_id: row for row in session.execute(query).scalars()}
    return [built.get(key) or _build(home, key) for key in user_keys]


def read(home: Home, row: C2paManifest) -> bytes:
    """The manifest store."""
    return home.storage.read(_name(row.sha256))


def asset(binding: bytes) -> bytes:
    """The bytes that a manifest's hard binding covers: the binding value, base64."""
    return base64.b64encode(binding)


def definition(model: Model, distributor: str, registry: str, binding: bytes) -> dict[str, Any]:
    """The claim as c2pa-python's builder takes it."""
    return {
        "claim_generator_info": [{"name": "Hallmark registry", "version": version("hallmark")}],
        "title": f"Image made by a copy of {model.label}",
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": CREATED_BY_MODEL,
                            "softwareAgent": {"name": model.name, "version": str(model.version)},
                        }
                    ]
                },
            },
            {
                "label": "c2pa.soft-binding",
                "data": {
                    "alg": ALGORITHM,
                    "blocks": [{"scope": {}, "value": base64.b64encode(binding).decode()}],
                },
            },
            {
                "label": "org.hallmark.model",
                "data": {
                    "registry": registry,
                    "distributor": distributor,
                    "name": model.name,
                    "version": model.version,
                    "digest": model.digest_text,
                },
            },
        ],
    }


def settings(authority: Authority) -> dict[str, Any]:
    """The library's settings: our root is trusted, nothing is fetched, no picture is added."""
    return {
        "trust": {"trust_anchors": authority.root_pem},
        "verify": {"verify_trust": True, "ocsp_fetch": False, "remote_manifest_fetch": False},
        "builder": {"thumbnail": {"enabled": False}},
    }


def _build(home: Home, user_key: int) -> C2paManifest:
    authority = Authority.open(home)
    with home.database.read() as session:
        key_id, model, distributor = session.execute(
            select(UserKey.key_id, Model, Organisation.name)
            .join(Model, Model.id == UserKey.model_id)
            .join(Organisation, Organisation.id == Model.organisation_id)
            .where(UserKey.id == user_key)
        ).one()
    binding = authority.binding(key_id)
    store, label = _sign(
        authority, definition(model, distributor, home.identity.registry, binding), asset(binding)
    )
    sha256 = hashlib.sha256(store).digest()
    home.storage.put_bytes(_name(sha256), store)
    row = C2paManifest(
        user_key_id=user_key, manifest_id=label, binding=binding, sha256=sha256, built_at=unix_now()
    )
    try:
        with home.database.write() as session:
            session.add(row)
    except DuplicateError:  # another worker built it at the same moment: its manifest counts
        with home.database.read() as session:
            return session.get_one(C2paManifest, user_key)
    return row


def _sign(authority: Authority, claim: dict[str, Any], covered: bytes) -> tuple[bytes, str]:
    """The signed manifest store, which is not embedded in anything, and the manifest's C2PA identifier."""
    with c2pa.Context.from_dict(settings(authority)) as context:
        signer = c2pa.Signer.from_callback(
            authority.sign, c2pa.C2paSigningAlg.ES256, authority.chain_pem, None
        )
        with signer, c2pa.Builder(claim, context=context) as builder:
            builder.set_no_embed()
            store = builder.sign(signer, ASSET_TYPE, io.BytesIO(covered), io.BytesIO())
        with c2pa.Reader(ASSET_TYPE, io.BytesIO(covered), store, context=context) as reader:
            return store, str(reader.get_active_manifest()["label"])


def _name(sha256: bytes) -> str:
    return f"c2pa/{sha256.hex()}.c2pa"
