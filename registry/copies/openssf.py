"""The OpenSSF model-signing signature (``model.sig``) that a copy carries beside Hallmark's own statement.

    content = signature(home, "copy-0123", {"model_index.json": "<sha256>", ...})
    public_key(home)                    # PEM, for `model_signing verify key FOLDER --public_key ...`

The package verifies elliptic-curve keys but not Ed25519, so the registry has a key of its own for this, on
P-256, made when it is first needed and sealed under the master key. The package is used for what is signed
and how it is enveloped; two things are done here, so that a rebuilt copy has the same ``model.sig``: its
payload is encoded canonically (protobuf's JSON orders keys anew in each process), and ECDSA is
deterministic (RFC 6979).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.exc import IntegrityError as DuplicateError
from sqlalchemy.orm import Session

from registry.copies.models import ModelSigningKey
from registry.db import unix_now
from registry.home import Home
from verifier import signing
from verifier.inspect import MODEL_SIGNATURE

_ONLY = 1
_PURPOSE = "model-signing-key"


def signature(home: Home, name: str, digests: Mapping[str, str]) -> bytes:
    """The content of ``model.sig`` for a folder of these files (path -> SHA-256 in hex)."""
    from google.protobuf import json_format
    from model_signing._signing import sign_sigstore_pb
    from model_signing._signing.signing import Payload
    from model_signing.hashing import hashing
    from model_signing.manifest import FileManifestItem, Manifest, SerializationType

    described = SerializationType.from_args(
        {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [MODEL_SIGNATURE],
        }
    )
    items = [
        FileManifestItem(path=PurePosixPath(path), digest=hashing.Digest("sha256", bytes.fromhex(sha256)))
        for path, sha256 in digests.items()
    ]
    statement = Payload(Manifest(name, items, described)).statement.pb
    payload = signing.canonical(json_format.MessageToDict(statement))
    private = _private_key(home)
    made = private.sign(sign_sigstore_pb.pae(payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return signing.canonical(_bundle(payload, made, _pem(private.public_key()))) + b"\n"


def public_key(home: Home) -> bytes:
    """The public key, PEM."""
    return _pem(_private_key(home).public_key())


def _bundle(payload: bytes, made: bytes, pem: bytes) -> dict[str, Any]:
    """A Sigstore bundle 0.3 with a DSSE envelope, as model-signing reads it."""
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64.b64encode(made).decode(), "keyid": ""}],
        },
    }


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _private_key(home: Home) -> ec.EllipticCurvePrivateKey:
    with home.database.read() as session:
        row = session.get(ModelSigningKey, _ONLY)
    if row is None:
        try:
            with home.database.write() as session:
                row = _create(session, home)
        except DuplicateError:  # another process made it at the same moment
            with home.database.read() as session:
                row = session.get_one(ModelSigningKey, _ONLY)
    key = serialization.load_der_private_key(home.master.open(row.sealed, _PURPOSE), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _create(session: Session, home: Home) -> ModelSigningKey:
    private = ec.generate_private_key(ec.SECP256R1())
    secret = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    row = ModelSigningKey(
        id=_ONLY,
        public_key=_pem(private.public_key()),
        sealed=home.master.seal(secret, _PURPOSE),
        created_at=unix_now(),
    )
    session.add(row)
    return row
