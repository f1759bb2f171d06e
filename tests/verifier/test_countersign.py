from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.factories import World, make_world, write_copy
from verifier import countersign, signing
from verifier.cli import cli
from verifier.errors import InputError, TrustError
from verifier.inspect import inspect_copy

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), keys=2)


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    return write_copy(world, 0, tmp_path / "copy")


@pytest.fixture
def receipt(world: World, copy: Path) -> signing.Document:
    found = inspect_copy(copy)
    unsigned = {
        "schema": "hallmark/receipt/1",
        "registry": world.registry,
        "download_id": "download-" + "0" * 24,
        "copy_id": found.certificate.copy_id,
        "key_id": found.certificate.key_id,
        "recipient": found.certificate.recipient,
        "sha256": found.digest,
        "bytes": 10,
        "delivered_at": "2026-01-01T00:00:00Z",
    }
    return signing.sign(unsigned, world.key)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_key(path: Path, form: serialization.PrivateFormat, passphrase: bytes | None = None) -> Path:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    path.write_bytes(KEY.private_bytes(serialization.Encoding.PEM, form, encryption))
    return path


def openssh(path: Path) -> Path:
    return write_key(path, serialization.PrivateFormat.OpenSSH)


def test_the_command_signs_what_the_registry_verifies(
    receipt: signing.Document, copy: Path, tmp_path: Path
) -> None:
    key = openssh(tmp_path / "id_ed25519")
    for content in (receipt, {"receipt": receipt}):
        path = write(tmp_path / "receipt.json", content)
        ran = CliRunner().invoke(cli, ["countersign", str(path), "--key", str(key), "--copy", str(copy)])
        assert ran.exit_code == 0, ran.output
        document = json.loads(ran.stdout)
        assert document["receipt"] == signing.digest(receipt).hex()
        countersign.verify_countersignature(document, receipt, KEY.public_key())


def test_an_encrypted_key_asks_for_its_passphrase(receipt: signing.Document, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key.pem", serialization.PrivateFormat.PKCS8, b"secret words")
    path = write(tmp_path / "receipt.json", receipt)
    arguments = ["countersign", str(path), "--key", str(key)]
    assert CliRunner().invoke(cli, arguments, input="secret words\n").exit_code == 0
    assert CliRunner().invoke(cli, arguments, input="wrong\n").exit_code == 2


@pytest.mark.parametrize("field", ["registry", "download_id", "receipt", "signature"])
def test_a_changed_confirmation_does_not_hold(receipt: signing.Document, field: str) -> None:
    document = countersign.countersign(receipt, KEY)
    changed = {**document, field: document[field][::-1]}
    with pytest.raises(TrustError):
        countersign.verify_countersignature(changed, receipt, KEY.public_key())


def test_a_confirmation_holds_for_its_receipt_and_key_only(receipt: signing.Document) -> None:
    document = countersign.countersign(receipt, KEY)
    with pytest.raises(TrustError, match="another receipt"):
        countersign.verify_countersignature(document, {**receipt, "bytes": 11}, KEY.public_key())
    with pytest.raises(TrustError, match="recipient's public key"):
        countersign.verify_countersignature(document, receipt, Ed25519PrivateKey.generate().public_key())


def test_another_copy_than_the_receipt_s_is_noticed(
    world: World, receipt: signing.Document, copy: Path, tmp_path: Path
) -> None:
    countersign.compare_copy(copy, receipt)
    with pytest.raises(TrustError, match="copy_id"):
        countersign.compare_copy(write_copy(world, 1, tmp_path / "other"), receipt)
    with pytest.raises(TrustError, match="signature of the receipt"):
        countersign.compare_copy(copy, {**receipt, "bytes": 11})


def test_what_is_no_receipt_or_no_key_is_refused(receipt: signing.Document, tmp_path: Path) -> None:
    for content in ([], {}, {"schema": "hallmark/copy/1"}, {"schema": "hallmark/receipt/1"}):
        with pytest.raises(InputError):
            countersign.load_receipt(write(tmp_path / "bad.json", content))
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(InputError):
        countersign.load_receipt(tmp_path / "bad.json")
    with pytest.raises(InputError, match="cannot read"):
        countersign.load_receipt(tmp_path / "none.json")
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (other, b"not a key", openssh(tmp_path / "id").read_bytes()[:100]):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(InputError):
            countersign.load_private_key(tmp_path / "key")
