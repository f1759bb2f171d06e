"""Key tables that only auditors can read: HPKE (RFC 9180) for the key of a file, and the file in chunks.

    sealing = Sealing.to([auditor_public_key])
    sealing.envelope()                                    # the file key, sealed to each auditor
    sealing.seal("models/flowers/keys/phi.bin", content)  # encrypted while it is written
    opening = Opening.of(envelope, auditor_private_key)
    opening.open("models/flowers/keys/phi.bin", sealed)   # the content, in memory that no file backs

HPKE in base mode (DHKEM X25519, HKDF-SHA-256, AES-256-GCM) seals 32 random bytes to each auditor's key. Of
these each member has a key of its own, ``HKDF-SHA-256(file key, info = schema || space || name)``, so that no
member passes for another. A member is cut into chunks of 1 MiB, each sealed with AES-256-GCM whose nonce
counts the chunks and marks the last one: the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár,
2015). Who sealed it is not said here, but by the bundle's signature, which covers the sealed bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from verifier.archive import Chunks
from verifier.errors import InputError, TrustError

SCHEMA = "hallmark/sealed-keys/1"
CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
_KEY_BYTES = 32
_LARGEST_FILE = 64 * 1024


def key_id(key: X25519PublicKey) -> str:
    """What a key is called: the first 16 bytes of SHA-256 of its raw form, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


@dataclass(frozen=True)
class Sealing:
    """A file key and the auditors who will have it."""

    file_key: bytes
    auditors: Sequence[X25519PublicKey]

    @classmethod
    def to(cls, auditors: Sequence[X25519PublicKey]) -> Sealing:
        """A fresh file key for these auditors."""
        return cls(os.urandom(_KEY_BYTES), auditors)

    def envelope(self) -> dict[str, Any]:
        """The file key, sealed to each auditor."""
        sealed = [
            (key_id(key), _suite().encrypt(self.file_key, key, SCHEMA.encode())) for key in self.auditors
        ]
        entries = [{"key": name, "sealed": base64.b64encode(content).decode()} for name, content in sealed]
        return {"schema": SCHEMA, "auditors": entries}

    def seal(self, name: str, content: bytes | memoryview) -> Chunks:
        """The member ``name``, encrypted chunk by chunk while it is written."""
        view = memoryview(content)
        return Chunks(sealed_size(len(view)), seal_chunks(_member(self.file_key, name), view))


@dataclass(frozen=True)
class Opening:
    """The file key, as an auditor got it."""

    file_key: bytes

    @classmethod
    def of(cls, envelope: Any, key: X25519PrivateKey) -> Opening:
        """:class:`TrustError` where it is sealed to others, or does not open."""
        own = key_id(key.public_key())
        try:
            if envelope["schema"] != SCHEMA:
                raise ValueError(f"expected schema {SCHEMA}")
            sealed = {
                entry["key"]: base64.b64decode(entry["sealed"], validate=True)
                for entry in envelope["auditors"]
            }
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise TrustError(f"the envelope of the key table cannot be used: {error}.") from None
        if own not in sealed:
            raise TrustError(
                f"the key table is encrypted to {', '.join(sealed)}, not to this key ({own}).",
                "Use the key whose public half you gave to the registry, or ask for another bundle.",
            )
        try:
            return cls(_suite().decrypt(sealed[own], key, SCHEMA.encode()))
        except (InvalidTag, ValueError):
            raise _damaged("the envelope of the key table") from None

    def open(self, name: str, sealed: memoryview) -> memoryview:
        """The member's content in anonymous memory: in no file, and on Linux in no core dump either.

        :class:`TrustError` where a chunk was altered, left out, moved or cut off.
        """
        count = -(-len(sealed) // (CHUNK_BYTES + TAG_BYTES))
        size = len(sealed) - count * TAG_BYTES
        if count == 0 or size < 0:
            raise _damaged(name)
        memory = private_memory(size)
        try:
            open_chunks(_member(self.file_key, name), sealed, memory)
        except (InvalidTag, ValueError):
            raise _damaged(name) from None
        return memory.toreadonly()


def private_memory(size: int) -> memoryview:
    """Anonymous memory, on Linux in no core dump."""
    if not size:
        return memoryview(bytearray())
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_DONTDUMP"):
        memory.madvise(mmap.MADV_DONTDUMP)
    return memoryview(memory)


def sealed_size(size: int) -> int:
    """Bytes that :func:`seal_chunks` makes of so many."""
    return size + max(1, -(-size // CHUNK_BYTES)) * TAG_BYTES


def seal_chunks(cipher: AESGCM, content: memoryview) -> Iterator[bytes]:
    """The content, chunk by chunk; a ``cipher`` seals one content only."""
    count = max(1, -(-len(content) // CHUNK_BYTES))
    for number in range(count):
        chunk = content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        yield cipher.encrypt(_nonce(number, number == count - 1), chunk, None)


def open_chunks(cipher: AESGCM, sealed: memoryview, memory: memoryview) -> None:
    """Decrypt what :func:`seal_chunks` made into ``memory``, which has the content's size.

    ``InvalidTag`` or ``ValueError`` where a chunk was altered, left out, moved or cut off.
    """
    count = -(-len(sealed) // (CHUNK_BYTES + TAG_BYTES))
    for number in range(count):
        start = number * (CHUNK_BYTES + TAG_BYTES)
        chunk = sealed[start : start + CHUNK_BYTES + TAG_BYTES]
        place = memory[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        cipher.decrypt_into(_nonce(number, number == count - 1), chunk, None, place)


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _member(file_key: bytes, name: str) -> AESGCM:
    info = f"{SCHEMA} {name}".encode()
    return AESGCM(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(file_key))


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _damaged(what: str) -> TrustError:
    return TrustError(
        f"{what} does not open: it was altered or cut off, or was not sealed to this key.",
        "Get the bundle again from the registry that wrote it.",
    )


def new_key(path: Path, passphrase: str = "") -> X25519PublicKey:
    """A new key pair, written by :func:`write_key`."""
    key = X25519PrivateKey.generate()
    write_key(key, path, passphrase)
    return key.public_key()


def write_key(key: X25519PrivateKey | Ed25519PrivateKey, path: Path, passphrase: str = "") -> None:
    """Write a private key (PEM, readable by its owner only) and beside it its public half, ``<path>.pub``.

    :class:`InputError` where a file is there already or cannot be written: no key is ever replaced.
    """
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    written: list[Path] = []
    try:
        for target, content, mode in ((path, private, 0o600), (public_path(path), public, 0o644)):
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                written.append(target)
                file.write(content)
    except OSError as error:
        for target in written:  # a pair or nothing
            target.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {error.filename}: {error.strerror}.", "Choose another --out."
        ) from None


def public_path(path: Path) -> Path:
    """Where the public half of a key lies."""
    return path.with_name(f"{path.name}.pub")


def load_private(path: Path, ask: Callable[[], str] = lambda: "") -> X25519PrivateKey:
    """The private key in a PEM file; ``ask`` gives the passphrase. :class:`InputError` for anything else."""
    content = _read(path)
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:  # encrypted
            key = load_pem_private_key(content, ask().encode())
    except (ValueError, TypeError):
        raise InputError(f"{path}: no private key, or another passphrase.") from None
    if not isinstance(key, X25519PrivateKey):
        raise InputError(f"{path}: a key of another kind than X25519.", "Make one with `verifier key new`.")
    return key


def load_public(path: Path) -> X25519PublicKey:
    """The public key in a PEM file; :class:`InputError` for anything else."""
    return parse_public(_read(path), str(path))


def parse_public(content: bytes, name: str = "the public key") -> X25519PublicKey:
    """The public key in PEM; :class:`InputError` for anything else."""
    try:
        key = load_pem_public_key(content)
    except ValueError:
        key = None
    if not isinstance(key, X25519PublicKey):
        raise InputError(
            f"{name}: no X25519 public key in PEM.",
            "Ask the auditor for what `verifier key new` wrote (.pub).",
        )
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
