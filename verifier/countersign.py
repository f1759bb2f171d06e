"""Counter-signing: a recipient confirms, with his own key, the receipt of a delivery.

    document = countersign(receipt, load_private_key(Path("id_ed25519")))
    verify_countersignature(document, receipt, public_key)

The document of schema ``hallmark/countersignature/1`` names the receipt by its digest::

    {schema, registry, download_id, receipt, signature}

and is signed with the Ed25519 key whose public half the recipient gave to the registry. It holds nothing
personal: the receipt's ``recipient`` commits to that key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from verifier import signing
from verifier.errors import InputError, TrustError
from verifier.inspect import inspect_copy

SCHEMA = "hallmark/countersignature/1"
RECEIPT_SCHEMA = "hallmark/receipt/1"
_RECEIPT_FIELDS = ("registry", "download_id", "copy_id", "sha256", "bytes", "delivered_at", "signature")
_LARGEST_FILE = 64 * 1024


def countersign(receipt: signing.Document, key: Ed25519PrivateKey) -> signing.Document:
    """The signed confirmation of ``receipt``."""
    return signing.sign(unsigned(receipt), key)


def unsigned(receipt: signing.Document) -> dict[str, Any]:
    """What a recipient signs for ``receipt``."""
    return {
        "schema": SCHEMA,
        "registry": receipt["registry"],
        "download_id": receipt["download_id"],
        "receipt": signing.digest(receipt).hex(),
    }


def verify_countersignature(
    document: signing.Document, receipt: signing.Document, key: Ed25519PublicKey
) -> None:
    """:class:`TrustError` unless ``document`` confirms exactly this receipt under the recipient's key."""
    expected = unsigned(receipt)
    for field, value in expected.items():
        if document.get(field) != value:
            raise TrustError(f"this countersignature is for another receipt: its {field} is not {value}.")
    try:
        signing.verify(document, key, SCHEMA)
    except TrustError:
        raise TrustError(
            "the countersignature does not hold under the recipient's public key.",
            "Sign with the key whose public half the registry has.",
        ) from None


def compare_copy(folder: Path, receipt: signing.Document) -> None:
    """:class:`TrustError` unless ``receipt`` is for the copy in ``folder``, from the same registry.

    The receipt's signature is checked with the key that the copy carries.
    """
    found = inspect_copy(folder, trust=receipt["registry"])
    signing.verify(receipt, found.key, RECEIPT_SCHEMA)
    for field, value in (("copy_id", found.certificate.copy_id), ("sha256", found.digest)):
        if receipt.get(field) != value:
            raise TrustError(
                f"{folder} is not what the receipt says: its {field} is {value}, not {receipt.get(field)}.",
                "Do not confirm this receipt; ask the registry.",
            )


def load_receipt(path: Path) -> signing.Document:
    """The receipt in a file; :class:`InputError` for anything else."""
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise InputError(f"{path} is no JSON.", "Give the receipt that came with the copy.") from None
    if isinstance(document, dict) and isinstance(document.get("receipt"), dict):
        document = document["receipt"]  # as the registry's API answers
    if not isinstance(document, dict) or document.get("schema") != RECEIPT_SCHEMA:
        raise InputError(f"{path} is no receipt.", "Give the receipt that came with the copy.")
    if missing := [field for field in _RECEIPT_FIELDS if field not in document]:
        raise InputError(f"{path}: the receipt lacks {missing[0]}.", "Give it as the registry sent it.")
    return document


def load_private_key(path: Path, ask: Callable[[], str] = lambda: "") -> Ed25519PrivateKey:
    """The Ed25519 private key in ``path``, OpenSSH or PEM; ``ask`` gives the passphrase of an encrypted one.

    :class:`InputError` for anything else.
    """
    content = _read(path)
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else load_pem_private_key
    try:
        try:
            key = load(content, None)
        except TypeError:  # encrypted
            key = load(content, ask().encode())
    except UnsupportedAlgorithm as error:
        hint = "Encrypted OpenSSH keys need `pip install bcrypt`."
        raise InputError(f"{path}: the key cannot be read here ({error}).", hint) from None
    except (ValueError, TypeError):
        raise InputError(f"{path}: no private key, or another passphrase.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path}: a key of another kind than Ed25519.", "`verifier key new --signing` makes one."
        )
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
