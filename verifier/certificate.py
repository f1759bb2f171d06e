"""Certificates: the registry's signed statement of who received which copy.

    certificate = Certificate.parse(document, registry_public_key)
    certificate.copy_id, certificate.model.name, certificate.recipient

The document (schema ``hallmark/certificate/1``) is a signed JSON object as in :mod:`verifier.signing`.
It names the recipient and the key by commitments only, so it can be published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import signing
from verifier.errors import TrustError

SCHEMA = "hallmark/certificate/1"
COPY_PREFIX = "copy-"


@dataclass(frozen=True)
class ModelReference:
    """A registered model: its name, version and the digest of its base weights (``sha256:<hex>``)."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class Certificate:
    """One key and its copy. Times are UTC, ``YYYY-MM-DDTHH:MM:SSZ``; digests are lower-case hex."""

    registry: str
    key_id: str
    model: ModelReference
    basis: str
    scheme: str
    bits: int
    redraws: int
    recipient: str
    commitment: str
    issued_at: str
    expires_at: str | None

    @property
    def copy_id(self) -> str:
        """A key belongs to exactly one copy, so the copy's id is the key's with a prefix."""
        return COPY_PREFIX + self.key_id

    def document(self) -> signing.Document:
        """The unsigned document."""
        return {
            "schema": SCHEMA,
            "registry": self.registry,
            "key_id": self.key_id,
            "copy_id": self.copy_id,
            "model": {
                "name": self.model.name,
                "version": self.model.version,
                "digest": self.model.digest,
            },
            "basis": self.basis,
            "scheme": self.scheme,
            "bits": self.bits,
            "redraws": self.redraws,
            "recipient": self.recipient,
            "commitment": self.commitment,
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
        }

    def sign(self, key: signing.Signer) -> signing.Document:
        """The signed document, the same bytes every time (Ed25519 is deterministic)."""
        return signing.sign(self.document(), key)

    @classmethod
    def parse(cls, document: Any, key: Ed25519PublicKey) -> Certificate:
        """Verify ``document`` under the registry's ``key``; :class:`TrustError` where it does not hold."""
        body = signing.verify(document, key, SCHEMA)
        try:
            fields = {name: body[name] for name in cls.__dataclass_fields__}
            certificate = cls(**{**fields, "model": ModelReference(**body["model"])})
        except (KeyError, TypeError) as error:
            raise TrustError(f"the certificate lacks or misnames a field: {error}") from None
        if certificate.document() != body:
            raise TrustError("the certificate holds fields that its schema does not define")
        return certificate


def normal_key_id(text: str) -> str:
    """The key id in ``text``, which may be a key id or a copy id; ``ValueError`` for anything else."""
    key_id = text.removeprefix(COPY_PREFIX).lower()
    if len(key_id) != 24 or any(c not in "0123456789abcdef" for c in key_id):
        raise ValueError(f"{text!r} is no key id (24 hexadecimal digits) and no copy id")
    return key_id


def leaf(document: signing.Document) -> bytes:
    """What the ledger logs for a signed document: the SHA-256 of its canonical bytes (32 bytes)."""
    return signing.digest(document)
