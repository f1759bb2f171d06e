from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import signing_key
from verifier import signing
from verifier.errors import TrustError

SCHEMA = "hallmark/test/1"
KEY = signing_key()

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(st.text(max_size=6).filter(lambda k: k not in ("schema", "signature")), values)


@given(documents)
def test_what_was_signed_is_what_is_read(body: dict[str, Any]) -> None:
    document = {"schema": SCHEMA, **body}
    travelled = json.loads(json.dumps(signing.sign(document, KEY)))
    assert signing.verify(travelled, KEY.public_key(), SCHEMA) == document


def test_the_signed_bytes_are_the_schema_and_the_canonical_document() -> None:
    signed = signing.sign({"z": [1, None, True], "schema": SCHEMA, "a": "é"}, KEY)
    message = b'hallmark/test/1\n{"a":"\xc3\xa9","schema":"hallmark/test/1","z":[1,null,true]}'
    KEY.public_key().verify(base64.b64decode(signed["signature"]), message)


def test_the_key_of_the_first_vector_of_rfc_8032_signs_as_published() -> None:
    secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert signing.public_bytes(key.public_key()).hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert (
        signing.registry_id(key.public_key())
        == (hashlib.sha256(signing.public_bytes(key.public_key())).hexdigest()[:32])
    )


def test_every_change_of_a_signed_document_is_refused() -> None:
    signed = signing.sign({"schema": SCHEMA, "n": 1, "list": [1, 2]}, KEY)
    signature = base64.b64decode(signed["signature"])
    flipped = [
        base64.b64encode(signature[:i] + bytes([signature[i] ^ 1]) + signature[i + 1 :]).decode()
        for i in range(64)
    ]
    altered: list[Any] = [
        {**signed, "n": 2},
        {**signed, "n": True},
        {**signed, "list": [2, 1]},
        {**signed, "extra": None},
        {name: value for name, value in signed.items() if name != "n"},
        {name: value for name, value in signed.items() if name != "signature"},
        {**signed, "schema": "hallmark/test/2"},
        {**signed, "signature": None},
        {**signed, "signature": signed["signature"] + " "},
        # The unused bits of the last base64 digit: the same 64 bytes in another spelling.
        {**signed, "signature": signed["signature"][:-3] + chr(ord(signed["signature"][-3]) + 1) + "=="},
        *({**signed, "signature": text} for text in flipped),
        [],
        None,
        "text",
    ]
    for document in altered:
        with pytest.raises(TrustError):
            signing.verify(document, KEY.public_key(), SCHEMA)


def test_another_registrys_signature_is_refused_by_name() -> None:
    signed = signing.sign({"schema": SCHEMA}, KEY)
    other: Ed25519PublicKey = signing_key(2).public_key()
    with pytest.raises(TrustError, match=signing.registry_id(other)):
        signing.verify(signed, other, SCHEMA)


@pytest.mark.parametrize("value", [1.0, [1.5], {"a": {"b": [float("nan")]}}, (2.0,)])
def test_floats_are_not_signed(value: Any) -> None:
    with pytest.raises(TypeError, match="float"):
        signing.canonical(value)
