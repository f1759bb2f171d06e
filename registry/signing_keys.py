"""Where the private halves of signing keys are: sealed in the database, in encrypted files, or with a KMS.

    keys = key_store(KeySettings.of(settings, "registry"), "signing-key", master)
    signer, sealed = keys.create()              # a signer as :mod:`verifier.signing` takes it
    signer = keys.load(public_key, sealed)

What is sealed goes into the database beside the public key; it is empty where the private half is
elsewhere. ``docs/keys.md`` says how a program that reaches a key management service is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.config import CONFIG_NAME, Settings
from registry.errors import InputError, IntegrityError, StateError
from registry.programs import program, run_program
from registry.sealing import MasterKey
from verifier import signing

PASSPHRASE_VARIABLE = "HALLMARK_KEY_PASSPHRASE"  # noqa: S105  (a name)


@dataclass(frozen=True)
class KeySettings:
    """How the keys of one purpose are kept: in the "database", in a "folder" or by a "command".

    ``[signing.registry]``, ``[signing.targets]``, ``[signing.snapshot]`` and ``[signing.timestamp]`` in
    config.toml; keys of a purpose that is not named there are in the database.
    """

    keep: str = "database"
    folder: Path = Path()
    command: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Settings, name: str) -> KeySettings:
        """The configured ones; :class:`InputError` for a table that cannot be meant."""
        table = settings.table("signing").get(name, {})
        where = f"{settings.home / CONFIG_NAME}: [signing.{name}]"
        if table in ({}, {"keep": "database"}):
            return cls()
        match table:
            case {"keep": "folder", "folder": str(folder), **rest} if folder and not rest:
                return cls("folder", folder=settings.home / folder)
            case {"keep": "command", "command": command, **rest} if not rest:
                return cls("command", command=program(where, command))
        raise InputError(
            f"{where} is not understood.",
            'It has keep = "database", or "folder" and folder = PATH, or "command" and command = [PROGRAM].',
        )


class KeyStore(Protocol):
    """One place where private keys are kept for one purpose."""

    def create(self) -> tuple[signing.Signer, bytes]:
        """A new key, and what of it goes sealed into the database."""

    def load(self, public: bytes, sealed: bytes) -> signing.Signer:
        """The key with this public half; :class:`IntegrityError` where another is found."""


def key_store(settings: KeySettings, label: str, master: MasterKey) -> KeyStore:
    """The store that the configuration names, for the keys of one purpose, such as ``signing-key``."""
    if settings.keep == "folder":
        return FolderKeys(settings.folder, label)
    if settings.keep == "command":
        return ProgramKeys(settings.command, label)
    return SealedKeys(master, label)


@dataclass(frozen=True)
class SealedKeys:
    """Keys in the database, sealed under the master key: the embedded default."""

    master: MasterKey
    label: str

    def create(self) -> tuple[signing.Signer, bytes]:
        private = Ed25519PrivateKey.generate()
        sealed = self.master.seal(private.private_bytes_raw(), self._purpose(_raw(private)))
        return private, sealed

    def load(self, public: bytes, sealed: bytes) -> Ed25519PrivateKey:
        if not sealed:
            raise StateError("the signing key is not in the database.", "Correct [signing] in config.toml.")
        private = Ed25519PrivateKey.from_private_bytes(self.master.open(sealed, self._purpose(public)))
        return _fitting(private, public)

    def _purpose(self, public: bytes) -> str:
        return f"{self.label}/{key_name(public)}"


@dataclass(frozen=True)
class FolderKeys:
    """Keys in a folder: one encrypted PEM file each (PKCS #8), whose passphrase is in the environment."""

    folder: Path
    label: str

    def create(self) -> tuple[signing.Signer, bytes]:
        private = Ed25519PrivateKey.generate()
        self.add(private)
        return private, b""

    def add(self, private: Ed25519PrivateKey) -> None:
        """Write a key into the folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_key(self._path(_raw(private)), private, _passphrase())

    def load(self, public: bytes, sealed: bytes) -> signing.Signer:  # noqa: ARG002  (nothing is sealed)
        return _fitting(read_key(self._path(public), _passphrase()), public)

    def _path(self, public: bytes) -> Path:
        return self.folder / f"{self.label.replace('/', '-')}-{key_name(public)}.pem"


@dataclass(frozen=True)
class ProgramKeys:
    """Keys with a key management service, reached by a program of the operator's.

    ``PROGRAM public-key LABEL`` prints the public key (PEM) to use from now on; ``PROGRAM sign LABEL NAME``
    reads a message and writes its 64-byte signature.
    """

    command: Sequence[str]
    label: str

    def create(self) -> tuple[signing.Signer, bytes]:
        printed = run_program(self.command, ["public-key", self.label])
        try:
            public = load_pem_public_key(printed)
        except ValueError:
            public = None
        if not isinstance(public, Ed25519PublicKey):
            raise StateError(f"{self.command[0]} public-key {self.label} printed no Ed25519 key in PEM.")
        return ProgramSigner(self.command, self.label, public), b""

    def load(self, public: bytes, sealed: bytes) -> signing.Signer:  # noqa: ARG002  (nothing is sealed)
        return ProgramSigner(self.command, self.label, Ed25519PublicKey.from_public_bytes(public))


@dataclass(frozen=True)
class ProgramSigner:
    """A key that signs in another place; each signature is verified before it is used."""

    command: Sequence[str]
    label: str
    public: Ed25519PublicKey

    def public_key(self) -> Ed25519PublicKey:
        return self.public

    def sign(self, data: bytes, /) -> bytes:
        name = key_name(signing.public_bytes(self.public))
        signature = run_program(self.command, ["sign", self.label, name], data)
        try:
            self.public.verify(signature, data)
        except InvalidSignature:
            raise IntegrityError(
                f"{self.command[0]} signed with another key than {name}.",
                "Let it use the key that the registry has recorded, or rotate the key.",
            ) from None
        return signature


def key_name(public: bytes) -> str:
    """The name of a key: the first 16 bytes of the SHA-256 of its public half, in hex."""
    return signing.registry_id(Ed25519PublicKey.from_public_bytes(public))


def write_key(path: Path, private: Ed25519PrivateKey, passphrase: str | None) -> None:
    """Write a private key to a new file with mode 0600; without a passphrase it is not encrypted."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode())
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{path} exists already; a key is never replaced.", "Name a new file.") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_key(path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    """Read a private key; :class:`StateError` where it is missing, readable by others or stays closed."""
    try:
        if path.stat().st_mode & 0o077:
            raise StateError(f"{path}: the key can be read by other users.", f"Run `chmod 600 {path}`.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise StateError(f"{path}: the key is missing.", "Restore it from its escrow.") from None
    secret = None if passphrase is None or b"ENCRYPTED" not in content else passphrase.encode()
    try:
        private = load_pem_private_key(content, secret)
    except TypeError:
        raise StateError(f"{path}: the key is encrypted.", "Give its passphrase.") from None
    except ValueError:
        raise StateError(f"{path}: the key does not open.", "Check the passphrase and the file.") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise StateError(f"{path}: this is no Ed25519 key.")
    return private


def is_encrypted(path: Path) -> bool:
    """Whether a key file needs a passphrase; False also where there is no such file."""
    return path.is_file() and b"ENCRYPTED" in path.read_bytes()


def _passphrase() -> str:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    if not passphrase:
        raise StateError(
            f"{PASSPHRASE_VARIABLE} is not set.", "The registry keeps its keys in encrypted files."
        )
    return passphrase


def _raw(private: Ed25519PrivateKey) -> bytes:
    return signing.public_bytes(private.public_key())


def _fitting(private: Ed25519PrivateKey, public: bytes) -> Ed25519PrivateKey:
    if _raw(private) != public:
        raise IntegrityError("the signing key does not fit its public key.", "Restore the database.")
    return private
