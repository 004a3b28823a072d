"""Pseudorandom streams P₀ … Pₙ of one exchange: ChaCha20 under keys that HKDF-SHA256 derives from the context."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from infl.privacy.seal.context import Context
from infl.privacy.seal.packing import BLOCK


class Streams:
    """The streams of one exchange.

    Parameters
    ----------
    subkey
        The ring's seal subkey.
    context
        The exchange.

    Attributes
    ----------
    opened
        How many streams were opened: two to seal, two for every maximal run of responders to unseal.
    """

    def __init__(self, subkey: bytes, context: Context) -> None:
        self._subkey, self._context = subkey, context
        self.opened = 0

    def key(self, lane: str, index: int = 0) -> bytes:
        """Return the key of a stream: HKDF-Expand(subkey, "infl seal" ‖ lane ‖ index ‖ context digest)."""
        info = b"infl seal " + lane.encode() + index.to_bytes(4, "big") + self._context.digest()
        return HKDFExpand(SHA256(), 32, info).derive(self._subkey)

    def stream(self, lane: str, index: int, dtype: str) -> Stream:
        """Open a stream of words."""
        return Stream(self.key(lane, index), dtype)

    def mask(self, low: np.ndarray, high: np.ndarray, plus: int, minus: int) -> None:
        """Add P_plus − P_minus to both lanes, in place, modulo 2³² and 2⁶⁴."""
        self.opened += 2
        for lane, words in (("low", low), ("high", high)):
            first, second = (self.stream(lane, index, words.dtype.str) for index in (plus, minus))
            for start in range(0, len(words), BLOCK):
                block = words[start : start + BLOCK]
                np.add(block, first.read(len(block)), out=block)
                np.subtract(block, second.read(len(block)), out=block)


class Stream:
    """Words of a ChaCha20 stream, little-endian, read in order into a buffer of its own."""

    def __init__(self, key: bytes, dtype: str) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._dtype = np.dtype(dtype)
        self._zeros = b""
        self._buffer = bytearray()

    def read(self, n: int) -> np.ndarray:
        """Return the next n words; the array is overwritten by the next call."""
        size = n * self._dtype.itemsize
        if len(self._buffer) < size:
            self._buffer, self._zeros = bytearray(size), bytes(size)
        if size:
            self._cipher.update_into(memoryview(self._zeros)[:size], memoryview(self._buffer)[:size])
        return np.frombuffer(self._buffer, self._dtype, count=n)
