"""Fixed point: which arrays a message has, and how their values become integers that add exactly."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import inf, isfinite, prod

import numpy as np

from infl.errors import SealError, SettingsError
from infl.privacy.seal.narrow import FULL, LEAST, narrowed, uniform

LANE_RANGE = {32: (1 << 31) - 1, 64: 1 << 59}
"""Largest size of a sum in each lane."""
TAG_WORDS = 2
"""64-bit words of a message beside its sums: the tag, or zeros."""


class RangeError(SealError):
    """Values do not fit their scale; nothing was sealed.

    Attributes
    ----------
    fields
        For each array that leaves its range, by which factor.

    Examples
    --------
    >>> raise RangeError({"weight": 3.5})
    Traceback (most recent call last):
    infl.privacy.seal.packing.RangeError: out of the agreed range: weight by a factor of 3.5; agree on a coarser scale, or on clipping
    """

    def __init__(self, fields: dict[str, float]) -> None:
        self.fields = fields
        shown = ", ".join(f"{name} by a factor of {factor:.3g}" for name, factor in list(fields.items())[:3])
        super().__init__(f"out of the agreed range: {shown}; agree on a coarser scale, or on clipping")


@dataclass(frozen=True)
class Field:
    """One array of a message.

    Attributes
    ----------
    name, shape
        Which array.
    exponent
        ``value = integer · 2**exponent``.
    bits
        32 (updates) or 64 (sums).
    of_all
        Its sum is opened where the whole cohort is in it, and stays closed where somebody is missing.

    Examples
    --------
    >>> field = Field("weight", (2, 3), exponent=-20)
    >>> field.size, field.step == 2**-20
    (6, True)
    """

    name: str
    shape: tuple[int, ...]
    exponent: int
    bits: int = 32
    of_all: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def step(self) -> float:
        """Distance of neighbouring values."""
        return 2.0**self.exponent


@dataclass(frozen=True)
class Packing:
    """The arrays of a message, in order; those of 32 and of 64 bits make one flat lane each.

    At the end of the 64-bit lane are the arrays that are opened of all sites or not.

    Parameters
    ----------
    fields
        The arrays.
    width
        Bits of a word of the 32-bit lane, see :mod:`infl.privacy.seal.narrow`.

    Examples
    --------
    >>> packing = Packing((Field("weight", (2, 3), -30), Field("n", (), 0, bits=64)))
    >>> packing.n32, packing.n64
    (6, 1)
    >>> packing.coarser({"weight": 4}).fields[0].exponent
    -26
    """

    fields: tuple[Field, ...]
    width: int = FULL

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if len(set(names)) < len(names):
            raise SettingsError(f"packing: {next(n for n in names if names.count(n) > 1)!r} is named twice")
        if not (self.width == FULL or LEAST <= self.width < FULL):
            raise SettingsError(f"packing: words have {LEAST} to {FULL} bits, not {self.width}")
        for f in self.fields:
            if (
                f.bits not in (32, 64)
                or (f.of_all and f.bits == 32)
                or not isinstance(f.exponent, int)
                or not -1000 < f.exponent < 1000
            ):
                raise SettingsError(f"packing: {f.name!r} has no scale: give it an exponent, and 32 or 64 bits")

    @cached_property
    def n32(self) -> int:
        """Words of the 32-bit lane."""
        return sum(f.size for f in self.fields if f.bits == 32)

    @cached_property
    def n64(self) -> int:
        """Words of the 64-bit lane, without the tag."""
        return sum(f.size for f in self.fields if f.bits == 64)

    @cached_property
    def n_some(self) -> int:
        """Words of the 64-bit lane, without the tag, that are opened of a part of the sites too: its first ones."""
        return sum(f.size for f in self.fields if f.bits == 64 and not f.of_all)

    @property
    def lanes(self) -> tuple[int, ...]:
        """Words of a message of 32 bits, of 64, and of 64 opened of all sites only, with tags: all that its size tells.

        Where words of the first kind have fewer bits, a fourth number says how many.
        """
        n_all = self.n64 - self.n_some
        return self.n32, self.n_some + TAG_WORDS, n_all + TAG_WORDS if n_all else 0, *narrowed(self.width)

    def lanes_of(self, *, all_sites: bool) -> tuple[int, ...]:
        """Return the words of a sum: of all sites of the cohort, or of some."""
        return self.lanes if all_sites else (*self.lanes[:2], 0, *narrowed(self.width))

    def lane(self, bits: int) -> list[tuple[Field, slice]]:
        """Return the fields of a lane and where they lie in it."""
        return self._lanes[bits]

    def runs(self, bits: int) -> list[tuple[int, int, float]]:
        """Return the runs of a lane's neighbours that have one scale: first place, place after the last, distance of values."""
        return self._runs[bits]

    @cached_property
    def _lanes(self) -> dict[int, list[tuple[Field, slice]]]:
        lanes: dict[int, list[tuple[Field, slice]]] = {32: [], 64: []}
        for f in sorted(self.fields, key=lambda f: f.of_all):
            start = lanes[f.bits][-1][1].stop if lanes[f.bits] else 0
            lanes[f.bits].append((f, slice(start, start + f.size)))
        return lanes

    @cached_property
    def _runs(self) -> dict[int, list[tuple[int, int, float]]]:
        runs: dict[int, list[tuple[int, int, float]]] = {}
        for bits, lane in self._lanes.items():
            filled = [item for item in lane if item[0].size]
            groups = [(step, list(group)) for step, group in groupby(filled, key=lambda item: item[0].step)]
            runs[bits] = [(group[0][1].start, group[-1][1].stop, step) for step, group in groups]
        return runs

    def coarser(self, by: Mapping[str, int]) -> Packing:
        """Return the packing with the scales of the named arrays widened by ``2**by[name]``."""
        if not by:
            return self
        return replace(self, fields=tuple(replace(f, exponent=f.exponent + by.get(f.name, 0)) for f in self.fields))

    @cached_property
    def _digest(self) -> str:
        rows = [(f.name, f.shape, f.bits, *(["of all"] if f.of_all else [])) for f in self.fields]
        named: object = rows if self.width == FULL else {"fields": rows, "width": self.width}
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def digest(self) -> str:
        """Return the SHA-256 of names, shapes and bits; not of scales, which may follow from sums that only sites opened."""
        return self._digest


def limit(bits: int, n_sites: int, share: float | None = None) -> int:
    """Return the largest integer that a site may send, so that no sum of `n_sites` leaves the lane's range.

    With shares sᵢ that add to at most 1 (default: 1 / n each), each site's |qᵢ| ≤ ⌊sᵢ (R − n)⌋, and these add to at most
    R: the sum is read back exactly as a signed integer. R is 2³¹ − 1 for the 32-bit lane; 2⁵⁹ for the 64-bit lane, so that
    two sums in range never differ by a multiple of the tag's prime; 2ʷ⁻¹ − 1 for words of w bits.
    """
    top = LANE_RANGE.get(bits, (1 << bits - 1) - 1)
    top -= n_sites + (top >> 48)  # room for the rounding of shares
    return top // n_sites if share is None else int(min(share, 1.0) * top)


def misfits(values: np.ndarray, packing: Packing, bits: int, *, largest: int, weight: float = 1.0) -> dict[str, float]:
    """Return which arrays of a lane do not fit it, by which factor: infinity where a value is NaN or infinite.

    Parameters
    ----------
    values
        The lane's values, flat.
    packing, bits
        The lane, and its packing.
    largest
        Largest size of an integer, see :func:`limit`.
    weight
        Multiplies the values.

    Examples
    --------
    >>> packing = Packing((Field("a", (2,), 0), Field("b", (2,), 0)))
    >>> misfits(np.array([1.0, -2.0, 30.0, 0.0]), packing, 32, largest=10)
    {'b': 3.0}
    """

    def highest(start: int, stop: int, step: float) -> float:
        part = values[start:stop]
        found = max(float(part.max()), -float(part.min())) * abs(weight) / step
        return found if isfinite(found) else inf

    if all(np.rint(highest(*run)) <= largest for run in packing.runs(bits)):  # neighbours on one scale at once
        return {}
    sizes = {f.name: highest(at.start, at.stop, f.step) for f, at in packing.lane(bits) if f.size}
    return {name: size / max(largest, 1) for name, size in sizes.items() if np.rint(size) > largest}


class Quantiser:
    """Turns blocks of one lane into integers: ``rint(weight · value / step)``, within a range.

    Parameters
    ----------
    values
        The lane's values, flat.
    packing, bits
        The lane, and its packing.
    weight
        Multiplies the values.
    largest
        Largest size of an integer.
    clip
        Clip what is larger, instead of noting it in `wrong`.
    rounding
        Key of the stream by which values are rounded up or down at random, so that the mean is right; None: to the nearest.

    Attributes
    ----------
    wrong
        Arrays that leave the range, with the factor.
    """

    def __init__(
        self,
        values: np.ndarray,
        packing: Packing,
        bits: int,
        *,
        weight: float,
        largest: int,
        clip: bool,
        rounding: bytes | None = None,
    ) -> None:
        self._values, self._largest, self._clip, self._rounding = values, largest, clip, rounding
        self._lane = packing.lane(bits)
        self._parts = [(start, stop, weight / step) for start, stop, step in packing.runs(bits)]
        self._stops = [stop for _, stop, _ in self._parts]
        self.wrong: dict[str, float] = {}

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write the integers of the places `start` to `stop` into `out` (float64, exact).

        Raises
        ------
        SealError
            A value is NaN or infinite.
        """
        for first, last, factor in self._parts[bisect_right(self._stops, start) :]:
            if first >= stop:
                break
            low, high = max(first, start), min(last, stop)
            values, block = self._values[low:high], out[low - start : high - start]
            np.copyto(block, values)
            np.multiply(block, factor, out=block)  # in float64: float32 has fewer bits than the integers
            if self._rounding is None:
                np.rint(block, out=block)
            else:
                block += uniform(self._rounding, low, high)
                np.floor(block, out=block)
            highest = max(float(values.max()), -float(values.min())) * abs(factor)  # of half as many bytes
            if (np.rint(highest) if self._rounding is None else np.floor(highest) + 1) <= self._largest:
                continue
            self._note(block, low)
            np.clip(block, -self._largest, self._largest, out=block)

    def _note(self, block: np.ndarray, start: int) -> None:
        """Write down which arrays leave the range in a block from place `start` on."""
        for f, place in self._lane:
            part = block[max(place.start - start, 0) : max(place.stop - start, 0)]
            highest = np.abs(part).max(initial=0)
            if highest <= self._largest:
                continue
            if not np.isfinite(highest):
                raise SealError(f"{f.name} has NaN or infinite values; nothing was sealed: lower lr=, check the data")
            if not self._clip:
                self.wrong[f.name] = max(self.wrong.get(f.name, 0.0), float(highest / self._largest))


def dequantise(integers: tuple[np.ndarray, np.ndarray], packing: Packing) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of both lanes: the 32-bit one as float32, the 64-bit one as float64.

    Parameters
    ----------
    integers
        Signed sums of both lanes, from ``unseal``; the second may end before what is opened of all sites only.
    packing
        As it was sealed with.

    Examples
    --------
    >>> packing = Packing((Field("weight", (2,), -2), Field("n", (), 0, bits=64)))
    >>> dequantise((np.array([1, -6], np.int32), np.array([7])), packing)
    (array([ 0.25, -1.5 ], dtype=float32), array([7.]))
    """
    low, high = integers
    vector, sums = np.empty(len(low), dtype=np.float32), np.empty(len(high))
    for bits, lane, out in ((32, low, vector), (64, high, sums)):
        for start, stop, step in packing.runs(bits):  # a run may go on into what stayed closed
            np.multiply(lane[start:stop], step, out=out[start:stop], casting="unsafe")
    return vector, sums
