"""Encryption at rest: secrets leave memory only sealed under the registry's master key.

    master = create_master_key(settings)                 # `registry init`
    master = open_master_key(settings)
    sealed = master.seal(secret, "model-secret/flowers/1")
    master.open(sealed, "model-secret/flowers/1")

Sealed bytes are ``nonce (12) || AES-256-GCM ciphertext and tag``; the purpose is authenticated with
them, so that one sealed secret never passes for another. The master key is in a file, or wrapped by a key
management service (``[master]`` in config.toml, see ``docs/keys.md``): it is then plain in memory only.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registry.config import CONFIG_NAME, Settings
from registry.errors import InputError, IntegrityError, StateError
from registry.programs import program, run_program

_TAG = b"hallmark/sealed/v1\n"
_NONCE_BYTES = 12
KEY_BYTES = 32


class MasterKey(Protocol):
    """What the registry needs of a master key, wherever it is kept."""

    def seal(self, secret: bytes, purpose: str) -> bytes:
        """Encrypt ``secret`` for one named ``purpose``."""

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Decrypt; :class:`IntegrityError` for another key, another purpose or altered bytes."""


class AesMasterKey:
    """A master key of 32 bytes in memory."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)

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

    def escrow(self, path: Path) -> None:
        """Write the plain key to a new file, for a safe place: from there :class:`FileMasterKey` reads it."""
        _write_new(path, base64.b64encode(self._key) + b"\n")

    def is_same(self, other: AesMasterKey) -> bool:
        """Whether two copies are of one key."""
        return hmac.compare_digest(self._key, other._key)


class FileMasterKey(AesMasterKey):
    """A master key (base64) in a file that only its owner may read."""

    @classmethod
    def create(cls, path: Path) -> FileMasterKey:
        """Write a new random key to ``path`` with mode 0600; an existing file is never replaced."""
        created = cls(os.urandom(KEY_BYTES))
        created.escrow(path)
        return created

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
        if len(key) != KEY_BYTES:
            raise StateError(f"{path}: the master key has {len(key)} bytes instead of 32.", "Restore it.")
        return cls(key)


class WrappedMasterKey(AesMasterKey):
    """A master key that lies on disk only as a key management service has wrapped it.

    ``PROGRAM wrap`` turns the key into something that only the service can turn back, ``PROGRAM unwrap`` does
    that: once for each process, when the registry is opened.
    """

    @classmethod
    def create(cls, path: Path, command: Sequence[str]) -> WrappedMasterKey:
        """Write a new wrapped key to ``path``, after it was unwrapped again for a test."""
        return cls(os.urandom(KEY_BYTES)).keep(path, command)

    def keep(self, path: Path, command: Sequence[str]) -> WrappedMasterKey:
        """Write this key, wrapped, to ``path``."""
        wrapped = run_program(command, ["wrap"], self._key)
        if self._key in wrapped or run_program(command, ["unwrap"], wrapped) != self._key:
            raise StateError(f"{command[0]} does not wrap keys so that it unwraps them.", "Correct it.")
        _write_new(path, wrapped)
        return self

    @classmethod
    def load(cls, path: Path, command: Sequence[str]) -> WrappedMasterKey:
        """Unwrap the key; :class:`StateError` if it is missing or the service refuses."""
        try:
            wrapped = path.read_bytes()
        except FileNotFoundError:
            raise StateError(f"{path}: the wrapped master key is missing.", "Restore it.") from None
        key = run_program(command, ["unwrap"], wrapped)
        if len(key) != KEY_BYTES:
            raise StateError(
                f"{command[0]} unwrapped {len(key)} bytes instead of {KEY_BYTES}.", "Correct it."
            )
        return cls(key)


def create_master_key(settings: Settings) -> AesMasterKey:
    """A new master key, kept as the configuration says."""
    command, path = _command(settings), _master_key_file(settings)
    return FileMasterKey.create(path) if command is None else WrappedMasterKey.create(path, command)


def open_master_key(settings: Settings) -> AesMasterKey:
    """The registry's master key."""
    command, path = _command(settings), _master_key_file(settings)
    return FileMasterKey.load(path) if command is None else WrappedMasterKey.load(path, command)


def adopt_master_key(settings: Settings, escrowed: Path) -> AesMasterKey:
    """Bring an escrowed master key, in plain, into a new home: kept as its configuration says."""
    key, command, path = FileMasterKey.load(escrowed), _command(settings), _master_key_file(settings)
    if command is None:
        key.escrow(path)
        return key
    return WrappedMasterKey(key._key).keep(path, command)


def _master_key_file(settings: Settings) -> Path:
    """The file that holds the master key, or what a key management service made of it."""
    wrapped = _command(settings) is not None
    return settings.master_key.with_suffix(".wrapped") if wrapped else settings.master_key


def _command(settings: Settings) -> Sequence[str] | None:
    table = dict(settings.table("master"))
    where = f"{settings.home / CONFIG_NAME}: [master]"
    keep = table.pop("keep", "file")
    if keep == "command" and table.keys() == {"command"}:
        return program(where, table["command"])
    if keep != "file" or table:
        raise InputError(
            f"{where} is not understood.",
            'It has keep = "file", or keep = "command" and command = [PROGRAM].',
        )
    return None


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
