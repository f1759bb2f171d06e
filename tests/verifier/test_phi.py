"""Keys against vectors computed without this code: HKDF with hmac, AES-256 with the openssl command."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier import phi

SECRET = bytes(range(32))
KEY_ID = bytes.fromhex("0102030405060708090a0b0c")
VECTORS = {
    0: (
        "da8c8aa484ec08afe83ba55de73ba491f6c0ce7a756ff62c1019c729ee500cf2",
        "084c32c3b9f4f3272fda9ee8a94eed14c9107e9e7dbc07c7f2c2c325db69b39a",
    ),
    258: (
        "15502dea5bb6e5fd2eb626bf637cdc5193631b919e07ca411237c97627380b62",
        "ae46c23d651379a2bcfe09b2b7ea58d9e4213fe32bf340e8b1e5b1aca980aa30",
    ),
}


@pytest.mark.parametrize("redraw", VECTORS)
def test_keys_and_blinders_are_the_vectors(redraw: int) -> None:
    secret = phi.ModelSecret(SECRET)
    assert secret.bits([KEY_ID], [redraw], 256).tobytes().hex() == VECTORS[redraw][0]
    assert secret.blinders([KEY_ID], [redraw]).tobytes().hex() == VECTORS[redraw][1]
    assert secret.bits([KEY_ID], [redraw], 64).tobytes().hex() == VECTORS[redraw][0][:16]


def test_many_keys_at_once_are_each_its_own() -> None:
    secret = phi.ModelSecret(SECRET)
    ids = [bytes([i]) * 12 for i in range(20)]
    together = secret.bits(ids, list(range(20)), 128)
    alone = [secret.bits([key_id], [i], 128)[0].tolist() for i, key_id in enumerate(ids)]
    assert together.tolist() == alone
    assert len({row.tobytes() for row in together}) == 20


def test_bits_are_fair() -> None:
    ids = [i.to_bytes(12, "big") for i in range(4000)]
    signs = phi.unpack(phi.ModelSecret(SECRET).bits(ids, [0] * 4000, 256))
    assert abs(signs.mean(axis=0)).max() < 5 / 4000**0.5


@given(st.binary(min_size=1, max_size=40))
def test_unpacking_gives_the_bits_of_each_byte_from_the_highest(packed: bytes) -> None:
    signs = phi.unpack(np.frombuffer(packed, np.uint8))
    text = "".join(f"{octet:08b}" for octet in packed)
    assert signs.tolist() == [1 if bit == "1" else -1 for bit in text]
    assert signs.dtype == np.int8


def test_commitments_are_hashes_of_a_tag_and_the_opening() -> None:
    opened = hashlib.sha256(b"hallmark/commitment/v1" + b"phi" + b"blinder").hexdigest()
    assert phi.commitment(b"phi", b"blinder") == opened
    secret = hashlib.sha256(b"hallmark/model-secret/v1" + SECRET).hexdigest()
    assert phi.ModelSecret(SECRET).commitment() == secret


def test_what_is_no_secret_key_id_or_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        phi.ModelSecret(b"short")
    secret = phi.ModelSecret(SECRET)
    with pytest.raises(ValueError, match="12 bytes"):
        secret.bits([b"short"], [0], 64)
    for bits in (0, -8, 12):
        with pytest.raises(ValueError, match="multiple of 8"):
            secret.bits([KEY_ID], [0], bits)
