"""Words of fewer than 32 bits: an update that is quantised to b bits travels as b + ⌈log₂ n⌉ bits a weight.

The sum of n integers of b bits has b + ⌈log₂ n⌉ bits, so nothing of it is lost modulo 2 to that number, the *width*; and
neither is anything of the masks, which are reduced like the integers. Sites mask words of 32 bits as always and send the low
bits of each, packed one after the other. The coordinator adds them, and whoever opens the sum takes the masks' low bits off.

Rounding is stochastic: ⌊x + u⌋ with u uniform in [0, 1) has the expectation x, whatever x is, and is less than one step away.
A site draws u from a stream of its own, so that a message is the same whenever it is made again.

References
----------
Alistarh et al., QSGD: communication-efficient SGD via gradient quantization and encoding, NeurIPS 2017.
"""

from __future__ import annotations

import hashlib

import numpy as np

from infl.errors import SealError, SettingsError
from infl.privacy.seal.masks import CHACHA_BLOCK, Stream

FULL = 32
"""Bits of a word that is not narrow."""
LEAST, MOST = 4, 16
"""Bits of a weight."""


def width_of(bits: int, n_sites: int) -> int:
    """Return how many bits a word needs that holds the sum of `n_sites` integers of `bits` bits.

    Examples
    --------
    >>> width_of(8, 10), width_of(5, 10), width_of(8, 16)
    (12, 9, 12)
    """
    if not LEAST <= bits <= MOST:
        raise SettingsError(f"bits={bits}: give a whole number from {LEAST} to {MOST}")
    return min(bits + max(n_sites - 1, 0).bit_length(), FULL)


def narrowed(width: int) -> tuple[int, ...]:
    """Return the width, where words are narrow, as one more number that describes a message."""
    return () if width == FULL else (width,)


def packed_size(n: int, width: int) -> int:
    """Return the bytes of `n` words of `width` bits.

    Examples
    --------
    >>> packed_size(1000, 12), packed_size(3, 9)
    (1500, 4)
    """
    return (n * width + 7) // 8


def reduce(words: np.ndarray, width: int) -> None:
    """Keep the low bits of 32-bit words, in place."""
    if width < FULL:
        np.bitwise_and(words, np.uint32((1 << width) - 1), out=words)


def signed(words: np.ndarray, width: int) -> None:
    """Read the low bits of 32-bit words as signed integers, in place.

    Examples
    --------
    >>> words = np.array([0xFFF, 5, 0x1800], np.uint32)
    >>> signed(words, 12)
    >>> words.view(np.int32).tolist()
    [-1, 5, -2048]
    """
    if width < FULL:
        shift = FULL - width
        np.left_shift(words, np.uint32(shift), out=words)
        numbers = words.view(np.int32)
        np.right_shift(numbers, shift, out=numbers)


def pack(words: np.ndarray, width: int) -> np.ndarray:
    """Return 32-bit words below 2 to the width as bytes, low bits first, one word after the other.

    Examples
    --------
    >>> pack(np.array([0xABC, 0x123], np.uint32), 12).tobytes().hex()
    'bc3a12'
    """
    if width == FULL:
        return np.ascontiguousarray(words, "<u4").view(np.uint8)
    parts = []
    for start in range(0, len(words), _AT_ONCE):  # a multiple of 8 words ends with a whole byte
        octets = np.ascontiguousarray(words[start : start + _AT_ONCE], "<u4").view(np.uint8).reshape(-1, 4)
        bits = np.unpackbits(octets, axis=1, bitorder="little", count=width)
        parts.append(np.packbits(bits, bitorder="little"))
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def unpack(packed: np.ndarray, n: int, width: int) -> np.ndarray:
    """Inverse of :func:`pack`.

    Raises
    ------
    SealError
        It is not `n` words.

    Examples
    --------
    >>> [hex(word) for word in unpack(np.frombuffer(bytes.fromhex("bc3a12"), np.uint8), 2, 12)]
    ['0xabc', '0x123']
    """
    if len(packed) != packed_size(n, width):
        raise SealError(f"{len(packed)} bytes are not {n} words of {width} bits")
    if width == FULL:
        return packed.view("<u4")
    words = np.empty(n, np.uint32)
    for start in range(0, n, _AT_ONCE):
        stop = min(start + _AT_ONCE, n)
        part = packed[start * width // 8 : packed_size(stop, width)]
        bits = np.unpackbits(part, bitorder="little", count=(stop - start) * width).reshape(-1, width)
        octets = np.zeros((stop - start, 4), np.uint8)
        filled = np.packbits(bits, axis=1, bitorder="little")
        octets[:, : filled.shape[1]] = filled
        words[start:stop] = octets.view("<u4")[:, 0]
    if n * width % 8 and packed[-1] >> n * width % 8:
        raise SealError("packed words have bits that belong to no word")
    return words


def uniform(key: bytes, start: int, stop: int) -> np.ndarray:
    """Return the numbers of a stream from place `start` to `stop`, uniform in [0, 1), multiples of 2⁻³²."""
    first = start - start % _OF_BLOCK  # a stream is entered at a whole block
    return Stream(key, "<u4", first).read(stop - first)[start - first :] * 2.0**-32


def rounding_key(seed: int, seq: int, site: str) -> bytes:
    """Return the key of the stream by which a site rounds the update of a round; the same whenever it is made.

    Examples
    --------
    >>> rounding_key(0, 5, "site_1").hex()[:8]
    '894d1940'
    """
    return hashlib.sha256(f"infl rounding {seed} {seq} {site}".encode()).digest()


_OF_BLOCK = CHACHA_BLOCK // 4
_AT_ONCE = 1 << 16
