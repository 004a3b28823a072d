"""What a seal is bound to, and what travels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from infl.errors import FederationError
from infl.privacy.seal.narrow import FULL, narrowed, packed_size, reduce


@dataclass(frozen=True)
class Context:
    """Run, round, attempt, kind, ordered cohort and packing: all that makes one exchange different from every other.

    Parameters
    ----------
    run
        Random name of the run.
    round, attempt
        Training round, and how often its sum was asked for before.
    cohort
        Sites that are asked, in order.
    kind
        What is summed.
    packing
        Digest of the arrays and their scales.
    agreement
        Digest of what the sites agreed on, where there is such: sites that agreed on other things open nothing together.
    epochs
        Digest of the keys that the sites made when they started (:func:`infl.privacy.seal.epochs_of`), between machines:
        a site that starts again, from an old backup too, never seals under masks that it used before.

    Examples
    --------
    >>> a = Context("run", 1, 0, ("x", "y", "z"), "train", "")
    >>> b = Context("run", 1, 1, ("x", "y", "z"), "train", "")
    >>> a.digest() == b.digest()
    False
    """

    run: str
    round: int
    attempt: int
    cohort: tuple[str, ...]
    kind: str
    packing: str
    agreement: str = ""
    epochs: str = ""

    def __post_init__(self) -> None:
        if len(set(self.cohort)) < len(self.cohort):
            twice = next(s for s in self.cohort if self.cohort.count(s) > 1)
            raise FederationError(f"two sites are called {twice!r}: give each its own name")

    @cached_property
    def _digest(self) -> bytes:
        late = (
            "agreement",
            "epochs",
        )  # absent where there are none, so that vectors of the seal alone stay what they are
        content = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) or f.name not in late}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {site: place for place, site in enumerate(self.cohort)}

    def digest(self) -> bytes:
        """Return the SHA-256 of all of it (32 bytes)."""
        return self._digest

    def position(self, site: str) -> int:
        """Return where in the cohort a site is.

        Raises
        ------
        FederationError
            It is not in the cohort.
        """
        if site not in self._places:
            raise FederationError(f"{site!r} is not in the cohort of this round ({', '.join(self.cohort[:8])})")
        return self._places[site]


@dataclass(frozen=True)
class MaskedArrays:
    """A sealed message, or a sum of such: 32-bit words (update) and 64-bit words (sums, then the tag's two).

    Attributes
    ----------
    low
        32-bit words.
    high
        64-bit words.
    of_all
        64-bit words under masks of their own, with a tag of their own: a sum has them where the whole cohort is in it.
    width
        How many low bits of the 32-bit words count, and travel (:mod:`infl.privacy.seal.narrow`).

    Examples
    --------
    >>> words = MaskedArrays(np.zeros(3, np.uint32), np.zeros(1, np.uint64))
    >>> words.nbytes
    20
    """

    low: np.ndarray
    high: np.ndarray
    of_all: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    width: int = FULL

    @property
    def lanes(self) -> tuple[int, ...]:
        """How many words there are of each kind; and how many bits those of the first have, where that is not 32."""
        return len(self.low), len(self.high), len(self.of_all), *narrowed(self.width)

    @property
    def nbytes(self) -> int:
        """Size in bytes, as they travel."""
        return packed_size(len(self.low), self.width) + self.high.nbytes + self.of_all.nbytes

    def digest(self) -> str:
        """Return the SHA-256 of all words."""
        digest = hashlib.sha256(np.ascontiguousarray(self.low).data)
        digest.update(np.ascontiguousarray(self.high).data)
        digest.update(np.ascontiguousarray(self.of_all).data)
        return digest.hexdigest()

    def copy(self) -> MaskedArrays:
        """Return the same words in memory of their own."""
        return MaskedArrays(self.low.copy(), self.high.copy(), self.of_all.copy(), self.width)

    def of_some(self) -> MaskedArrays:
        """Return a sum in which somebody is missing: without what is opened of all sites alone."""
        return MaskedArrays(self.low, self.high, width=self.width)


def add(total: MaskedArrays | None, words: MaskedArrays) -> MaskedArrays:
    """Add words modulo 2³² and 2⁶⁴, in place: all that a coordinator does.

    Parameters
    ----------
    total
        Sum so far (None: begin one; the first message's buffers are copied).
    words
        A message.

    Returns
    -------
    MaskedArrays
        The sum.

    Raises
    ------
    FederationError
        The message has another size than the sum.

    Examples
    --------
    >>> one = MaskedArrays(np.array([2**32 - 1], np.uint32), np.array([5], np.uint64))
    >>> total = add(None, one)
    >>> add(total, one).low, total.high
    (array([4294967294], dtype=uint32), array([10], dtype=uint64))
    """
    if total is None:
        return words.copy()
    if total.lanes != words.lanes:
        raise FederationError(f"a message has {words.lanes} words, the others {total.lanes}; refused")
    np.add(total.low, words.low, out=total.low)
    reduce(total.low, total.width)
    np.add(total.high, words.high, out=total.high)
    np.add(total.of_all, words.of_all, out=total.of_all)
    return total
