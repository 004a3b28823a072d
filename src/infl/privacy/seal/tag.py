"""A keyed tag that adds like the message does: ⟨r, q⟩ in the prime field of p = 2⁶¹ − 1.

The integers of a message are cut into blocks of 4,096. With secret, uniform σ (one number a place) and ρ (one a block)

    t(q) = Σ_b ρ_b Σ_j σ_j q_bj   mod p.

t is linear, so the sum of the sites' tags is the tag of the summed integers, which are the true sums (the range rules
out a wrap). Somebody who changes a sum by δ ≠ 0 without knowing σ and ρ must also change the tag by t(δ). Sums are below
2³¹ or 2⁵⁹ in size, else they are refused, so no entry of δ is a multiple of p, and t(δ) is a polynomial in σ and ρ that is
not 0, of degree 2: at most 2 / p = 2⁻⁶⁰ of all (σ, ρ) let a guess pass (Schwartz–Zippel), whichever bits were changed.
Message and tag travel masked, so a forger learns nothing to adapt to.

Exactness: limbs of 16 bits times limbs of 21 bits, summed over 4,096 places, stay below 2⁴⁹ and are exact in float64.
"""

from __future__ import annotations

import numpy as np

from infl.privacy.seal.masks import Stream, Streams

P = (1 << 61) - 1
PLACES = 4096
_LIMB = (1 << 21) - 1


class Tag:
    """Accumulates the tag of a message, block by block.

    Parameters
    ----------
    sigma
        Secret field elements, one a place (4096,).
    rho
        Secret field elements, one a block.
    """

    def __init__(self, sigma: np.ndarray, rho: RhoStream) -> None:
        limbs = [(sigma >> np.uint64(21 * k)) & np.uint64(_LIMB) for k in range(3)]
        self._sigma = np.stack(limbs, 1).astype(np.float64)  # (4096, 3)
        self._rho = rho
        self.value = 0

    def update(self, integers: np.ndarray) -> None:
        """Add the next integers (int32 or int64); all but the last part have a whole number of blocks."""
        full = len(integers) // PLACES * PLACES
        if full:
            self._blocks(integers[:full].reshape(-1, PLACES))
        if len(integers) > full:
            last = np.zeros((1, PLACES), dtype=integers.dtype)
            last[0, : len(integers) - full] = integers[full:]
            self._blocks(last)

    def _blocks(self, q: np.ndarray) -> None:
        """Add blocks (n, 4096): each integer is Σ_k limb_k 2^(16k), the highest limb with its sign."""
        shifts = range(0, 8 * q.dtype.itemsize, 16)
        limbs = [(q >> k if k == shifts[-1] else (q >> k) & 0xFFFF).astype(np.float64) for k in shifts]
        parts = [(limb @ self._sigma).astype(np.int64).tolist() for limb in limbs]  # each (n, 3), exact
        for block in range(len(q)):
            inner = sum(part[block][j] << (k + 21 * j) for k, part in zip(shifts, parts, strict=True) for j in range(3))
            self.value = (self.value + self._rho.next() * inner) % P


class RhoStream:
    """Uniform elements of the field, one a block."""

    def __init__(self, words: Stream) -> None:
        self._words = words
        self._held: list[int] = []

    def next(self) -> int:
        """Return the next element."""
        while not self._held:
            self._held = field_elements(self._words.read(256)).tolist()[::-1]
        return int(self._held.pop())


def field_elements(words: np.ndarray) -> np.ndarray:
    """Return uniform elements of the field from uniform 64-bit words: the top 61 bits, where they are below p."""
    candidates = words >> np.uint64(3)
    return candidates[candidates < P]


def new_tag(streams: Streams) -> Tag:
    """Return the tag of an exchange, keyed by its own stream."""
    words = streams.stream("tag", 0, "<u8")
    sigma = field_elements(words.read(PLACES + 64))[:PLACES].copy()
    return Tag(sigma, RhoStream(words))
