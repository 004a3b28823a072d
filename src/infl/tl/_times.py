"""Times to an event: what sites have of them, and a grid of times on which no bin is about a few patients.

The time at which a patient leaves, by an event or because observation ends, is a record. So curves and models use bins. All sites
halve the same interval, and halve a part again only while it has twice as many departures of each kind as a bin needs. At last parts
that have too few are joined with the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infl.data.times import times_and_events
from infl.pp._moments import power_of_two
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.cells import Cells, Sizes, everyone
from infl.sums.disclosure import control
from infl.sums.mixture import FEWEST
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.privacy.rules import DisclosureRules

LEVELS = 10
"""How often the interval is halved, at most."""
MOST_BINS = 1 << LEVELS
_MOST_RULED = 64
_CUTS = np.array([0.5, 0.25, 0.75])
"""Where a part is cut in two; the second and third where rules of disclosure close the parts of the cut before."""
_WIDTH = 8  # of the interval that is halved, in mean times; one patient of eight at most leaves after it


@dataclass(frozen=True)
class Times:
    """A site's times, whether an event ended them, and each patient's group; (n_obs,) each.

    Examples
    --------
    >>> Times(np.array([1.0, 5.0]), np.array([True, False]), np.array([0, 0])).bins(np.array([2.0, 6.0])).tolist()
    [0, 1]
    """

    time: np.ndarray
    event: np.ndarray
    group: np.ndarray

    def bins(self, ends: np.ndarray) -> np.ndarray:
        """Return the number of each patient's bin, (n_obs,); the last bin has no end."""
        return np.minimum(np.searchsorted(ends, self.time, side="left"), len(ends) - 1)

    def counts(self, kind: np.ndarray, bins: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return numbers of patients of each kind and bin, (kinds, bins)."""
        return np.bincount(kind * shape[1] + bins, minlength=shape[0] * shape[1]).reshape(shape).astype(float)


def times_of(sites: Mapping[str, AnnData], time: str, event: str) -> dict[str, Times]:
    """Return the checked times and events of all sites, with everybody in one group.

    Raises
    ------
    infl.errors.DataError
        A column is missing or has gaps, a time is not above 0, an event is neither 0 nor 1.
    """
    found = {}
    for site, adata in sites.items():
        times, events = times_and_events(adata, time, event, site)
        found[site] = Times(times, events, np.zeros(len(times), dtype=np.int64))
    return found


def grid_sums(
    groups: int,
    *,
    by_event: bool,
    given: Sequence[float] | None = None,
    least: int = FEWEST,
    most: int = MOST_BINS,
) -> list[FederatedSum]:
    """Return the sums that decide on the grid, for :func:`ends_of`; sites are :class:`Times`.

    Parameters
    ----------
    groups
        Of patients: each bin has no departure from a group, or enough.
    by_event
        The same of events, and of those who left without one.
    given
        Ends of the narrowest bins; None: they follow from the mean time.
    least
        How many departures are enough.
    most
        Number of narrowest bins, a power of two; see :func:`most_bins`.
    """
    return [_mean(given, least, most), _halving(groups, by_event, most)]


def most_bins(given: Sequence[float] | None) -> int:
    """Return the number of narrowest bins: few where rules of disclosure are in force, which let hardly any narrow ones be opened."""
    if control() is None:
        return MOST_BINS
    return _MOST_RULED if given is None else 1 << max(1, (len(given) - 1).bit_length())


def left_out(site: Times, groups: int) -> np.ndarray:
    """Return which patients are in a group of fewer than k at their site, (n_obs,), which rules of disclosure leave out of all bins."""
    rules = control()
    n = np.bincount(site.group, minlength=groups)
    return n[site.group] < (0 if rules is None else rules.rules.k)


def _mean(given: Sequence[float] | None, least: int, most: int) -> FederatedSum:
    def sizes(site: Times, state: State, rules: DisclosureRules) -> Sizes:
        return {"sum": (site.time.max(initial=0.0), site.time.sum())}

    def combine(total: Arrays, state: State) -> State:
        if given is None:
            width = float(power_of_two(_WIDTH * total["sum"] / max(float(total["n"]), 1.0)))
            edges = np.arange(1, most + 1) * (width / most)
        else:
            edges = np.asarray(sorted(given), dtype=float)
        return {**state, "edges": edges, "least": least, "cells": _Cells.begin(most)}

    return FederatedSum(
        name="times",
        shapes={"n": (), "sum": ()},
        local=lambda site, state: {"n": len(site.time), "sum": site.time.sum()},
        combine=combine,
        says="number of patients, and sum of their times of observation",
        scale={"n": COUNT_SCALE, "sum": FINE_SCALE},
        records=lambda site, state: len(site.time),
        sensitivity={"n": 1},
        cells=everyone(lambda site: len(site.time), features=1, panel="times", sizes=sizes, dominated=("sum",)),
    )


@dataclass(frozen=True)
class _Cells:
    """Parts of the grid so far: where each begins and how many narrowest bins it has, their counts, which are cut next, and where."""

    start: np.ndarray
    width: np.ndarray
    counts: np.ndarray
    open: np.ndarray
    tried: np.ndarray

    @staticmethod
    def begin(most: int) -> _Cells:
        return _Cells(np.array([0]), np.array([most]), np.full((1, 1), np.nan), np.array([True]), np.array([0]))

    def halved(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the halves of the open parts begin, and how wide they are."""
        start, width = self.start[self.open], self.width[self.open]
        left = np.maximum(1, (width * _CUTS[self.tried[self.open]]).astype(int))
        return np.ravel(np.column_stack([start, start + left])), np.ravel(np.column_stack([left, width - left]))

    def after(self, halves: np.ndarray, least: int) -> _Cells:
        """Return the parts after the counts (kinds, halves) of the halves of the open ones came; where they are NaN, another cut is tried."""
        start, width = self.halved()
        whole = np.isnan(halves).any(axis=0).reshape(-1, 2).any(axis=1)
        kept, tried = ~self.open, self.tried + self.open
        kept[np.flatnonzero(self.open)[whole]] = True
        once_more = self.open & (tried < len(_CUTS)) & (self.width >= len(_CUTS) + 1)
        old = np.broadcast_to(self.counts[:, kept], (len(halves), kept.sum()))
        start, width, halves = (of[..., ~np.repeat(whole, 2)] for of in (start, width, halves))
        again = enough(halves, 2 * least) & (width > 1)
        joined = np.concatenate([self.start[kept], start])
        order = np.argsort(joined)
        return _Cells(
            joined[order],
            np.concatenate([self.width[kept], width])[order],
            np.hstack([old, halves])[:, order],
            np.concatenate([once_more[kept], again])[order],
            np.concatenate([tried[kept] * once_more[kept], np.zeros(len(start), dtype=int)])[order],
        )


def enough(counts: np.ndarray, least: int = FEWEST) -> np.ndarray:
    """Return which bins of counts (kinds, bins) have enough departures of each kind that they have any of.

    Examples
    --------
    >>> enough(np.array([[5.0, 4.0, 0.0], [0.0, 9.0, 0.0]])).tolist()
    [True, False, False]
    """
    few = (counts > 0.5) & (counts < least - 0.5)
    return ~few.any(axis=0) & (counts.sum(axis=0) > 0.5)


def merged(counts: np.ndarray, least: int = FEWEST) -> list[int]:
    """Return the last part of each bin, joining parts (kinds, parts) from the left until they have enough.

    Examples
    --------
    >>> merged(np.array([[5, 2, 3, 0, 6, 1]]))
    [0, 2, 5]
    """
    ends: list[int] = []
    so_far = np.zeros(len(counts))
    for part in range(counts.shape[1]):
        so_far = so_far + counts[:, part]
        if enough(so_far[:, None], least)[0]:
            ends.append(part)
            so_far = np.zeros(len(counts))
    while ends and so_far.sum() > 0 and not enough(so_far[:, None], least)[0]:  # what is left joins the bin before it
        first = ends[-2] + 1 if len(ends) > 1 else 0
        so_far = so_far + counts[:, first : ends.pop() + 1].sum(axis=1)
    if not ends or so_far.sum() > 0:
        return [*ends, counts.shape[1] - 1]
    return [*ends[:-1], counts.shape[1] - 1]


def _halving(groups: int, by_event: bool, most: int) -> FederatedSum:
    kinds = groups * (1 + by_event)
    shape = (kinds, most)

    def kind(site: Times) -> np.ndarray:
        return site.group * 2 + site.event if by_event else site.group

    def narrow(site: Times, state: State) -> np.ndarray:
        return np.minimum(np.searchsorted(state["edges"], site.time, side="left"), len(state["edges"]) - 1)

    def sets(site: Times, state: State) -> np.ndarray:
        start, width = state["cells"].halved()
        at = narrow(site, state)
        half = np.searchsorted(start, at, side="right") - 1
        inside = (half >= 0) & (at < (start + width)[half]) & ~left_out(site, groups)
        return sets_of(kind(site) * most + np.maximum(half, 0), inside, kinds * most)

    def local(site: Times, state: State) -> Arrays:
        cells: _Cells = state["cells"]
        start, width = cells.halved()
        own = site.counts(kind(site), narrow(site, state), shape)
        before = np.concatenate([np.zeros((kinds, 1)), own.cumsum(axis=1)], axis=1)
        halves = np.zeros(shape)
        halves[:, : len(start)] = before[:, start + width] - before[:, start]
        return {"departures": halves}

    def combine(total: Arrays, state: State) -> State:
        cells: _Cells = state["cells"]
        return {**state, "cells": cells.after(total["departures"][:, : 2 * int(cells.open.sum())], state["least"])}

    return FederatedSum(
        name="grid",
        shapes={"departures": shape},
        local=local,
        combine=combine,
        says="number of patients of each group that leave in each part of time, of parts that had many before they were halved",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"departures": 1},
        steps=(most.bit_length() - 1) * (1 if control() is None else len(_CUTS)),
        until=lambda state: not state["cells"].open.any(),
        cells=Cells(
            sets=sets,
            of={"departures": np.arange(kinds * most).reshape(shape)},
            partly=True,
            of_all=True,
            joined=_halves_joined,
        ),
    )


def _halves_joined(closed: np.ndarray) -> np.ndarray:
    """Both halves of a part are opened, of all kinds of departures, or neither is: its own number is known."""
    either = closed.any(axis=0).reshape(-1, 2).any(axis=1)
    return np.broadcast_to(np.repeat(either, 2), closed.shape)


def sets_of(number: np.ndarray, inside: np.ndarray, n_sets: int) -> np.ndarray:
    """Return sets of observations, (n_sets, n_obs), from the number of the set of each, (n_obs,), and whether it is in one.

    Examples
    --------
    >>> sets_of(np.array([1, 0, 1]), np.array([True, True, False]), 2).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    found = np.zeros((n_sets, len(number)), dtype=bool)
    found[number[inside], np.flatnonzero(inside)] = True
    return found


def ends_of(state: State) -> np.ndarray:
    """Return the end of each bin, (bins,), after the grid's sums; the last one is where the grid ends, and later times are in it."""
    cells: _Cells = state["cells"]
    used = ~(cells.counts.sum(axis=0) <= 0.5)  # NaN where rules of disclosure keep all times in one part
    n = int(np.flatnonzero(used)[-1]) + 1 if used.any() else 1  # nobody leaves after these
    last, edges = np.array(merged(cells.counts[:, :n], state["least"])), state["edges"]
    return edges[np.minimum((cells.start + cells.width)[last], len(edges)) - 1]
