"""Signing keys in the database, in encrypted files and with a program that stands for a KMS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import select

from registry.errors import InputError, IntegrityError, StateError
from registry.home import Home
from registry.identity import SigningKey
from registry.ledger import service as ledger
from registry.sealing import AesMasterKey, FileMasterKey
from registry.signing_keys import (
    PASSPHRASE_VARIABLE,
    FolderKeys,
    KeyStore,
    ProgramKeys,
    SealedKeys,
    is_encrypted,
    read_key,
    write_key,
)
from registry.trust import service as trust
from registry.verification import verify_ledger
from verifier import signing
from verifier.merkle import Checkpoint

# What an operator writes for his key management service: here the service is a folder of keys.
KMS = """\
import os, pathlib, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
given = sys.stdin.buffer.read()
if (folder / "down").exists():
    sys.exit("the service is down")
if what in ("wrap", "unwrap"):
    cipher = AESGCM(b"k" * 32)
    sys.stdout.buffer.write(
        cipher.encrypt(b"n" * 12, given, b"") if what == "wrap" else cipher.decrypt(b"n" * 12, given, b"")
    )
    sys.exit()
path = folder / sys.argv[3]
if not path.exists():
    path.write_bytes(os.urandom(32))
key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
if what == "public-key":
    sys.stdout.buffer.write(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
else:
    sys.stdout.buffer.write(key.sign(given))
"""


@pytest.fixture
def kms(tmp_path: Path) -> list[str]:
    """The command of a running key management service."""
    (tmp_path / "kms.py").write_text(KMS)
    (tmp_path / "kms").mkdir()
    return [sys.executable, str(tmp_path / "kms.py"), str(tmp_path / "kms")]


@pytest.fixture(params=["database", "folder", "command"])
def store(
    request: pytest.FixtureRequest, kms: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> KeyStore:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    stores: dict[str, KeyStore] = {
        "database": SealedKeys(AesMasterKey(bytes(32)), "trust-timestamp"),
        "folder": FolderKeys(tmp_path / "keys", "trust-timestamp"),
        "command": ProgramKeys(kms, "trust-timestamp"),
    }
    return stores[request.param]


def test_a_key_signs_and_is_found_again(store: KeyStore) -> None:
    signer, sealed = store.create()
    document = signing.sign({"schema": "hallmark/test/1"}, signer)
    public = signing.public_bytes(signer.public_key())
    again = store.load(public, sealed)
    assert signing.sign({"schema": "hallmark/test/1"}, again) == document
    signing.verify(document, signer.public_key(), "hallmark/test/1")


def test_a_key_that_is_not_there_is_told(store: KeyStore) -> None:
    _, sealed = store.create()
    other = signing.public_bytes(Ed25519PrivateKey.generate().public_key())
    with pytest.raises((StateError, IntegrityError)):
        store.load(other, sealed).sign(b"message")


def test_key_files_are_encrypted_private_and_never_replaced(tmp_path: Path) -> None:
    path, key = tmp_path / "key.pem", Ed25519PrivateKey.generate()
    write_key(path, key, "correct horse")
    assert path.stat().st_mode & 0o777 == 0o600
    assert is_encrypted(path)
    with pytest.raises(TypeError):
        load_pem_private_key(path.read_bytes(), None)
    assert read_key(path, "correct horse").private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(InputError, match="never replaced"):
        write_key(path, key, None)
    for passphrase, said in ((None, "is encrypted"), ("wrong", "does not open")):
        with pytest.raises(StateError, match=said):
            read_key(path, passphrase)
    path.chmod(0o644)
    with pytest.raises(StateError, match="other users"):
        read_key(path, "correct horse")
    with pytest.raises(StateError, match="missing"):
        read_key(tmp_path / "none", None)


def test_a_program_that_fails_is_named(kms: list[str], tmp_path: Path) -> None:
    signer, _ = ProgramKeys(kms, "signing-key").create()
    (tmp_path / "kms" / "signing-key").write_bytes(os.urandom(32))
    with pytest.raises(IntegrityError, match="signed with another key"):
        signer.sign(b"message")
    (tmp_path / "kms" / "down").touch()
    with pytest.raises(StateError, match="the service is down"):
        signer.sign(b"message")
    with pytest.raises(StateError, match="cannot be started"):
        ProgramKeys([str(tmp_path / "none")], "signing-key").create()
    with pytest.raises(StateError, match="no Ed25519 key"):
        ProgramKeys(["echo"], "signing-key").create()


def configured(tmp_path: Path, text: str) -> Path:
    """A configuration file for `registry init --config`."""
    path = tmp_path / "config.toml"
    path.write_text('[database]\nurl = "sqlite:///registry.db"\n[storage]\nurl = "storage"\n' + text)
    return path


def test_a_registry_whose_keys_are_all_with_a_kms(kms: list[str], tmp_path: Path) -> None:
    """Certificates, checkpoints and the trust root are signed there; nothing secret is on the disk."""
    purposes = ("signing.registry", "signing.targets", "signing.snapshot", "signing.timestamp", "master")
    text = "".join(f'[{name}]\nkeep = "command"\ncommand = {kms!r}\n' for name in purposes)
    Home.create(tmp_path / "home", configured(tmp_path, text))
    home = Home.open(tmp_path / "home")
    with home.database.write() as session:
        assert session.execute(select(SigningKey.sealed)).scalar_one() == b""
        ledger.append(session, home.identity, ledger.CERTIFICATE, [bytes(32)])
        assert Checkpoint.open(ledger.checkpoint(session), home.identity.public).size == 1
    trust.create(home, [Ed25519PrivateKey.generate()])
    trust.refresh(home)
    assert {path.name for path in (tmp_path / "kms").iterdir()} == {
        "signing-key", "trust-targets", "trust-snapshot", "trust-timestamp"
    }  # fmt: skip
    assert not (tmp_path / "home" / "master.key").exists()
    raw = Path(tmp_path / "kms" / "trust-timestamp").read_bytes()
    assert not any(raw in path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    home.close()
    (tmp_path / "kms" / "down").touch()
    with pytest.raises(StateError, match="the service is down"):
        Home.open(tmp_path / "home")


def test_a_key_rotates_with_the_service(kms: list[str], tmp_path: Path) -> None:
    root = Ed25519PrivateKey.generate()
    Home.create(
        tmp_path / "home",
        configured(tmp_path, f'[signing.timestamp]\nkeep = "command"\ncommand = {kms!r}\n'),
    )
    home = Home.open(tmp_path / "home")
    trust.create(home, [root])
    with pytest.raises(StateError, match="same as before"):
        trust.rotate(home, "timestamp", [root])
    (tmp_path / "kms" / "trust-timestamp").write_bytes(os.urandom(32))
    with pytest.raises(IntegrityError, match="another key"):
        trust.refresh(home)
    trust.rotate(home, "timestamp", [root])
    trust.refresh(home)
    home.close()


def test_keys_in_a_folder_need_their_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, '[signing.registry]\nkeep = "folder"\nfolder = "keys"\n')
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    with pytest.raises(StateError, match=PASSPHRASE_VARIABLE):
        Home.create(tmp_path / "home", config)
    assert not (tmp_path / "home").exists()
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    Home.create(tmp_path / "home", config)
    home = Home.open(tmp_path / "home")
    assert verify_ledger(home).size == 0
    (file,) = (tmp_path / "home" / "keys").iterdir()
    assert is_encrypted(file)
    home.close()


@pytest.mark.parametrize(
    "table",
    [
        '[signing.registry]\nkeep = "vault"\n',
        '[signing.registry]\nkeep = "folder"\n',
        '[signing.registry]\nkeep = "folder"\nfolder = ""\n',
        '[signing.registry]\nkeep = "command"\ncommand = []\n',
        '[signing.registry]\nkeep = "command"\ncommand = "sh -c true"\n',
        '[signing.registry]\nkeep = "command"\ncommand = [1]\n',
        '[signing.registry]\nfolder = "keys"\n',
        '[signing]\nregistry = "folder"\n',
        '[master]\nkeep = "command"\n',
        '[master]\nkeep = "somewhere"\n',
        '[master]\ncommand = ["x"]\n',
    ],
)
def test_a_configuration_that_means_nothing_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(InputError, match=r"config.toml: \["):
        Home.create(tmp_path / "home", configured(tmp_path, table))
    assert not (tmp_path / "home").exists()


def test_an_escrow_copy_of_a_wrapped_master_key_opens_everything(kms: list[str], tmp_path: Path) -> None:
    config = configured(tmp_path, f'[master]\nkeep = "command"\ncommand = {kms!r}\n')
    Home.create(tmp_path / "home", config)
    home = Home.open(tmp_path / "home")
    assert isinstance(home.master, AesMasterKey)
    home.master.escrow(tmp_path / "escrow.key")
    copy = FileMasterKey.load(tmp_path / "escrow.key")
    assert copy.is_same(home.master)
    assert copy.open(home.master.seal(b"secret", "x"), "x") == b"secret"
    home.close()


def test_a_program_that_does_not_wrap_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, '[master]\nkeep = "command"\ncommand = ["sh", "-c", "cat"]\n')
    with pytest.raises(StateError, match="does not wrap"):
        Home.create(tmp_path / "home", config)
