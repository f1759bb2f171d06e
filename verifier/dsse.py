"""DSSE envelopes: a signature over bytes and their type, as in-toto and sigstore use it.

    envelope = sign(payload, IN_TOTO, private_key)
    payload = verify(envelope, IN_TOTO, public_key)       # TrustError where it does not hold

Protocol 1.0.2 (secure-systems-lab/dsse) with Ed25519: what is signed is the pre-authentication encoding
``"DSSEv1" SP len(type) SP type SP len(payload) SP payload``, lengths in bytes. A ``keyid`` is the SHA-256
(hex) of the public key's 32 bytes; it is a hint, and nothing depends on it.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import signing
from verifier.errors import InputError, TrustError
from verifier.typed import load

IN_TOTO = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Signature:
    """One signature (base64) and the hint of its key."""

    sig: str
    keyid: str = ""


@dataclass(frozen=True)
class Envelope:
    """A payload (base64), its type and its signatures: none, where nobody signed."""

    payload: str
    payloadType: str  # noqa: N815 - the standard's name
    signatures: list[Signature] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """The payload's bytes, verified or not."""
        return _decoded(self.payload)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, value: Any, name: str = "the envelope") -> Envelope:
        """From JSON; :class:`InputError` for anything else."""
        try:
            envelope = load(cls, value, name)
            _decoded(envelope.payload)
        except ValueError as error:
            raise InputError(f"{name} is no DSSE envelope: {error}.") from None
        return envelope


def encode(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding, of which the signature is made."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 (hex) of the raw public key: what people compare."""
    return hashlib.sha256(signing.public_bytes(key)).hexdigest()


def wrap(payload: bytes, payload_type: str) -> Envelope:
    """An envelope that nobody signed."""
    return Envelope(base64.b64encode(payload).decode(), payload_type)


def sign(payload: bytes, payload_type: str, key: signing.Signer) -> Envelope:
    """The envelope, signed by ``key``."""
    signature = base64.b64encode(key.sign(encode(payload_type, payload))).decode()
    return Envelope(
        base64.b64encode(payload).decode(), payload_type, [Signature(signature, key_id(key.public_key()))]
    )


def verify(envelope: Envelope, payload_type: str, key: Ed25519PublicKey) -> bytes:
    """The payload, if ``key`` signed it as this type; :class:`TrustError` otherwise."""
    if envelope.payloadType != payload_type:
        raise TrustError(f"the envelope holds {envelope.payloadType}, not {payload_type}.")
    payload = envelope.content
    if not envelope.signatures:
        raise TrustError("it is not signed.", "Ask its author for a signed one.")
    for signature in envelope.signatures:
        try:
            key.verify(_decoded(signature.sig), encode(payload_type, payload))
        except (InvalidSignature, ValueError):
            continue
        return payload
    raise TrustError(
        f"its signature does not hold under the key {key_id(key)}.",
        "It was altered, or another key signed it.",
    )


def _decoded(text: str) -> bytes:
    """Standard or URL-safe base64, as the protocol asks of readers; ``ValueError`` for anything else."""
    try:
        content = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (ValueError, UnicodeError):
        raise ValueError("something in it is no base64") from None
    return content
