"""Encryption at rest: secrets leave memory only sealed under the registry's master key.

    master = FileMasterKey.create(path)
    sealed = master.seal(secret, "model-secret/flowers/1")
    master.open(sealed, "model-secret/flowers/1")

Sealed bytes are ``nonce (12) || AES-256-GCM ciphertext and tag``; the purpose is authenticated with
them, so that one sealed secret never passes for another. A key management service replaces
:class:`FileMasterKey` by offering the same two methods.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.errors import IntegrityError, StateError

_TAG = b"hallmark/sealed/v1\n"
_NONCE_BYTES = 12


class MasterKey(Protocol):
    """What the registry needs of a master key, wherever it is kept."""

    def seal(self, secret: bytes, purpose: str) -> bytes:
        """Encrypt ``secret`` for one named ``purpose``."""

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Decrypt; :class:`IntegrityError` for another key, another purpose or altered bytes."""


class FileMasterKey:
    """A master key (32 bytes, base64) in a file that only its owner may read."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def create(cls, path: Path) -> FileMasterKey:
        """Write a new random key to ``path`` with mode 0600; an existing file is never replaced."""
        key = os.urandom(32)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(key) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> FileMasterKey:
        """Read the key; :class:`StateError` if it is missing, malformed or readable by others."""
        try:
            if path.stat().st_mode & 0o077:
                raise StateError(
                    f"{path}: the master key can be read by other users.", f"Run `chmod 600 {path}`."
                )
            key = base64.b64decode(path.read_bytes().strip(), validate=True)
        except FileNotFoundError:
            raise StateError(f"{path}: the master key is missing.", "Restore it from its escrow.") from None
        except (OSError, binascii.Error) as error:
            raise StateError(f"{path}: the master key cannot be read ({error}).") from None
        if len(key) != 32:
            raise StateError(f"{path}: the master key has {len(key)} bytes instead of 32.", "Restore it.")
        return cls(key)

    def seal(self, secret: bytes, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, _TAG + purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, encrypted, _TAG + purpose.encode())
        except (InvalidTag, ValueError):
            raise IntegrityError(
                f"the stored secret {purpose!r} does not open under this master key.",
                "Restore the master key that belongs to this database.",
            ) from None
