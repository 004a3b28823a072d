"""One pass over a lane: quantise, tag and mask block by block, in cache, in place, on two cores where there are two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from infl._threads import cores
from infl.privacy.seal.masks import Stream
from infl.privacy.seal.narrow import FULL, signed
from infl.privacy.seal.packing import Quantiser
from infl.privacy.seal.tag import TAG_PLACES, Tag, split_high

LANE_BLOCK = 1 << 17
"""Words that are worked on at a time; a whole number of the tag's blocks and of ChaCha20's."""
PART = 1 << 20
"""Fewest words that a core of its own is worth."""

Masks = Sequence[tuple[bytes, bytes]]
"""Pairs of stream keys: the first is added, the second taken away."""
SHORT, MOST_KEPT = 1 << 10, 64
"""Most words of a lane whose masks are kept for the neighbours who need them too, and most of such lanes."""
Kept = dict[bytes, np.ndarray]
"""Masks of short lanes of one exchange, by key."""


def close(
    values: Quantiser, words: np.ndarray, tag: Tag | None, masks: Masks, *, first: int = 0, kept: Kept | None = None
) -> int:
    """Quantise a lane, from its place `first` on, into `words` (unsigned), mask it, and return its tag (0 without one), not reduced."""
    integers = words.view(words.dtype.str.replace("u", "i"))

    def part(start: int, stop: int) -> int:
        scratch, cover = np.empty(min(LANE_BLOCK, stop - start)), _cover(masks, words, start, kept)
        sums = _Sums(tag, start)
        for at in range(start, stop, LANE_BLOCK):
            end = min(at + LANE_BLOCK, stop)
            block = scratch[: end - at]
            values.read(first + at, first + end, block)
            integers[at:end] = block
            sums.add(block if integers.itemsize == 4 else integers[at:end])
            cover.apply(words[at:end])
        return sums.value()

    return in_parts(part, len(words))


def open_(words: np.ndarray, tag: Tag | None, masks: Masks, width: int = FULL, *, kept: Kept | None = None) -> int:
    """Take the masks off a lane, in place, and return the tag of its integers (0 without one), not reduced."""
    integers = words.view(words.dtype.str.replace("u", "i"))

    def part(start: int, stop: int) -> int:
        cover, sums = _cover(masks, words, start, kept), _Sums(tag, start)
        for at in range(start, stop, LANE_BLOCK):
            end = min(at + LANE_BLOCK, stop)
            cover.apply(words[at:end])
            if width < FULL:
                signed(words[at:end], width)
            sums.add(integers[at:end])
        return sums.value()

    return in_parts(part, len(words))


def _cover(masks: Masks, words: np.ndarray, start: int, kept: Kept | None) -> _Cover | _Short:
    if kept is None or len(words) > SHORT:
        return _Cover(masks, words.dtype.str, start)
    return _Short(masks, kept)


class _Short:
    """Masks of a short lane, of which each is drawn once: setting up a cipher takes longer than such a stream."""

    def __init__(self, masks: Masks, kept: Kept) -> None:
        self._masks, self._kept = masks, kept

    def apply(self, words: np.ndarray) -> None:
        for plus, minus in self._masks:
            np.add(words, self._words(plus, words), out=words)
            np.subtract(words, self._words(minus, words), out=words)

    def _words(self, key: bytes, words: np.ndarray) -> np.ndarray:
        if key not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[key] = Stream(key, words.dtype.str).read(len(words)).copy()
        return self._kept[key]


class _Cover:
    """Masks, from a place on."""

    def __init__(self, masks: Masks, dtype: str, start: int) -> None:
        self._pairs = [tuple(Stream(key, dtype, start) for key in pair) for pair in masks]

    def apply(self, words: np.ndarray) -> None:
        for plus, minus in self._pairs:
            np.add(words, plus.read(len(words)), out=words)
            np.subtract(words, minus.read(len(words)), out=words)


class _Sums:
    """A tag's inner sums, from a place on."""

    def __init__(self, tag: Tag | None, start: int) -> None:
        self._tag, self._first = tag, start // TAG_PLACES
        self._parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])  # of low and of high halves

    def add(self, block: np.ndarray) -> None:
        """Go on with integers: float64 below 2³¹ in size, int32, or int64."""
        if self._tag is None:
            return
        halves = split_high(block) if block.dtype == np.int64 else (block.astype(np.float64, copy=False),)
        for half, parts in zip(halves, self._parts, strict=False):
            parts.append(self._tag.inner(half))

    def value(self) -> int:
        """Return the part of the tag."""
        low, high = (self._tag.outer(self._first, _joined(p)) if p and self._tag else 0 for p in self._parts)
        return low + (high << 31)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def in_parts(part: Callable[[int, int], int], n: int, *, passes: int = 1) -> int:
    """Add a function over parts of n places; large lanes on several cores (numpy and OpenSSL release the lock)."""
    workers = min(n * passes // PART, -(-n // LANE_BLOCK), 8)
    if workers <= 1 or (workers := min(workers, cores())) == 1:
        return part(0, n)
    size = -(-n // workers // LANE_BLOCK) * LANE_BLOCK
    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, n, size)
        return sum(pool.map(part, starts, [min(start + size, n) for start in starts]))


assert LANE_BLOCK % TAG_PLACES == 0
