"""User keys: phi in {-1,+1}^k, derived from a model secret and committed to (never stored).

    secret = ModelSecret(os.urandom(32))
    packed = secret.bits([key_id], [0], bits=256)         # (1, 32) uint8
    signs = unpack(packed)                                # (1, 256) int8 of -1 and +1
    commitment(packed[0].tobytes(), secret.blinders([key_id], [0])[0].tobytes())

Block b of phi is ``AES-256(K, key_id (12 bytes) || redraw (2 bytes) || b (2 bytes))``, integers big
endian, with ``K = HKDF-SHA-256(model secret, info="hallmark/phi/v1")``. Bit j of phi is bit
``7 - j % 8`` of byte ``j // 8`` of the blocks in order; 1 stands for +1. The blinder is two blocks of
the same construction under ``info="hallmark/blinder/v1"``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCHEME = "hallmark/phi/v1"
BLINDER = "hallmark/blinder/v1"
KEY_ID_BYTES = 12
BLINDER_BYTES = 32
_BLOCK = 16

Packed = NDArray[np.uint8]


class ModelSecret:
    """The 32 secret bytes of one model, from which every key and blinder of its copies is derived."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError(f"a model secret has 32 bytes, not {len(secret)}")
        self._secret = secret
        self._keys = {info: _hkdf(secret, info) for info in (SCHEME, BLINDER)}

    def commitment(self) -> str:
        """Published when the model is registered: SHA-256 of a tag and the secret, in hex."""
        return hashlib.sha256(b"hallmark/model-secret/v1" + self._secret).hexdigest()

    def bits(self, key_ids: Sequence[bytes], redraws: Sequence[int], bits: int) -> Packed:
        """Packed phi of each key, shape (n, bits / 8) uint8; ``bits`` is a positive multiple of 8."""
        if bits <= 0 or bits % 8:
            raise ValueError(f"the number of bits must be a positive multiple of 8, not {bits}")
        return self._blocks(SCHEME, key_ids, redraws, -(-bits // 128))[:, : bits // 8]

    def blinders(self, key_ids: Sequence[bytes], redraws: Sequence[int]) -> Packed:
        """The 32-byte blinder of each key's commitment, shape (n, 32) uint8."""
        return self._blocks(BLINDER, key_ids, redraws, BLINDER_BYTES // _BLOCK)

    def _blocks(self, info: str, key_ids: Sequence[bytes], redraws: Sequence[int], count: int) -> Packed:
        # Imported here: a verifier unpacks keys and never derives any, and has to start quickly.
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        n = len(key_ids)
        plain = np.zeros((n, count, _BLOCK), np.uint8)
        joined = b"".join(key_ids)
        if len(joined) != n * KEY_ID_BYTES:
            raise ValueError(f"a key id has {KEY_ID_BYTES} bytes")
        plain[:, :, :12] = np.frombuffer(joined, np.uint8).reshape(n, 1, KEY_ID_BYTES)
        redraw = np.asarray(redraws, ">u2").reshape(n, 1)
        plain[:, :, 12:14] = redraw.view(np.uint8).reshape(n, 1, 2)
        plain[:, :, 14:16] = np.arange(count, dtype=">u2").view(np.uint8).reshape(1, count, 2)
        # A PRF on distinct blocks is what ECB computes; no block repeats, as (id, redraw, b) differ.
        encryptor = Cipher(algorithms.AES256(self._keys[info]), modes.ECB()).encryptor()
        cipher = encryptor.update(plain.tobytes()) + encryptor.finalize()
        return np.frombuffer(cipher, np.uint8).reshape(n, count * _BLOCK)


def _hkdf(secret: bytes, info: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info.encode()).derive(secret)


def unpack(packed: Packed) -> NDArray[np.int8]:
    """Signs (..., k) in {-1, +1} of packed bits (..., k / 8)."""
    return (np.unpackbits(packed, axis=-1).astype(np.int8) * 2 - 1).astype(np.int8)


def commitment(phi: bytes, blinder: bytes) -> str:
    """``SHA-256(tag || phi || blinder)`` in hex: binds the registry to phi, reveals nothing of it."""
    return hashlib.sha256(b"hallmark/commitment/v1" + phi + blinder).hexdigest()
