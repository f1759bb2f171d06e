"""DSSE: the protocol's own vector, another implementation, and what must be refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from tests.factories import signing_key
from verifier import dsse, signing
from verifier.dsse import Envelope
from verifier.errors import InputError, TrustError

KIND = "http://example.com/HelloWorld"


def test_the_encoding_is_the_protocols() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md, "Test vectors"
    assert dsse.encode(KIND, b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.encode("é", b"\0\n") == b"DSSEv1 2 \xc3\xa9 2 \0\n"
    assert dsse.encode("", b"") == b"DSSEv1 0  0 "


def test_another_implementation_verifies_what_is_signed_here_and_the_other_way_round() -> None:
    key = signing_key(5)
    envelope = dsse.sign(b"hello world", KIND, key)
    public = SSlibKey(
        dsse.key_id(key.public_key()),
        "ed25519",
        "ed25519",
        {"public": signing.public_bytes(key.public_key()).hex()},
    )
    OtherEnvelope.from_dict(json.loads(json.dumps(envelope.document()))).verify([public], 1)
    theirs = OtherEnvelope(b"hello world", KIND, {})
    theirs.sign(CryptoSigner(key, public))
    assert dsse.verify(Envelope.parse(theirs.to_dict()), KIND, key.public_key()) == b"hello world"


def test_nothing_else_verifies() -> None:
    key = signing_key(5)
    envelope = dsse.sign(b"hello world", KIND, key)
    other = base64.b64encode(b"hello worle").decode()
    for altered, kind, public in [
        (replace(envelope, payload=other), KIND, key.public_key()),
        (replace(envelope, payloadType="text/plain"), "text/plain", key.public_key()),
        (envelope, "text/plain", key.public_key()),
        (envelope, KIND, signing_key(6).public_key()),
        (replace(envelope, signatures=[]), KIND, key.public_key()),
        (replace(envelope, signatures=[dsse.Signature("AAAA")]), KIND, key.public_key()),
        (replace(envelope, signatures=[dsse.Signature("not base64!")]), KIND, key.public_key()),
    ]:
        with pytest.raises(TrustError):
            dsse.verify(altered, kind, public)


def test_one_good_signature_among_others_is_enough() -> None:
    key = signing_key(5)
    good, other = dsse.sign(b"x", KIND, key), dsse.sign(b"x", KIND, signing_key(6))
    both = replace(good, signatures=[*other.signatures, *good.signatures])
    assert dsse.verify(both, KIND, key.public_key()) == b"x"


@given(st.binary(max_size=200), st.text(max_size=40))
def test_what_is_signed_comes_back(payload: bytes, kind: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    envelope = Envelope.parse(json.loads(json.dumps(dsse.sign(payload, kind, key).document())))
    assert dsse.verify(envelope, kind, key.public_key()) == payload


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"payload": "!", "payloadType": "x"}, {"payload": "", "payloadType": 3, "signatures": []}],
)
def test_other_json_is_no_envelope(value: object) -> None:
    with pytest.raises(InputError, match="no DSSE envelope"):
        Envelope.parse(value)
