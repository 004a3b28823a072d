"""The group seal: site i sends cᵢ = Q(wᵢΔᵢ) + Pᵢ − Pᵢ₊₁, and the sum over a run a…b of sites is Σ Q + P_a − P_{b+1}.

n masks out of n + 1 independent streams are jointly uniform: to somebody without the key all messages together are noise.
Two streams are left for every maximal run of responders, whatever the number of sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NoReturn

import numpy as np

from infl.errors import FederationError, KeyringError, SealError
from infl.privacy.seal.context import Context, MaskedArrays
from infl.privacy.seal.lanes import Kept, Masks, close, open_
from infl.privacy.seal.masks import Streams
from infl.privacy.seal.narrow import FULL, reduce, signed
from infl.privacy.seal.packing import LANE_RANGE, Packing, Quantiser, RangeError, limit
from infl.privacy.seal.tag import TAG_PRIME, Tag, as_words, from_words

if TYPE_CHECKING:
    from infl.privacy.seal.ledger import Ledger


class NoSeal:
    """No seal: the same integers, the same range checks, no mask and no tag. For simulation and debugging.

    Parameters
    ----------
    min_sites
        Fewest sites in a cohort, and fewest responders whose sum is opened.

    Examples
    --------
    >>> import infl
    >>> infl.privacy.seal.NoSeal().name
    'none'
    """

    name: ClassVar[str] = "none"

    def __init__(self, *, min_sites: int = 1) -> None:
        self.min_sites = min_sites

    def seal(
        self,
        context: Context,
        site: str,
        vector: np.ndarray,
        sums: np.ndarray,
        packing: Packing,
        *,
        weight: float = 1.0,
        share: float | None = None,
        clip: bool = False,
        rounding: bytes | None = None,
        ledger: Ledger | None = None,
    ) -> MaskedArrays:
        """Return what a site sends.

        Parameters
        ----------
        context, site
            The exchange, and who sends.
        vector
            32-bit lane (n32,), float; multiplied by `weight`.
        sums
            64-bit lane (n64,), float64; sent as they are.
        packing
            Names, shapes and scales.
        weight
            Of the vector.
        share
            The site's part of the 32-bit lane's range; over all sites at most 1 (default: 1 / n).
        clip
            Clip values that leave the range instead of refusing them.
        rounding
            Key of the stream by which the vector is rounded at random (32 bytes); None: to the nearest integer.
        ledger
            Where it is written down, on disk, before it is returned.

        Raises
        ------
        RangeError
            Values leave the range; names the arrays and factors.
        SealError
            NaN or infinite values; or the ledger has another message for this exchange.
        FederationError
            The cohort is smaller than `min_sites`, or `site` is not in it.
        """
        n, position = len(context.cohort), context.position(site)
        self._check_cohort(n)
        if len(vector) != packing.n32 or len(sums) != packing.n64 or context.packing != packing.digest():
            raise SealError(f"{site}: the arrays are not those of the round's packing; nothing was sealed")
        _, n_high, n_all = packing.lanes[:3]
        words = MaskedArrays(
            np.empty(packing.n32, np.uint32), np.zeros(n_high, np.uint64), np.zeros(n_all, np.uint64), packing.width
        )
        most = limit(packing.width, n, share)
        low = Quantiser(vector, packing, 32, weight=weight, largest=most, clip=clip, rounding=rounding)
        high = Quantiser(sums, packing, 64, weight=1.0, largest=limit(64, n), clip=clip)
        self._close(context, position, words, low, high)
        if low.wrong or high.wrong:
            raise RangeError(low.wrong | high.wrong)
        reduce(words.low, packing.width)
        if ledger is not None:
            ledger.record(context, words, sealed=self.name != "none")
        return words

    def unseal(
        self, context: Context, responders: Sequence[str], total: MaskedArrays, packing: Packing
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact integer sums of both lanes (int32, int64).

        Where somebody of the cohort is missing, the second one ends before what is opened of all sites only.

        Parameters
        ----------
        context
            As sealed.
        responders
            Who is in the sum.
        total
            From :func:`add`; not altered.
        packing
            As sealed.

        Raises
        ------
        SealError
            Anything is not as it was sealed: words, responders, context. Nothing of the sum may be used.
        FederationError
            Fewer responders than `min_sites`.
        """
        places = [context.position(site) for site in responders]
        if sorted(set(places)) != places:
            raise SealError("round rejected: its responders are not in the cohort's order")
        if len(places) < self.min_sites:
            raise FederationError(
                f"{len(places)} sites answered; a sum of fewer than min_sites={self.min_sites} is not opened, it would tell "
                "too much about each: wait for more sites, or agree on a smaller min_sites"
            )
        due = packing.lanes_of(all_sites=len(places) == len(context.cohort))
        if total.lanes != due or context.packing != packing.digest():
            raise SealError("round rejected: the sum does not have the sizes of the round's packing")
        words = total.copy()
        self._open(context, places, words)
        high = np.concatenate([words.high[:-2], words.of_all[:-2]]) if due[2] else words.high[:-2]
        return words.low.view(np.int32), high.view(np.int64)

    def _check_cohort(self, n: int) -> None:
        if n < self.min_sites:
            raise FederationError(
                f"a cohort of {n} sites is smaller than min_sites={self.min_sites}: ask more sites, or agree on fewer"
            )

    def _close(self, context: Context, position: int, words: MaskedArrays, low: Quantiser, high: Quantiser) -> None:
        """Write the lanes into `words`, masked and tagged."""
        close(low, words.low, None, ())
        close(high, words.high[:-2], None, ())
        if len(words.of_all):
            close(high, words.of_all[:-2], None, (), first=len(words.high) - 2)

    def _open(self, context: Context, places: list[int], words: MaskedArrays) -> None:
        """Take the masks off `words`, in place, and verify."""
        signed(words.low, words.width)


class GroupSeal(NoSeal):
    """Masks from one secret that all sites share. The coordinator, who has no key, sees noise.

    Parameters
    ----------
    subkey
        32 secret bytes, ``keyring.subkey("seal")``.
    min_sites
        As for :class:`NoSeal`; with two sites each learns the other's update.

    Attributes
    ----------
    streams_opened
        Mask streams (of each lane) that the last call used: two to seal, two for every run of responders to unseal.

    Raises
    ------
    KeyringError
        The secret is too short.

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import Field, add, dequantise
    >>> packing = Packing((Field("w", (2,), -20),))
    >>> context = Context("run", 1, 0, ("a", "b", "c"), "train", packing.digest())
    >>> seal = GroupSeal(bytes(32))
    >>> messages = [seal.seal(context, s, np.array([0.5, -1.0]), np.empty(0), packing) for s in "abc"]
    >>> total = None
    >>> for words in messages:
    ...     total = add(total, words)
    >>> dequantise(seal.unseal(context, ["a", "b", "c"], total, packing), packing)[0].tolist()
    [1.5, -3.0]
    """

    name: ClassVar[str] = "group"

    def __init__(self, subkey: bytes, *, min_sites: int = 3) -> None:
        super().__init__(min_sites=min_sites)
        if len(subkey) != 32:
            raise KeyringError(f"the seal needs a secret of 32 bytes, not of {len(subkey)}: use keyring.subkey('seal')")
        self._subkey = subkey
        self._exchange: _Exchange | None = None
        self.streams_opened = 0

    def __repr__(self) -> str:
        return f"GroupSeal(min_sites={self.min_sites})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeyringError("a seal holds a secret and is not pickled or copied: make it again from the key ring")

    def _close(self, context: Context, position: int, words: MaskedArrays, low: Quantiser, high: Quantiser) -> None:
        lanes = self._lanes(context, [(position, position + 1)])
        tag = lanes.close("low", low, words.low) + lanes.close("high", high, words.high[:-2])
        words.high[-2:] = as_words(tag % TAG_PRIME)
        lanes.mask("tag", words.high[-2:])
        if len(words.of_all):
            own = lanes.close("all", high, words.of_all[:-2], first=len(words.high) - 2)
            words.of_all[-2:] = as_words(own % TAG_PRIME)
            lanes.mask("all's tag", words.of_all[-2:])
        self.streams_opened = lanes.n_streams

    def _open(self, context: Context, places: list[int], words: MaskedArrays) -> None:
        lanes = self._lanes(context, [(last + 1, first) for first, last in _runs(places)])
        tag = lanes.open("low", words.low, words.width) + lanes.open("high", words.high[:-2])
        lanes.mask("tag", words.high[-2:])
        good = _is_whole(words.high, tag)
        if len(words.of_all):
            own = lanes.open("all", words.of_all[:-2])
            lanes.mask("all's tag", words.of_all[-2:])
            good = good and _is_whole(words.of_all, own)
        self.streams_opened = lanes.n_streams
        if not good:
            raise SealError(
                "round rejected: the sum is not what the sites sealed (altered, replayed, or a wrong list of responders); "
                "nothing was applied"
            )

    def _lanes(self, context: Context, pairs: list[tuple[int, int]]) -> _Lanes:
        """Return the lanes of an exchange."""
        if self._exchange is None or self._exchange.digest != context.digest():
            self._exchange = _Exchange(context.digest(), Streams(self._subkey, context.digest()))
        return _Lanes(self._exchange, pairs)


@dataclass(frozen=True, repr=False)
class _Exchange:
    """What is derived of one exchange, and serves all who seal in this process, and to open the sum."""

    digest: bytes
    streams: Streams
    tags: dict[str, Tag] = field(default_factory=dict)
    kept: Kept = field(default_factory=dict)


class _Lanes:
    """Lanes of a message of one exchange, under the masks of pairs of stream numbers (added, taken away)."""

    def __init__(self, exchange: _Exchange, pairs: list[tuple[int, int]]) -> None:
        self._exchange, self._pairs = exchange, pairs
        self.n_streams = 2 * len(pairs)

    def close(self, lane: str, values: Quantiser, words: np.ndarray, *, first: int = 0) -> int:
        """Quantise and mask a lane; return its tag."""
        tag = self._tag(lane, len(words))
        return close(values, words, tag, self._masks(lane), first=first, kept=self._exchange.kept)

    def open(self, lane: str, words: np.ndarray, width: int = FULL) -> int:
        """Take the masks off a lane; return its tag."""
        return open_(words, self._tag(lane, len(words)), self._masks(lane), width, kept=self._exchange.kept)

    def mask(self, lane: str, words: np.ndarray) -> None:
        """Put masks on words without a tag, or take them off."""
        open_(words, None, self._masks(lane), kept=self._exchange.kept)

    def _masks(self, lane: str) -> Masks:
        key = self._exchange.streams.key
        return [(key(lane, plus), key(lane, minus)) for plus, minus in self._pairs]

    def _tag(self, lane: str, n: int) -> Tag:
        tags = self._exchange.tags
        if lane not in tags:
            tags[lane] = Tag(self._exchange.streams.key(f"{lane} tag"), n)
        return tags[lane]


def _is_whole(words: np.ndarray, tag: int) -> bool:
    """Whether opened 64-bit sums are in their range, and the tag after them is that of what was opened."""
    sums = words[:-2].view(np.int64)
    in_range = not len(sums) or (int(sums.max()) <= LANE_RANGE[64] and int(sums.min()) >= -LANE_RANGE[64])
    return in_range and tag % TAG_PRIME == from_words(words[-2:])


def _runs(places: list[int]) -> list[tuple[int, int]]:
    """Return the maximal runs of consecutive numbers.

    Examples
    --------
    >>> _runs([0, 1, 3, 4, 5, 8])
    [(0, 1), (3, 5), (8, 8)]
    """
    runs: list[tuple[int, int]] = []
    for place in places:
        runs[-1:] = [(runs[-1][0], place)] if runs and runs[-1][1] == place - 1 else [*runs[-1:], (place, place)]
    return runs
