"""Signed notes (C2SP signed-note): a text with the signatures of one or more named keys below it.

    note = sign("example.org/log\n7\n...\n", "example.org/log", private_key)
    text = verify(note, "example.org/log", public_key)

The Go module golang.org/x/mod/sumdb/note, whose verifier keys :func:`verifier_key` writes, reads what this
writes and the other way round. Signatures are of type 1: Ed25519 over the text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import signing
from verifier.errors import TrustError

MOST_SIGNATURES = 100
"""Signatures in a note; a verifier must accept 16 at least, Go's accepts 100."""

_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_LINE = re.compile(r"\u2014 ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """The first 4 bytes of ``SHA-256(name || 0x0a || signature type || public key)``."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + signing.public_bytes(key)).digest()[
        :_KEY_ID_BYTES
    ]


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """The key as text, as other programs take it: ``name+hex(key id)+base64(signature type || key)``."""
    encoded = base64.b64encode(_ED25519 + signing.public_bytes(key)).decode()
    return f"{name}+{key_id(name, key).hex()}+{encoded}"


def sign(text: str, name: str, signer: signing.Signer) -> str:
    """The note of ``text``, signed; ``ValueError`` for a text or name that no note can hold."""
    signature = key_id(name, signer.public_key()) + signer.sign(text.encode())
    line = f"\u2014 {name} {base64.b64encode(signature).decode()}"
    if not text.endswith("\n") or _CONTROL.search(text) or not _LINE.fullmatch(line):
        raise ValueError(f"no note can hold the text {text!r} signed by {name!r}")
    return f"{text}\n{line}\n"


def verify(note: str, name: str, key: Ed25519PublicKey) -> str:
    """The text of a note that ``key`` signed under ``name``.

    Signatures of other keys are ignored. :class:`TrustError` where the note is malformed, is not signed by
    the key, or any signature that claims to be the key's does not hold.
    """
    head, separator, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not separator or lines.pop() != "" or not 0 < len(lines) <= MOST_SIGNATURES or _CONTROL.search(note):
        raise TrustError("this is no signed note: it was cut, or altered.")
    text, own = head + "\n", key_id(name, key)
    signed = False
    for line in lines:
        signer, signature = _parse(line)
        if signer == name and signature[:_KEY_ID_BYTES] == own:
            _check(text, signature[_KEY_ID_BYTES:], key, name)
            signed = True
    if not signed:
        raise TrustError(f"the note is not signed by the key of {name}.", "Another registry signed it.")
    return text


def _parse(line: str) -> tuple[str, bytes]:
    """The signer's name, and the key id with the signature."""
    found = _LINE.fullmatch(line)
    try:
        signature = base64.b64decode(found[2], validate=True) if found else b""
    except binascii.Error:
        signature = b""
    if found is None or len(signature) <= _KEY_ID_BYTES:
        raise TrustError("a signature line of the note is malformed: it was altered.")
    return found[1], signature


def _check(text: str, signature: bytes, key: Ed25519PublicKey, name: str) -> None:
    try:
        key.verify(signature, text.encode())
    except (InvalidSignature, UnicodeEncodeError):
        raise TrustError(
            f"the signature of {name} on the note does not hold.",
            "It was altered, or another registry signed it.",
        ) from None
