"""Inspecting a copy: whose it is by its certificate, and whether a single byte was changed.

    inspection = inspect_copy("copies/alice")             # a folder, or one .safetensors file of it
    inspection.certificate.copy_id, inspection.complete

A copy is a folder with ``hallmark.json`` at its top, a signed document of schema ``hallmark/copy/1``::

    {schema, registry, public_key, certificate, files: {path: {"sha256", "size"}}, signature}

which lists every other file but ``model.sig``, written as JSON with sorted keys, an indentation of 2 and
a final newline (so that not even a blank can be changed). The copy's digest is the SHA-256 of the
canonical JSON of ``files``. ``.safetensors`` files also hold the certificate and the public key in their
metadata, so that one file that was passed on alone still tells whose it is; what it cannot tell is whether
it was altered, for the digests are in ``hallmark.json``. ``model.sig`` signs the whole folder once more, in
the form of OpenSSF model-signing; it is checked with that project's own tool, and a copy is sound without it.

The public key travels with the copy. So a copy that is consistent in itself may still be of a registry
that nobody knows: pin the registry's id to exclude that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verifier import signing
from verifier.bundle import Bundle
from verifier.certificate import Certificate
from verifier.errors import InputError, TrustError

SCHEMA = "hallmark/copy/1"
INSPECTION_SCHEMA = "hallmark/inspection/1"
MANIFEST = "hallmark.json"
MODEL_SIGNATURE = "model.sig"
CERTIFICATE_METADATA = "hallmark.certificate"
PUBLIC_KEY_METADATA = "hallmark.public_key"

_HEADER_LIMIT = 100 << 20  # as the safetensors library limits it
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Inspection:
    """What a copy says of itself, verified.

    ``key`` is the registry's, as the copy carries it. ``digest`` is the copy's (hex), None for a single
    file; ``files`` the number of files compared. ``pinned`` says whether the registry was given from
    outside. ``revoked`` and ``delivered`` need a bundle and are None without (``delivered``: the digest is
    that of the recorded delivery).
    """

    path: str
    certificate: Certificate
    key: Ed25519PublicKey
    digest: str | None
    files: int
    pinned: bool
    revoked: bool | None
    delivered: bool | None

    @property
    def complete(self) -> bool:
        """Whether the whole copy was compared, not just one file's certificate."""
        return self.digest is not None

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/inspection/1``."""
        certificate = self.certificate
        return {
            "schema": INSPECTION_SCHEMA,
            "path": self.path,
            "copy_id": certificate.copy_id,
            "key_id": certificate.key_id,
            "registry": certificate.registry,
            "pinned": self.pinned,
            "model": vars(certificate.model),
            "basis": certificate.basis,
            "scheme": certificate.scheme,
            "bits": certificate.bits,
            "recipient_commitment": certificate.recipient,
            "issued_at": certificate.issued_at,
            "expires_at": certificate.expires_at,
            "complete": self.complete,
            "files": self.files,
            "digest": self.digest,
            "revoked": self.revoked,
            "delivered": self.delivered,
        }


def copy_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest (hex) of a copy from its ``{path: {"sha256", "size"}}``."""
    return signing.digest({path: dict(entry) for path, entry in files.items()}).hex()


def inspect_copy(path: Path | str, trust: str | None = None, bundle: Bundle | None = None) -> Inspection:
    """Verify the copy at ``path``: a folder, its ``hallmark.json``, or one ``.safetensors`` file.

    ``trust`` pins the registry by its id, ``bundle`` by its key. :class:`InputError` where there is no copy,
    :class:`TrustError` naming the file where something was altered, added or removed.
    """
    path = Path(path)
    if path.name == MANIFEST and path.is_file():
        path = path.parent
    if path.is_dir():
        certificate, key, digest, files = _inspect_folder(path)
    elif path.is_file():
        certificate, key, digest, files = *_inspect_file(path), None, 1
    else:
        raise InputError(f"there is no copy at {path}.", "Give the copy's folder or a .safetensors file.")
    expected = trust or (bundle.registry if bundle else None)
    if expected is not None and signing.registry_id(key) != expected:
        raise TrustError(
            f"{path} is signed by registry {signing.registry_id(key)}, not by {expected}.",
            "It is not a copy of the registry you trust.",
        )
    return Inspection(
        path=str(path),
        certificate=certificate,
        key=key,
        digest=digest,
        files=files,
        pinned=expected is not None,
        revoked=certificate.key_id in bundle.revocations if bundle else None,
        delivered=_delivered(bundle, certificate, digest) if bundle and digest else None,
    )


def _inspect_folder(folder: Path) -> tuple[Certificate, Ed25519PublicKey, str, int]:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(
            f"{folder} holds no {MANIFEST}, so it is no complete copy.",
            "Give one of its .safetensors files to see the certificate alone.",
        )
    try:
        raw = manifest.read_bytes()
        document = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise TrustError(f"{manifest} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise TrustError(f"{manifest} is no signed document")
    try:
        key = _public_key(document.get("public_key"))
        body = signing.verify(document, key, SCHEMA)
        certificate = _certificate(body.get("certificate"), key, body.get("registry"))
    except TrustError as error:
        raise TrustError(f"{manifest}: {error}", error.hint) from None
    if raw != json.dumps(document, indent=2, sort_keys=True).encode() + b"\n":
        raise TrustError(f"{manifest} was altered: it is not in the form that registries write")
    files = body.get("files")
    if not isinstance(files, dict):
        raise TrustError(f"{manifest} lists no files")
    _compare_files(folder, files)
    return certificate, key, copy_digest(files), len(files)


def _compare_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Every listed file is there with its digest, and no other; :class:`TrustError` naming the first."""
    try:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        found -= {MANIFEST, MODEL_SIGNATURE} - files.keys()
        if missing := sorted(files.keys() - found):
            raise TrustError(
                f"{folder} lacks {missing[0]}, which {MANIFEST} lists.", "The copy is incomplete."
            )
        if extra := sorted(found - files.keys()):
            raise TrustError(f"{folder} holds {extra[0]}, which {MANIFEST} does not list.")
        for name, entry in sorted(files.items()):
            sha256, size = _hash_file(folder / name)
            if entry != {"sha256": sha256, "size": size}:
                raise TrustError(
                    f"{folder / name} was altered: its SHA-256 {sha256} is not the one in {MANIFEST}."
                )
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}.") from None


def _hash_file(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _inspect_file(path: Path) -> tuple[Certificate, Ed25519PublicKey]:
    metadata = read_metadata(path)
    if CERTIFICATE_METADATA not in metadata:
        raise InputError(
            f"{path} carries no Hallmark certificate.",
            "It is not from a copy, or its metadata was removed; `registry trace` tells by the weights.",
        )
    try:
        key = _public_key(metadata.get(PUBLIC_KEY_METADATA))
        document = json.loads(metadata[CERTIFICATE_METADATA])
        return _certificate(document, key, signing.registry_id(key)), key
    except (ValueError, RecursionError):
        raise TrustError(f"{path}: the certificate in its metadata is no JSON") from None
    except TrustError as error:
        raise TrustError(f"{path}: {error}", error.hint) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file (https://github.com/huggingface/safetensors#format)."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = struct.unpack("<Q", head)[0] if len(head) == 8 else _HEADER_LIMIT + 1
            header = json.loads(file.read(size)) if size <= _HEADER_LIMIT else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(
            f"{path} is no safetensors file.",
            "Give the copy's folder or a .safetensors file; `registry trace` reads other formats.",
        )
    metadata = header.get("__metadata__", {})
    return {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


def _public_key(text: Any) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise TrustError("the registry's public key is missing or damaged") from None


def _certificate(document: Any, key: Ed25519PublicKey, registry: Any) -> Certificate:
    """The certificate, signed by ``key``, whose registry (and the copy's) is the key's own."""
    certificate = Certificate.parse(document, key)
    if not certificate.registry == registry == signing.registry_id(key):
        raise TrustError(f"it names registry {registry}, but its key is that of {signing.registry_id(key)}")
    return certificate


def _delivered(bundle: Bundle, certificate: Certificate, digest: str) -> bool | None:
    """Whether the copy is byte for byte the one recorded as delivered; None where nothing is recorded."""
    for model in bundle.models:
        if model.digest != certificate.model.digest or not (bundle.has_keys(model) and bundle.readable):
            continue
        bundle.verify()
        records = bundle.records(model)
        (rows,) = (records["key_id"] == bytearray.fromhex(certificate.key_id)).all(axis=1).nonzero()
        if len(rows):
            recorded = records[rows[0]]["copy_sha256"].tobytes()
            return recorded.hex() == digest if any(recorded) else None
    return None
