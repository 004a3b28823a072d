"""Curves of survival, and the log-rank test, from numbers of departures by bin of time and group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from infl.pp._moments import whole_numbers
from infl.sums import COUNT_SCALE, FederatedSum, State
from infl.sums.cells import Cells
from infl.sums.shape import Arrays
from infl.tl._times import MOST_BINS, Times, ends_of, left_out, sets_of


def departure_sum(groups: int, most: int = MOST_BINS) -> FederatedSum:
    """Return the sum of events and of all departures by group and bin; sites are :class:`Times`, state: ``events``, ``left``."""
    shape = (groups, most)
    numbers = np.arange(groups * most).reshape(shape)

    def local(site: Times, state: State) -> Arrays:
        bins = site.bins(ends_of(state))
        own = site.event
        return {
            "events": Times(site.time[own], site.event[own], site.group[own]).counts(site.group[own], bins[own], shape),
            "left": site.counts(site.group, bins, shape),
        }

    def records(site: Times, state: State) -> Arrays:
        left = local(site, state)["left"]
        return {"events": left, "left": left}

    def sets(site: Times, state: State) -> np.ndarray:
        number, inside = site.group * most + site.bins(ends_of(state)), ~left_out(site, groups)
        return np.vstack([sets_of(number, inside & kept, numbers.size) for kept in (site.event, inside)])

    def combine(total: Arrays, state: State) -> State:
        n = len(ends_of(state))
        return {**state, "events": total["events"][:, :n], "left": total["left"][:, :n]}

    return FederatedSum(
        name="departures",
        shapes={"events": shape, "left": shape},
        local=local,
        combine=combine,
        says="for each group and bin of time: number of patients who leave, and of those with an event",
        scale=COUNT_SCALE,
        records=records,
        sensitivity={"events": 1, "left": 1},
        cells=Cells(
            sets=sets,
            of={"events": numbers, "left": numbers.size + numbers},
            partly=True,
            of_all=True,
            joined=lambda closed: np.broadcast_to(closed.any(axis=0), closed.shape),
        ),
    )


def at_risk(left: np.ndarray) -> np.ndarray:
    """Return how many are there when a bin begins, (groups, bins), from those who leave in each.

    Examples
    --------
    >>> at_risk(np.array([[5, 2, 3]])).tolist()
    [[10, 5, 3]]
    """
    return left[:, ::-1].cumsum(axis=1)[:, ::-1]


def curves(events: np.ndarray, left: np.ndarray, ends: np.ndarray, groups: Sequence[str], level: float) -> pd.DataFrame:
    """Return Kaplan–Meier and Nelson–Aalen of each group, a row for each bin, from counts (groups, bins).

    Events of a bin come before the other departures of it, as R's ``survfit`` and lifelines have ties.

    Examples
    --------
    >>> table = curves(np.array([[5.0, 0, 1]]), np.array([[5.0, 3, 2]]), np.array([1.0, 2, 3]), ["all"], 0.95)
    >>> table.survival.tolist(), table.at_risk.tolist()
    ([0.5, 0.5, 0.25], [10, 5, 2])
    """
    n = at_risk(left)
    there = np.maximum(n, 1)
    survival = np.cumprod(1 - events / there, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(np.where(n > 0, events / (n * (n - events)), 0), axis=1)
        wide = stats.norm.ppf((1 + level) / 2) * np.sqrt(greenwood) / np.abs(np.log(survival))  # of log(−log S)
        lower, upper = survival ** np.exp(wide), survival ** np.exp(-wide)
        error = np.where(survival > 0, survival * np.sqrt(greenwood), np.nan)
    plain = survival == 1
    numbers = {
        "at_risk": whole_numbers(n),
        "events": whole_numbers(events),
        "censored": whole_numbers(left - events),
        "survival": survival,
        "std_error": error,
        "lower": np.where(plain, 1.0, lower),
        "upper": np.where(plain, 1.0, upper),
        "hazard": np.cumsum(events / there, axis=1),
        "hazard_std_error": np.sqrt(np.cumsum(events / there.astype(float) ** 2, axis=1)),
    }
    start = np.concatenate([[0.0], ends[:-1]])
    place = {
        "group": np.repeat(np.asarray(groups, dtype=object), len(ends)),
        "start": np.tile(start, len(groups)),
        "time": np.tile(ends, len(groups)),
    }
    return pd.DataFrame(place | {name: values.ravel() for name, values in numbers.items()})


def log_rank(events: np.ndarray, left: np.ndarray) -> tuple[float, int, float]:
    """Return the statistic, degrees of freedom and p-value of the log-rank test of counts (groups, bins).

    Examples
    --------
    >>> chi2, df, p = log_rank(np.array([[5.0, 5, 0], [0, 0, 5]]), np.array([[5.0, 5, 5], [5, 5, 5]]))
    >>> round(chi2, 3), df
    (2.265, 1)
    """
    n = at_risk(left)
    if np.isnan(n).any() or np.isnan(events).any():
        return float("nan"), len(events) - 1, float("nan")
    n_all, d = n.sum(axis=0), events.sum(axis=0)
    used = (n_all > 1) & (d > 0)
    share = n[:, used] / n_all[used]
    factor = d[used] * (n_all[used] - d[used]) / (n_all[used] - 1)
    beyond = (events[:, used] - share * d[used]).sum(axis=1)
    covariance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    chi2 = float(beyond[1:] @ np.linalg.pinv(covariance[1:, 1:]) @ beyond[1:])
    return chi2, len(events) - 1, float(stats.chi2.sf(chi2, len(events) - 1))
