"""Openings: in a dispute a registry discloses the bits of one key, and anyone can compute its verdict.

    opening = read(Path("opening.json"))                  # `registry key open KEY_ID`
    certificate = opening.verify("<registry id>")         # TrustError unless everything in it agrees

The document (schema ``hallmark/opening/1``) holds the signed certificate, the proof that it is in the
ledger, and phi and blinder, hex: ``SHA-256(tag || phi || blinder)`` is the certificate's commitment. It needs
no signature of its own: other bits than those that were issued cannot open the commitment. Whoever has it
can read and forge this one key's fingerprint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import phi, proof, signing
from verifier.certificate import Certificate
from verifier.errors import InputError, TrustError
from verifier.typed import load, parse_json

SCHEMA = "hallmark/opening/1"
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Opening:
    """One key, opened."""

    registry: str
    public_key: str
    certificate: dict[str, Any]
    inclusion: dict[str, Any]
    phi: str
    blinder: str

    def document(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def parse(cls, value: Any, name: str = "this") -> Opening:
        """From JSON; :class:`InputError` for anything else."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise InputError(
                f"{name} is no opening: expected schema {SCHEMA}.", "Give what `registry key open` wrote."
            )
        try:
            return load(cls, {key: item for key, item in value.items() if key != "schema"}, name)
        except ValueError as error:
            raise InputError(f"{error}.", "Give what `registry key open` wrote.") from None

    @property
    def key_id(self) -> str:
        """The key that it says it opens."""
        return str(self.certificate.get("key_id"))

    def verify(self, registry: str) -> Certificate:
        """The certificate, once everything in the document was found to agree under ``registry``'s key."""
        key = public_key(self.public_key, registry)
        certificate = Certificate.parse(self.certificate, key)
        proof.check_inclusion(self.inclusion, registry, self.certificate)
        check_commitment(self.phi, self.blinder, certificate)
        return certificate


def public_key(text: str, registry: str) -> Ed25519PublicKey:
    """The public key (base64) of the registry with this id; :class:`TrustError` if it is another's."""
    try:
        key = signing.load_public(text)
    except ValueError:
        raise TrustError("what stands for the registry's public key is no Ed25519 key.") from None
    if signing.registry_id(key) != registry:
        raise TrustError(f"the public key is that of registry {signing.registry_id(key)}, not of {registry}.")
    return key


def check_commitment(bits: str, blinder: str, certificate: Certificate) -> None:
    """:class:`TrustError` unless bits and blinder (hex) open the certificate's commitment."""
    try:
        packed, salt = bytes.fromhex(bits), bytes.fromhex(blinder)
    except ValueError:
        raise TrustError("the opened bits or their blinder are no hexadecimal digits.") from None
    if (len(packed), len(salt)) != (certificate.bits // 8, phi.BLINDER_BYTES):
        raise TrustError(f"the opened key has not {certificate.bits} bits and a blinder of 32 bytes.")
    if phi.commitment(packed, salt) != certificate.commitment:
        raise TrustError(
            f"the opened bits of key {certificate.key_id} do not match the commitment in its certificate.",
            "They are not the bits that the registry issued: do not rely on anything computed from them.",
        )


def read(path: Path) -> Opening:
    """The opening in a file; :class:`InputError` for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
        value = parse_json(content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} is no opening ({error}).", "Give what `registry key open` wrote.") from None
    return Opening.parse(value, str(path))
