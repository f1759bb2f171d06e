"""User keys: phi in {-1,+1}^k, derived from a model secret and committed to (never stored).

    secret = ModelSecret(os.urandom(32))
    packed = secret.bits([key_id], [0], bits=256)         # (1, 32) uint8
    signs = unpack(packed)                                # (1, 256) int8 of -1 and +1
    commitment(packed[0].tobytes(), secret.blinders([key_id], [0])[0].tobytes())

Block b of phi is ``AES-256(K, key_id (12 bytes) || redraw (2 bytes) || b (2 bytes))``, integers big
endian, with ``K = HKDF-SHA-256(model secret, info="hallmark/phi/v1")``. Bit j of phi is bit
``7 - j % 8`` of byte ``j // 8`` of the blocks in order; 1 stands for +1. The blinder is two blocks of
the same construction under ``info="hallmark/blinder/v1"``.

**Collusion-resistant models** (scheme ``hallmark/phi/biased/v1``) draw bit j with a probability of its own,
that of all keys of the model: ``P(phi_j = +1) = t_j / 65536`` with t_j one of BIASES. Nuida et al. ("An
improvement of discrete Tardos fingerprinting codes", Designs, Codes and Cryptography, 2009) show that these
two, half of the bits each, are the best for up to four colluders, whatever they do with the bits in which
they differ. Which of the two is secret like the keys: bit j % 128 (as above) of block j // 128 of
``AES-256(K_t, 0 (12 bytes) || j // 128 (4 bytes))``, ``K_t = HKDF-SHA-256(model secret,
info="hallmark/bias/v1")``; 1 stands for the larger t_j. Bit j of a key is +1 if word j of 16 bits, big
endian, of the blocks ``AES-256(K, key_id || redraw || b)`` in order, with ``K = HKDF-SHA-256( model secret,
info="hallmark/phi/biased/v1")``, is less than t_j. Commitments and blinders are as above; the t_j are bound
by the commitment to the model secret, from which alone they follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCHEME = "hallmark/phi/v1"
BIASED = "hallmark/phi/biased/v1"
SCHEMES = (SCHEME, BIASED)
BLINDER = "hallmark/blinder/v1"
BIAS = "hallmark/bias/v1"
BIASES = (13849, 51687)
"""In units of 2^-16: (1 - 1 / sqrt(3)) / 2 = 0.21132, and the rest to one."""
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
        self._keys = {info: _hkdf(secret, info) for info in (SCHEME, BIASED, BLINDER, BIAS)}

    def commitment(self) -> str:
        """Published when the model is registered: SHA-256 of a tag and the secret, in hex."""
        return hashlib.sha256(b"hallmark/model-secret/v1" + self._secret).hexdigest()

    def bits(
        self, key_ids: Sequence[bytes], redraws: Sequence[int], bits: int, scheme: str = SCHEME
    ) -> Packed:
        """Packed phi of each key, shape (n, bits / 8) uint8; ``bits`` is a positive multiple of 8."""
        _check(bits)
        if scheme == SCHEME:
            return self._blocks(SCHEME, key_ids, redraws, -(-bits // 128))[:, : bits // 8]
        if scheme != BIASED:
            raise ValueError(f"{scheme!r} is no scheme of keys")
        words = self._blocks(BIASED, key_ids, redraws, -(-bits // 8)).view(">u2")[:, :bits]
        return np.packbits(words < self.biases(bits), axis=1)

    def biases(self, bits: int) -> NDArray[np.uint16]:
        """``P(phi_j = +1)`` of collusion-resistant keys in units of 2^-16, shape (bits,)."""
        _check(bits)
        plain = np.zeros((-(-bits // 128), _BLOCK), np.uint8)
        plain[:, 12:] = np.arange(len(plain), dtype=">u4").view(np.uint8).reshape(-1, 4)
        chosen = np.unpackbits(self._encrypted(BIAS, plain))[:bits]
        return np.array(BIASES, np.uint16)[chosen]

    def blinders(self, key_ids: Sequence[bytes], redraws: Sequence[int]) -> Packed:
        """The 32-byte blinder of each key's commitment, shape (n, 32) uint8."""
        return self._blocks(BLINDER, key_ids, redraws, BLINDER_BYTES // _BLOCK)

    def _blocks(self, info: str, key_ids: Sequence[bytes], redraws: Sequence[int], count: int) -> Packed:
        n = len(key_ids)
        plain = np.zeros((n, count, _BLOCK), np.uint8)
        joined = b"".join(key_ids)
        if len(joined) != n * KEY_ID_BYTES:
            raise ValueError(f"a key id has {KEY_ID_BYTES} bytes")
        plain[:, :, :12] = np.frombuffer(joined, np.uint8).reshape(n, 1, KEY_ID_BYTES)
        redraw = np.asarray(redraws, ">u2").reshape(n, 1)
        plain[:, :, 12:14] = redraw.view(np.uint8).reshape(n, 1, 2)
        plain[:, :, 14:16] = np.arange(count, dtype=">u2").view(np.uint8).reshape(1, count, 2)
        return self._encrypted(info, plain).reshape(n, count * _BLOCK)

    def _encrypted(self, info: str, plain: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Imported here: a verifier unpacks keys and never derives any, and has to start quickly.
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        # A PRF on distinct blocks is what ECB computes; no block repeats, as (id, redraw, b) differ.
        encryptor = Cipher(algorithms.AES256(self._keys[info]), modes.ECB()).encryptor()
        return np.frombuffer(encryptor.update(plain.tobytes()) + encryptor.finalize(), np.uint8)


def probabilities(biases: NDArray[np.uint16]) -> NDArray[np.float64]:
    """:meth:`ModelSecret.biases` as probabilities, as :mod:`verifier.evidence` takes them."""
    return biases / 65536.0


def _check(bits: int) -> None:
    if bits <= 0 or bits % 8:
        raise ValueError(f"the number of bits must be a positive multiple of 8, not {bits}")


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
