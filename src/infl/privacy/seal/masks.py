"""Pseudorandom streams of one exchange: ChaCha20 under keys that HKDF-SHA256 derives from the context."""

from __future__ import annotations

import hmac
import threading

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

CHACHA_BLOCK = 64
"""Bytes of a ChaCha20 block; its number is a stream's counter."""


_THREAD = threading.local()


def _scratch(size: int) -> tuple[memoryview, memoryview]:
    """Return zeros and a buffer of at least `size` bytes, this thread's own: fresh pages cost as much as the cipher."""
    if getattr(_THREAD, "size", -1) < size:
        _THREAD.size, _THREAD.zeros, _THREAD.buffer = size, memoryview(bytes(size)), memoryview(bytearray(size))
    return _THREAD.zeros, _THREAD.buffer


class Stream:
    """Words of a ChaCha20 stream (RFC 8439, nonce 0), little-endian, read in order.

    Parameters
    ----------
    key
        32 bytes.
    dtype
        Of the words.
    start
        Number of the first word; a multiple of a ChaCha20 block.
    """

    def __init__(self, key: bytes, dtype: str, start: int = 0) -> None:
        self._dtype = np.dtype(dtype)
        counter, rest = divmod(start * self._dtype.itemsize, CHACHA_BLOCK)
        if rest:
            raise ValueError(f"a stream is entered at a whole block, not at word {start}")
        self._cipher = Cipher(
            algorithms.ChaCha20(key, counter.to_bytes(4, "little") + bytes(12)), mode=None
        ).encryptor()

    def read(self, n: int) -> np.ndarray:
        """Return the next n words; the next call of any stream in this thread overwrites them."""
        size = n * self._dtype.itemsize
        zeros, buffer = _scratch(size)
        if size:
            self._cipher.update_into(zeros[:size], buffer[:size])
        return np.frombuffer(buffer, self._dtype, count=n)


class Streams:
    """The streams of one exchange, by lane and number.

    Parameters
    ----------
    subkey
        The ring's seal subkey.
    context
        Digest of the exchange's context.
    """

    def __init__(self, subkey: bytes, context: bytes) -> None:
        self._subkey, self._context = subkey, context
        self._keys: dict[tuple[str, int], bytes] = {}

    def key(self, lane: str, index: int = 0) -> bytes:
        """Return the key of a stream: HKDF-Expand(subkey, "infl seal " ‖ lane ‖ index as 4 bytes ‖ context digest)."""
        if (lane, index) not in self._keys:
            info = b"infl seal " + lane.encode() + index.to_bytes(4, "big") + self._context
            one = hmac.digest(self._subkey, info + b"\x01", "sha256")  # a block of HKDF-Expand (RFC 5869) is this HMAC
            self._keys[lane, index] = one
        return self._keys[lane, index]
