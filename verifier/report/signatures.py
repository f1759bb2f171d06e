"""What a report's page says of its own signature; it stands outside of what is signed."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from verifier import dsse, signing
from verifier.dsse import Envelope
from verifier.errors import InputError, TrustError
from verifier.report.blocks import Block, Fact, Facts, Heading, Note
from verifier.report.statement import Report
from verifier.sealed import write_key


def new_key(path: Path, passphrase: str = "") -> str:
    """Write a new key pair for signing reports (:func:`verifier.sealed.write_key`), and return its key id."""
    key = Ed25519PrivateKey.generate()
    write_key(key, path, passphrase)
    return dsse.key_id(key.public_key())


def signature_block(envelope: Envelope, report: Report) -> list[Block]:
    """Who signed, and how to compare the key; a draft says that nobody did."""
    heading = Heading("Signature")
    if report.signer is None or not envelope.signatures:
        return [heading, Note("This is a draft: nobody signed it, and nobody answers for it.", "warning")]
    rows = [
        Fact("signed by", report.signer.name or "no name was given"),
        Fact("key", f"SHA-256 {fingerprint(report)}", code=True),
        Fact("signature", envelope.signatures[0].sig, code=True),
        Fact("kind", "Ed25519 over a DSSE envelope, which this file contains"),
    ]
    note = Note(
        "A page cannot vouch for itself. Check the signature with verifier report --check, and compare the "
        "key with what its holder tells you by another way."
    )
    return [heading, Facts(rows), note]


def fingerprint(report: Report) -> str:
    """The key id of whoever signed; :class:`InputError` where the report names no key."""
    return dsse.key_id(_key(report))


def verified(envelope: Envelope, report: Report) -> str:
    """The key id of whoever signed the report; :class:`TrustError` where the signature does not hold."""
    if report.signer is None or not envelope.signatures:
        raise TrustError("the report is not signed.", "It is a draft; ask its author for a signed one.")
    key = _key(report)
    try:
        dsse.verify(envelope, dsse.IN_TOTO, key)
    except TrustError as error:
        raise TrustError(f"the report was altered: {error}", error.hint) from None
    return dsse.key_id(key)


def _key(report: Report) -> Ed25519PublicKey:
    if report.signer is None:
        raise InputError("the report names no key.")
    try:
        return signing.load_public(report.signer.public_key)
    except ValueError:
        raise InputError("the report's signer has no Ed25519 key.", "It is damaged.") from None
