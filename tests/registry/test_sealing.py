from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import IntegrityError, StateError
from registry.home import Home
from registry.identity import Identity, SigningKey, registry_keys
from registry.sealing import FileMasterKey

MASTER = FileMasterKey(bytes(32))


@given(st.binary(max_size=100), st.text(max_size=30))
def test_what_was_sealed_opens_for_its_purpose(secret: bytes, purpose: str) -> None:
    assert MASTER.open(MASTER.seal(secret, purpose), purpose) == secret


@given(st.binary(min_size=1, max_size=40), st.data())
def test_no_altered_byte_opens(secret: bytes, data: st.DataObject) -> None:
    sealed = bytearray(MASTER.seal(secret, "purpose"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError):
        MASTER.open(bytes(sealed), "purpose")


def test_another_purpose_or_key_does_not_open() -> None:
    sealed = MASTER.seal(b"secret", "model-secret/a/1")
    with pytest.raises(IntegrityError, match="model-secret/b/1"):
        MASTER.open(sealed, "model-secret/b/1")
    with pytest.raises(IntegrityError):
        FileMasterKey(bytes([1]) * 32).open(sealed, "model-secret/a/1")
    with pytest.raises(IntegrityError):
        MASTER.open(b"short", "model-secret/a/1")


def test_the_key_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    sealed = FileMasterKey.create(path).seal(b"secret", "x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileMasterKey.load(path).open(sealed, "x") == b"secret"
    with pytest.raises(FileExistsError):
        FileMasterKey.create(path)


def test_an_unusable_key_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with pytest.raises(StateError, match="missing"):
        FileMasterKey.load(path)
    FileMasterKey.create(path)
    path.chmod(0o644)
    with pytest.raises(StateError, match="other users") as caught:
        FileMasterKey.load(path)
    assert "chmod 600" in caught.value.hint
    path.chmod(0o600)
    path.write_bytes(base64.b64encode(b"short"))
    with pytest.raises(StateError, match="5 bytes instead of 32"):
        FileMasterKey.load(path)
    path.write_bytes(b"\xff not base64")
    with pytest.raises(StateError, match="cannot be read"):
        FileMasterKey.load(path)


def test_the_signing_key_is_sealed_and_survives(home: Home) -> None:
    with home.database.read() as session:
        row = session.get_one(SigningKey, 1)
        again = Identity.load(session, registry_keys(home.settings, home.master))
    assert again.registry == home.identity.registry == row.registry_id
    assert home.identity.signer.private_bytes_raw() not in row.sealed


def test_a_signing_key_that_was_swapped_is_refused(home: Home) -> None:
    with home.database.write() as session:
        session.get_one(SigningKey, 1).public_key = bytes(32)
    with home.database.read() as session, pytest.raises(IntegrityError, match="does not open"):
        Identity.load(session, registry_keys(home.settings, home.master))
