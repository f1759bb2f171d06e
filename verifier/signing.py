"""Signed JSON documents: one encoding and one signature rule for everything the registry states.

    document = sign({"schema": "hallmark/receipt/1", ...}, private_key)
    body = verify(document, public_key, schema="hallmark/receipt/1")

A document is a JSON object with a ``schema`` and, once signed, a ``signature`` (base64). Signed is
``schema || 0x0a || canonical(document without signature)`` with Ed25519 (RFC 8032), so that a
signature over one kind of document never passes for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier.errors import TrustError

Document = dict[str, Any]


class Signer(Protocol):
    """An Ed25519 key that signs, wherever its private half is; cryptography's private keys are such."""

    def public_key(self) -> Ed25519PublicKey:
        """The public half."""

    def sign(self, data: bytes, /) -> bytes:
        """The 64 bytes of the signature (RFC 8032)."""


def canonical(value: Any) -> bytes:
    """The one JSON encoding that is hashed and signed: sorted keys, no spaces, UTF-8, no floats.

    It agrees with RFC 8785 on objects, arrays, strings, integers, booleans and null with ASCII keys.
    Floats raise ``TypeError``: their text differs between implementations, so signed documents carry
    numbers that are not integers as strings.
    """
    _refuse_floats(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("a signed document cannot hold a float; write it as a string")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)


def digest(value: Any) -> bytes:
    """SHA-256 (32 bytes) of the canonical encoding of ``value``."""
    return hashlib.sha256(canonical(value)).digest()


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """The raw 32 bytes of a public key."""
    return key.public_bytes_raw()


def public_text(key: Ed25519PublicKey) -> str:
    """The public key as documents carry it: base64 of the raw 32 bytes."""
    return base64.b64encode(public_bytes(key)).decode()


def load_public(text: str) -> Ed25519PublicKey:
    """The inverse of :func:`public_text`; ``ValueError`` for anything else."""
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))


def registry_id(key: Ed25519PublicKey) -> str:
    """The registry's name in its documents: the first 16 bytes of SHA-256 of its public key, in hex."""
    return hashlib.sha256(public_bytes(key)).hexdigest()[:32]


def _message(document: Mapping[str, Any]) -> bytes:
    body = {name: value for name, value in document.items() if name != "signature"}
    return str(document["schema"]).encode() + b"\n" + canonical(body)


def sign(document: Mapping[str, Any], key: Signer) -> Document:
    """``document`` (which names its ``schema``) with its ``signature`` added."""
    signature = base64.b64encode(key.sign(_message(document))).decode()
    return {**document, "signature": signature}


def verify(document: Any, key: Ed25519PublicKey, schema: str) -> Document:
    """The document without its signature, or :class:`TrustError` saying what does not hold."""
    what = schema.split("/")[1] if "/" in schema else schema
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise TrustError(f"this is no {what}: expected schema {schema}")
    try:
        signature = base64.b64decode(document["signature"], validate=True)
        # Base64 of 64 bytes leaves 4 bits open; one signature has one text.
        if base64.b64encode(signature).decode() != document["signature"]:
            raise ValueError("the signature is not in canonical base64")
        key.verify(signature, _message(document))
    except (KeyError, TypeError, ValueError, binascii.Error, InvalidSignature):
        raise TrustError(
            f"the signature of the {what} does not hold under registry key {registry_id(key)}.",
            "It was altered, or another registry signed it.",
        ) from None
    return {name: value for name, value in document.items() if name != "signature"}
