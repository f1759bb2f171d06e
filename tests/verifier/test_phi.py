"""Keys against vectors computed without this code: HKDF with hmac, AES-256 with the openssl command."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
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


def test_biased_keys_are_computed_as_the_docstring_says() -> None:
    """Against AES of single blocks, word by word."""

    def aes(info: str, block: bytes) -> bytes:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info.encode()).derive(SECRET)
        encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
        return encryptor.update(block) + encryptor.finalize()

    secret, bits = phi.ModelSecret(SECRET), 136
    chosen = b"".join(aes("hallmark/bias/v1", bytes(12) + b.to_bytes(4, "big")) for b in range(2))
    biases = [(13849, 51687)[chosen[j // 8] >> (7 - j % 8) & 1] for j in range(bits)]
    assert secret.biases(bits).tolist() == biases
    blocks = b"".join(
        aes("hallmark/phi/biased/v1", KEY_ID + (258).to_bytes(2, "big") + b.to_bytes(2, "big"))
        for b in range(bits // 8)
    )
    words = [int.from_bytes(blocks[2 * j : 2 * j + 2], "big") for j in range(bits)]
    signs = phi.unpack(secret.bits([KEY_ID], [258], bits, phi.BIASED))[0]
    assert signs.tolist() == [1 if w < t else -1 for w, t in zip(words, biases, strict=True)]


def test_bits_are_as_biased_as_they_shall_be() -> None:
    secret = phi.ModelSecret(SECRET)
    ids = [i.to_bytes(12, "big") for i in range(4000)]
    share = (phi.unpack(secret.bits(ids, [0] * 4000, 256, phi.BIASED)) > 0).mean(axis=0)
    plus = phi.probabilities(secret.biases(256))
    assert abs(share - plus).max() < 5 * (0.25 / 4000) ** 0.5
    assert 90 < (plus > 0.5).sum() < 166
    with pytest.raises(ValueError, match="no scheme"):
        secret.bits(ids, [0] * 4000, 256, "hallmark/phi/v9")
