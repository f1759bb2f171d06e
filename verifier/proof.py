"""Proofs from the ledger in files, checked without the registry and without trusting it.

    entry = check_inclusion(read("proof.json"), trust="<registry id>")
    check_consistency(read("growth.json"), trust="<registry id>", seen=old_checkpoint)

``registry ledger prove`` and ``consistency`` write such files, ``/api/v1/ledger`` answers with the same
JSON. ``trust`` is the id of the registry that the reader means; a proof carries the public key of which the
id is the hash. ``seen`` is a checkpoint (signed note) that the reader kept from an earlier day.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import merkle, signing
from verifier.errors import InputError, TrustError

INCLUSION = "hallmark/inclusion/1"
CONSISTENCY = "hallmark/consistency/1"

Value = TypeVar("Value")


def read(path: Path | str) -> Any:
    """The JSON in the file at ``path``; :class:`InputError` where it cannot be read."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no proof can be read there ({error}).") from None


def read_note(path: Path | str) -> str:
    """The checkpoint in the file at ``path``; :class:`InputError` where it cannot be read."""
    try:
        return Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no checkpoint can be read there ({error}).") from None


def check_inclusion(
    document: Any, trust: str, record: signing.Document | None = None, seen: str | None = None
) -> int:
    """The index of the entry that is proved to be in the ledger of the registry ``trust``.

    ``record`` is the signed document that the entry must be of, such as a certificate. The tree is the one
    of ``seen`` where it is given, otherwise of the checkpoint in the proof. :class:`TrustError` says what
    does not hold.
    """
    key = _key(document, INCLUSION, trust)
    digest, index = _hex(document, "digest"), _field(document, "index", int)
    if record is not None and _digest(record) != digest:
        raise TrustError("the proof is of another record than this one.")
    head = _checkpoint(document, key, seen, trust)
    merkle.verify_inclusion(merkle.leaf_hash(digest), index, head.size, _path(document), head.root)
    return index


def check_consistency(document: Any, trust: str, seen: str) -> merkle.Checkpoint:
    """The newest checkpoint of the registry ``trust``, proved to extend the one ``seen`` before."""
    key = _key(document, CONSISTENCY, trust)
    old, new = _open(seen, key, trust), _checkpoint(document, key, None, trust)
    merkle.verify_consistency(old.size, new.size, _path(document), old.root, new.root)
    return new


def _digest(record: Any) -> bytes:
    try:
        return signing.digest(record)
    except (TypeError, ValueError) as error:
        raise TrustError(f"the record cannot be one that a registry signed: {error}.") from None


def _checkpoint(document: Any, key: Ed25519PublicKey, seen: str | None, trust: str) -> merkle.Checkpoint:
    head = _open(_field(document, "checkpoint", str) if seen is None else seen, key, trust)
    if head.size != _field(document, "size", int):
        raise TrustError(
            f"the proof is for another tree than the checkpoint's, which has {head.size} entries."
        )
    return head


def _open(note: str, key: Ed25519PublicKey, trust: str) -> merkle.Checkpoint:
    head = merkle.Checkpoint.open(note, key)
    if head.origin != f"hallmark/{trust}":
        raise TrustError(f"the checkpoint is of the ledger {head.origin}, not of the registry {trust}.")
    return head


def _key(document: Any, schema: str, trust: str) -> Ed25519PublicKey:
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise TrustError(f"this is no proof of {schema.split('/')[1]}: expected schema {schema}.")
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(document["public_key"], validate=True))
    except (KeyError, TypeError, ValueError):
        raise TrustError("the proof names no public key.") from None
    if signing.registry_id(key) != trust:
        raise TrustError(
            f"the proof is of the registry {signing.registry_id(key)}, not of {trust}.",
            "Get it from the registry that you trust.",
        )
    return key


def _path(document: Any) -> list[bytes]:
    return [_bytes(value, "proof") for value in _field(document, "proof", list)]


def _hex(document: Any, name: str) -> bytes:
    return _bytes(_field(document, name, str), name)


def _bytes(text: Any, name: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except (TypeError, ValueError):
        value = b""
    if len(value) != merkle.HASH_BYTES:
        raise TrustError(f"the proof's {name} holds something that is no hash.")
    return value


def _field(document: Any, name: str, kind: type[Value]) -> Value:
    value = document.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TrustError(f"the proof lacks its {name}.")
    return value
