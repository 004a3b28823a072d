"""A keyed tag that adds like the message does: ⟨r, q⟩ in the prime field of p = 2⁶¹ − 1.

The integers of a lane are cut into blocks of 4,096. With secret, uniform σ (60 bits, one a place) and ρ (61 bits, one a
block)

    t(q) = Σ_b ρ_b Σ_j σ_j q_bj   mod p.

t is linear, so the sum of the sites' tags is the tag of the summed integers, which are the true sums (the range rules
out a wrap). Somebody who changes a sum by δ ≠ 0 without knowing σ and ρ must also change the tag by t(δ). Sums are below
2³¹ or 2⁵⁹ in size, else they are refused, so no entry of δ is a multiple of p, and t(δ) is a polynomial in σ and ρ that is
not 0, of degree 1 in each: at most 2⁻⁶⁰ + 2⁻⁶¹ of all (σ, ρ) let a guess pass (Schwartz–Zippel), whichever bits were
changed. Message and tag travel masked, so a forger learns nothing to adapt to.

Exactness: integers below 2³¹ in size times limbs of 10 bits, summed over 4,096 places, stay below 2⁵³ and are exact in
float64, so the inner sums are one small matrix product, in cache. They are cut into limbs of 27 bits and ρ into limbs of
16, so that the outer sums, over up to 2²⁰ blocks, are exact in int64. 64-bit integers go in two parts,
``v = low + 2³¹ high``.
"""

from __future__ import annotations

from operator import mul

import numpy as np

from infl.privacy.seal.masks import Stream

TAG_PRIME = (1 << 61) - 1
TAG_PLACES = 4096
LIMBS, LIMB_BITS = 6, 10
SUM_BITS, RHO_BITS = 27, 16
FEW = 8
"""With fewer blocks Python's own integers are as fast."""


class Tag:
    """The keyed linear function t of one lane.

    Parameters
    ----------
    key
        Secret of this exchange and lane.
    n
        Number of integers.
    """

    def __init__(self, key: bytes, n: int) -> None:
        stream = Stream(key, "<u8")
        sigma = stream.read(min(TAG_PLACES, n)) >> np.uint64(4)
        self._sigma = _limbs(sigma, LIMB_BITS, LIMBS).astype(np.float64)  # (6, 4096 or n)
        self._rho = stream.read(-(-n // TAG_PLACES)) >> np.uint64(3)  # (n_blocks,)

    def inner(self, integers: np.ndarray) -> np.ndarray:
        """Return the inner sums (6, n_blocks) of integers from a block's first place on; float64, below 2³¹ in size."""
        if len(integers) <= TAG_PLACES:
            return (self._sigma[:, : len(integers)] @ integers)[:, None]
        full = len(integers) // TAG_PLACES * TAG_PLACES
        parts = [self._sigma @ integers[:full].reshape(-1, TAG_PLACES).T] if full else []
        if len(integers) > full:
            parts.append((self._sigma[:, : len(integers) - full] @ integers[full:])[:, None])
        return np.concatenate(parts, 1)

    def outer(self, first: int, sums: np.ndarray) -> int:
        """Return the part of t that blocks from number `first` on give, from their inner sums (6, n_blocks)."""
        exact = sums.astype(np.int64)
        rho = self._rho[first : first + exact.shape[1]]
        if len(rho) < FEW:
            columns = zip(range(LIMBS), exact.tolist(), strict=True)
            return sum(sum(map(mul, rho.tolist(), column)) << (LIMB_BITS * k) for k, column in columns)
        limbs = _limbs(rho, RHO_BITS, 4).astype(np.int64).T  # (n_blocks, 4)
        low, high = (part @ limbs for part in (exact & ((1 << SUM_BITS) - 1), exact >> SUM_BITS))  # (6, 4) each
        return sum(
            value << (LIMB_BITS * k + RHO_BITS * j + shift)
            for shift, table in ((0, low), (SUM_BITS, high))
            for k, row in enumerate(table.tolist())
            for j, value in enumerate(row)
        )


def _limbs(values: np.ndarray, bits: int, n: int) -> np.ndarray:
    """Return the n lowest limbs of unsigned integers, (n, len(values))."""
    return values >> (np.arange(n, dtype=np.uint64)[:, None] * np.uint64(bits)) & np.uint64((1 << bits) - 1)


def split_high(integers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``low`` and ``high`` of 64-bit integers below 2⁶² in size, as float64: ``v = low + 2³¹ high``."""
    return (integers & 0x7FFFFFFF).astype(np.float64), (integers >> 31).astype(np.float64)


def as_words(tag: int) -> list[int]:
    """Return a tag as two words whose sums over many sites do not wrap: low 31 bits, high 30 bits."""
    return [tag & 0x7FFFFFFF, tag >> 31]


def from_words(words: np.ndarray) -> int:
    """Return the tag of two summed words."""
    return (int(words[0]) + (int(words[1]) << 31)) % TAG_PRIME
