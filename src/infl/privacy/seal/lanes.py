"""One pass over a lane: quantise, tag and mask block by block, in cache, in place, on two cores where there are two."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from infl.privacy.seal.masks import Stream
from infl.privacy.seal.packing import Quantiser
from infl.privacy.seal.tag import PLACES, P, Tag, split_high

BLOCK = 1 << 16
"""Words that are worked on at a time; a whole number of the tag's blocks and of ChaCha20's."""

Masks = Sequence[tuple[bytes, bytes]]
"""Pairs of stream keys: the first is added, the second taken away."""


def close(values: Quantiser, words: np.ndarray, tag: Tag | None, masks: Masks) -> int:
    """Quantise a lane into `words` (unsigned), mask it, and return its tag (0 without one)."""
    signed = words.view(words.dtype.str.replace("u", "i"))

    def part(start: int, stop: int) -> int:
        scratch, cover = np.empty(min(BLOCK, stop - start)), _Cover(masks, words.dtype.str, start)
        value = 0
        for at in range(start, stop, BLOCK):
            end = min(at + BLOCK, stop)
            block = scratch[: end - at]
            values.read(at, end, block)
            signed[at:end] = block
            if tag is not None:
                value += _tag(tag, at, block if signed.itemsize == 4 else signed[at:end])
            cover.apply(words[at:end])
        return value

    return _in_parts(part, len(words))


def open_(words: np.ndarray, tag: Tag | None, masks: Masks) -> int:
    """Take the masks off a lane, in place, and return the tag of its integers (0 without one)."""
    signed = words.view(words.dtype.str.replace("u", "i"))

    def part(start: int, stop: int) -> int:
        cover, value = _Cover(masks, words.dtype.str, start), 0
        for at in range(start, stop, BLOCK):
            end = min(at + BLOCK, stop)
            cover.apply(words[at:end])
            if tag is not None:
                block = signed[at:end]
                value += _tag(tag, at, block.astype(np.float64) if signed.itemsize == 4 else block)
        return value

    return _in_parts(part, len(words))


class _Cover:
    """Masks, from a place on."""

    def __init__(self, masks: Masks, dtype: str, start: int) -> None:
        self._pairs = [tuple(Stream(key, dtype, start) for key in pair) for pair in masks]

    def apply(self, words: np.ndarray) -> None:
        for plus, minus in self._pairs:
            np.add(words, plus.read(len(words)), out=words)
            np.subtract(words, minus.read(len(words)), out=words)


def _tag(tag: Tag, start: int, block: np.ndarray) -> int:
    if block.dtype == np.float64:
        return tag.of(start, block)
    low, high = split_high(block)
    return tag.of(start, low) + (tag.of(start, high) << 31)


def _in_parts(part: Callable[[int, int], int], n: int) -> int:
    """Add a function over parts of n places; large lanes on several cores (numpy and OpenSSL release the lock)."""
    workers = min(n // (1 << 20), os.cpu_count() or 1, 8) if n >= 1 << 21 else 1
    if workers == 1:
        return part(0, n) % P
    size = -(-n // workers // BLOCK) * BLOCK
    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, n, size)
        return sum(pool.map(part, starts, [min(start + size, n) for start in starts])) % P


assert BLOCK % PLACES == 0
