"""Times to an event as a survival model reads them, and the parts of time that sites agree on by sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from infl.errors import SettingsError
from infl.models.phenotype.data import LabelledRows
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, SiteView, State
from infl.sums.mixture import FEWEST
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    from infl.nn.mlp import OnPanel

N_NARROW = 64
"""Parts of time by which departures are counted, before they are joined to bins."""
MEAN_TIMES = 8
"""How many mean times they cover; later ones are in the last of them."""


class TimedRows(LabelledRows):
    """Rows of features with times and events (n, 2)."""

    @property
    def one_class(self) -> bool:
        """Whether there is no event, so that nothing tells who has it sooner."""
        return self.labels is not None and not bool(self.labels[:, 1].any())


def read_grid(grid: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return the ends of the bins, as they were given.

    Raises
    ------
    SettingsError
        They are no increasing numbers above 0.

    Examples
    --------
    >>> read_grid([12, 24.0])
    (12.0, 24.0)
    """
    if grid is None:
        return None
    try:
        ends = np.asarray(grid, dtype=float).ravel()
    except (TypeError, ValueError):
        ends = np.empty(0)
    if not len(ends) or not np.isfinite(ends).all() or ends[0] <= 0 or (np.diff(ends) <= 0).any():
        raise SettingsError(f"grid={grid}: give the ends of the bins of time, increasing numbers above 0, or None")
    return tuple(map(float, ends))


def time_sums(n_bins: int, grid: Sequence[float] | None) -> tuple[FederatedSum, ...]:
    """Return the sums that decide on the bins, and count who leaves in each.

    State: ``ends`` of the bins (n_bins,), infinite where there are fewer; ``base``, the logarithm of the odds of an event in each;
    ``censor``, the share of patients that would still be observed at the end of each if there were no events.
    """
    given = None if grid is None else np.asarray(grid, dtype=float)
    n_narrow = N_NARROW if given is None else len(given)

    def labels(site: SiteView[LabelledRows, OnPanel]) -> np.ndarray:
        assert site.data.labels is not None
        return site.data.labels.numpy()[site.data.train]

    def width(total: Arrays, state: State) -> State:
        mean = float(total["times"]) / max(float(total["n"]), 1.0)
        # a power of two: the mean itself is not kept
        size = 2.0 ** np.ceil(np.log2(max(mean, 1e-9) * MEAN_TIMES)) / N_NARROW
        return {**state, "n": total["n"], "narrow": np.arange(1, N_NARROW + 1) * size}

    def departures(site: SiteView[LabelledRows, OnPanel], state: State) -> Arrays:
        time, event = labels(site).T
        part = np.minimum(np.searchsorted(state.get("narrow", given), time, side="left"), n_narrow - 1)
        cells = np.zeros((2, n_narrow))
        np.add.at(cells, (event.astype(int), part), 1)
        return {"departures": cells}

    def bins(total: Arrays, state: State) -> State:
        cells, narrow = total["departures"], state.get("narrow", given)
        n_used = int(np.flatnonzero(cells.sum(0) > 0.5).max(initial=0)) + 1  # nobody leaves after these
        last = np.arange(n_narrow) if given is not None else joined(cells[1, :n_used], n_bins)
        first = np.append(0, last[:-1] + 1)
        left, died = (np.add.reduceat(kind, first) for kind in cells[:, : last[-1] + 1])
        entered, censor = still_observed(left, died)
        hazard = (died + 0.5) / np.maximum(entered - left + 1, 1)
        found = {"ends": np.full(n_bins, np.inf), "base": np.zeros(n_bins), "censor": np.ones(n_bins)}
        hazard = np.clip(hazard, 1e-6, 1 - 1e-6)
        of_bin = {
            "ends": narrow[last],
            "base": np.log(hazard / (1 - hazard)),
            "censor": censor,
        }
        for name, values in of_bin.items():
            found[name][: len(last)] = values
        return {name: value for name, value in state.items() if name != "narrow"} | found

    times = FederatedSum(
        name="times",
        shapes={"n": (), "times": ()},
        local=lambda site, state: {"n": float(len(site.data.train)), "times": labels(site)[:, 0].sum()},
        combine=width,
        says="number of training records, and sum of their times of observation",
        scale={"n": COUNT_SCALE, "times": FINE_SCALE},
        records=lambda site, state: len(site.data.train),
        sensitivity={"n": 1},
    )
    counts = FederatedSum(
        name="departures",
        shapes={"departures": (2, n_narrow)},
        local=departures,
        combine=bins,
        says="number of training records that leave in each of 64 parts of time (or those of grid=), with and without an event",
        scale=COUNT_SCALE,
        records=departures,
        sensitivity={"departures": 1},
    )
    return (counts,) if given is not None else (times, counts)


def still_observed(left: np.ndarray, died: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return who enters each bin, and the share still observed at its end if nobody died, by who leaves without an event and with one.

    Examples
    --------
    >>> [part.tolist() for part in still_observed(np.array([1, 2]), np.array([1, 0]))]
    [[4, 2], [0.6666666666666667, 0.0]]
    """
    gone = np.cumsum(left + died)
    entered = gone[-1:] - np.append(0, gone[:-1])
    return entered, np.cumprod(np.clip(1 - left / np.maximum(entered - died, 1), 0, 1))


def joined(events: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the last narrow part of each of at most `n_bins` bins with about as many events each, and five at least.

    Examples
    --------
    >>> joined(np.array([4.0, 3.0, 9.0, 0.0, 8.0, 1.0]), 3).tolist()
    [1, 2, 5]
    """
    wanted = max(events.sum() / n_bins, float(FEWEST))
    ends, so_far = [], 0.0
    for part, count in enumerate(events):
        so_far += count
        if so_far >= wanted * (1 - 1e-9) or (so_far >= FEWEST and so_far >= 0.75 * wanted):
            ends.append(part)
            so_far = 0.0
    ends = ends[:n_bins]
    return np.array([*ends[:-1], len(events) - 1])


def bins_of_own(truth: np.ndarray, n_bins: int) -> np.ndarray:
    """Return times and events with times as numbers of bins by these data's own times: for somebody who knows no grid.

    Examples
    --------
    >>> bins_of_own(np.array([[3.0, 1], [1.0, 0], [2.0, 1], [4.0, 1]]), 4)[:, 0].tolist()
    [3.0, 1.0, 2.0, 4.0]
    """
    order = np.argsort(np.argsort(truth[:, 0], kind="stable")) + 1
    return np.stack([order * n_bins / len(truth), truth[:, 1]], 1)
