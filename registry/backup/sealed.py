"""A file encrypted under a passphrase, written in one pass and read from any place.

    with SealedWriter(file, passphrase) as sealed: sealed.write(content)
    reader = SealedReader(file, passphrase); reader.seek(...); reader.read(...)

The key is scrypt(passphrase, salt) (RFC 7914). The content is cut into chunks of 1 MiB, each sealed with
AES-256-GCM whose nonce counts the chunks and marks the last one: the STREAM construction (Hoang,
Reyhanitabar, Rogaway and Vizár, 2015). Chunks cannot be altered, left out, reordered, or cut off at the end.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from registry.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAGIC = b"hallmark/sealed-file/v1\n"
CHUNK_BYTES = 1 << 20
_SALT_BYTES, _PREFIX_BYTES, _TAG_BYTES = 16, 7, 16
_HEADER_BYTES = len(MAGIC) + _SALT_BYTES + _PREFIX_BYTES
_SCRYPT = {"length": 32, "n": 1 << 17, "r": 8, "p": 1}
"""128 MiB and about half a second for each guess of a passphrase."""


def is_sealed(file: BinaryIO) -> bool:
    """Whether ``file`` begins like a sealed one; leaves it at its start."""
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


class _Cipher:
    def __init__(self, header: bytes, passphrase: str) -> None:
        self._header = header
        self._prefix = header[-_PREFIX_BYTES:]
        salt = header[len(MAGIC) : len(MAGIC) + _SALT_BYTES]
        self._aead = AESGCM(Scrypt(salt=salt, **_SCRYPT).derive(passphrase.encode()))

    def seal(self, number: int, last: bool, content: bytes) -> bytes:
        return self._aead.encrypt(self._nonce(number, last), content, self._header)

    def open(self, number: int, last: bool, sealed: bytes) -> bytes:
        return self._aead.decrypt(self._nonce(number, last), sealed, self._header)

    def _nonce(self, number: int, last: bool) -> bytes:
        return self._prefix + number.to_bytes(4) + bytes([last])


class SealedWriter(io.RawIOBase):
    """Encrypts what is written to it into ``target``; whole only once it was closed."""

    def __init__(self, target: BinaryIO, passphrase: str) -> None:
        header = MAGIC + os.urandom(_SALT_BYTES + _PREFIX_BYTES)
        self._target, self._cipher = target, _Cipher(header, passphrase)
        self._number, self._pending = 0, bytearray()
        target.write(header)

    def writable(self) -> bool:
        return True

    def write(self, content: ReadableBuffer, /) -> int:
        self._pending += content
        while len(self._pending) > CHUNK_BYTES:  # the last chunk must stay, for it is marked
            self._put(bytes(self._pending[:CHUNK_BYTES]), last=False)
            del self._pending[:CHUNK_BYTES]
        return memoryview(content).nbytes

    def finish(self) -> None:
        """Write the last chunk: without it the file does not open."""
        self._put(bytes(self._pending), last=True)

    def _put(self, chunk: bytes, last: bool) -> None:
        self._target.write(self._cipher.seal(self._number, last, chunk))
        self._number += 1


class SealedReader(io.RawIOBase):
    """The content of a sealed file; seekable. :class:`InputError` where the passphrase does not fit."""

    def __init__(self, source: BinaryIO, passphrase: str) -> None:
        self._source = source
        stored = source.seek(0, os.SEEK_END) - _HEADER_BYTES
        self._last = max(0, -(-stored // (CHUNK_BYTES + _TAG_BYTES)) - 1)
        self._size = max(0, stored - _TAG_BYTES * (self._last + 1))
        source.seek(0)
        self._cipher = _Cipher(source.read(_HEADER_BYTES), passphrase)
        self._position, self._held = 0, (-1, b"")
        try:
            self._chunk(0)
        except IntegrityError:
            raise InputError("the passphrase does not open the backup, or it is damaged.") from None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._size:
            return 0
        number, offset = divmod(self._position, CHUNK_BYTES)
        content = self._chunk(number)[offset : offset + len(view)]
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _chunk(self, number: int) -> bytes:
        if self._held[0] != number:
            self._source.seek(_HEADER_BYTES + number * (CHUNK_BYTES + _TAG_BYTES))
            sealed = self._source.read(CHUNK_BYTES + _TAG_BYTES)
            try:
                self._held = number, self._cipher.open(number, number == self._last, sealed)
            except (InvalidTag, ValueError):
                raise IntegrityError(
                    "the backup is damaged or was cut off.", "Use another backup; nothing was changed."
                ) from None
        return self._held[1]
