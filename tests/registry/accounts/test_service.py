from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from registry.accounts import service
from registry.errors import InputError, StateError
from registry.home import Home
from verifier import signing

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
RAW = signing.public_bytes(PUBLIC)


def test_recipients_are_kept_in_order_and_found_without_regard_to_case(home: Home) -> None:
    with home.database.write() as session:
        service.add_recipient(session, " Ada@Example.org ", RAW)
        service.add_recipient(session, "bob@example.org")
    with home.database.read() as session:
        assert [r.email for r in service.recipients(session)] == ["ada@example.org", "bob@example.org"]
        assert service.get_recipient(session, "ADA@example.ORG").public_key == RAW


def test_a_recipient_is_added_once(home: Home) -> None:
    with home.database.write() as session:
        service.add_recipient(session, "ada@example.org")
        with pytest.raises(StateError, match=r"ada@example\.org is already a recipient"):
            service.add_recipient(session, "ADA@example.org")


def test_an_unknown_recipient_is_named(home: Home) -> None:
    with home.database.read() as session, pytest.raises(InputError, match=r"no recipient eve@example\.org"):
        service.get_recipient(session, "eve@example.org")


@pytest.mark.parametrize(
    "email", ["", "ada", "ada@", "@example.org", "a b@example.org", "a@b@c.org", "a@b\n.org"]
)
def test_what_is_no_address_is_refused(email: str) -> None:
    with pytest.raises(InputError, match="no e-mail address"):
        service.normal_email(email)


@pytest.mark.parametrize(
    "content",
    [
        PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        PUBLIC.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" ada@laptop\n",
        base64.b64encode(RAW) + b"\n",
    ],
    ids=["pem", "openssh", "base64"],
)
def test_public_keys_come_in_three_forms(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    assert service.load_public_key(path) == RAW


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a public key"),
        (b"ssh-ed25519 nonsense", "not a public key"),
        (base64.b64encode(RAW[:31]), "not a public key"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "another kind than Ed25519",
        ),
        (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private key"),
    ],
    ids=["empty", "ssh", "short", "ecdsa", "private"],
)
def test_other_keys_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        service.load_public_key(path)
    assert str(path) in str(caught.value)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        service.load_public_key(tmp_path / "none")


def test_commitments_hide_and_bind(home: Home) -> None:
    with home.database.write() as session:
        ada = service.add_recipient(session, "ada@example.org")
        bob = service.add_recipient(session, "bob@example.org")
    first, second = service.commitments(ada, [bytes(12), bytes([1]) * 12])
    assert first != second, "two certificates of one person must not be linkable"
    assert service.commitments(ada, [bytes(12)]) == [first]
    assert service.commitments(bob, [bytes(12)]) != [first]
    ada.public_key = RAW
    assert service.commitments(ada, [bytes(12)]) != [first], "the public key is bound too"
