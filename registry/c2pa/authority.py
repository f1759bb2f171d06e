"""Who signs C2PA claims: a certificate authority of the registry's own and one signer below it.

    authority = Authority.open(home)
    authority.root_pem                                   # what validators take as their trust anchor
    authority.binding(key_id)                            # the blinded value of a copy's soft binding
    authority.sign(claim)                                # ES256, as C2PA wants it

Made when it is first needed. The private keys and the blinding secret are sealed under the master key.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sqlalchemy.exc import IntegrityError as DuplicateError

from registry.c2pa.models import C2paAuthority
from registry.db import unix_now
from registry.home import Home

ROOT_YEARS, SIGNER_YEARS = 20, 10
"""Manifests carry no time stamp of others, so they hold as long as the signer's certificate."""

C2PA_CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""c2pa-kp-claimSigning, C2PA specification 2.2, section 14.5.1.1."""

_ROW = 1
_HALF = 32  # bytes of r and of s in an ES256 signature


@dataclass(frozen=True)
class Authority:
    """The authority's certificates, its signer's key and the blinding secret."""

    root: x509.Certificate
    signer: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    blinding: bytes

    @classmethod
    def open(cls, home: Home) -> Authority:
        """The registry's authority; made if there is none yet."""
        with home.database.read() as session:
            row = session.get(C2paAuthority, _ROW)
        if row is None:
            row = _make(home)
            try:
                with home.database.write() as session:
                    session.add(row)
            except DuplicateError:  # another worker made it first
                return cls.open(home)
        key = load_der_private_key(home.master.open(row.sealed_signer_key, _purpose("signer")), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(
            x509.load_der_x509_certificate(row.root),
            x509.load_der_x509_certificate(row.signer),
            key,
            home.master.open(row.sealed_binding, _purpose("binding")),
        )

    @property
    def root_pem(self) -> str:
        """The trust anchor."""
        return self.root.public_bytes(Encoding.PEM).decode()

    @property
    def chain_pem(self) -> str:
        """The signer's certificate, as claims carry it."""
        return self.signer.public_bytes(Encoding.PEM).decode()

    def binding(self, key_id: bytes) -> bytes:
        """32 bytes that stand for a copy and tell nothing about it, its key or its recipient."""
        return hmac.digest(self.blinding, key_id, "sha256")

    def sign(self, claim: bytes) -> bytes:
        """ES256: r and s in 32 bytes each."""
        r, s = decode_dss_signature(self.key.sign(claim, ec.ECDSA(SHA256())))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def _make(home: Home) -> C2paAuthority:
    root_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name(f"Hallmark registry {home.identity.registry} C2PA root")
    root = (
        _certificate(issuer, issuer, root_key.public_key(), ROOT_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .sign(root_key, SHA256())
    )
    subject = _name(f"Hallmark registry {home.identity.registry} claim signer")
    purposes = [ExtendedKeyUsageOID.EMAIL_PROTECTION, C2PA_CLAIM_SIGNING]
    signer = (
        _certificate(subject, issuer, signer_key.public_key(), SIGNER_YEARS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, SHA256())
    )
    return C2paAuthority(
        id=_ROW,
        root=root.public_bytes(Encoding.DER),
        sealed_root_key=home.master.seal(_private(root_key), _purpose("root")),
        signer=signer.public_bytes(Encoding.DER),
        sealed_signer_key=home.master.seal(_private(signer_key), _purpose("signer")),
        sealed_binding=home.master.seal(os.urandom(32), _purpose("binding")),
        created_at=unix_now(),
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, years: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # for clocks that are behind
        .not_valid_after(now + timedelta(days=365 * years))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hallmark"),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _purpose(what: str) -> str:
    return f"c2pa/{what}"
