"""Curves of survival over all sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infl._parameters import COLUMN, OTHER_COLUMN, Real, Several
from infl.data.columns import shortlist
from infl.data.consortium import alongside
from infl.data.labels import agree_on_levels, label_text
from infl.data.sites import over_sites
from infl.data.times import warn_of_grid
from infl.errors import DataError
from infl.sums import run_sums
from infl.sums.disclosure import control, refuse_groups_of
from infl.sums.mixture import FEWEST
from infl.tl._regression import written
from infl.tl._survival_sums import curves, departure_sum, log_rank
from infl.tl._times import Times, ends_of, grid_sums, most_bins, times_of

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

GRID = Several(Real(0), none=True, says="ends of bins of time, each of them once")
LEVEL = Real(0, 1, open="both")


@dataclass(frozen=True)
class Survival:
    """What :func:`infl.tl.survival` found.

    Attributes
    ----------
    curves
        A row for each group and bin of time: ``group``, ``start``, ``time`` (end of the bin), ``at_risk`` at its start,
        ``events``, ``censored``, ``survival`` (Kaplan–Meier) with ``std_error`` (Greenwood), ``lower`` and ``upper``, ``hazard``
        (Nelson–Aalen, cumulative) with ``hazard_std_error``.
    groups
        Names of the groups.
    chi2, df, p_value
        Log-rank test of all groups; NaN, 0, NaN where there is one.
    level
        Of the intervals.

    Examples
    --------
    >>> table = pd.DataFrame({"group": ["all"] * 2, "time": [1.0, 2.0], "survival": [0.7, 0.4]})
    >>> Survival(table, ("all",), float("nan"), 0, float("nan"), 0.95).median["all"]
    2.0
    """

    curves: pd.DataFrame
    groups: tuple[str, ...]
    chi2: float
    df: int
    p_value: float
    level: float

    @property
    def median(self) -> dict[str, float]:
        """Time at whose bin half of a group has had the event; infinite if fewer had it."""
        below = self.curves[self.curves["survival"] <= 0.5]
        first = below.groupby("group", observed=True)["time"].min()
        return {group: float(first.get(group, np.inf)) for group in self.groups}


@over_sites(between=True, ruled=True, time=COLUMN, event=COLUMN, groups=OTHER_COLUMN, grid=GRID, level=LEVEL)
def survival(
    sites: Mapping[str, AnnData] | AnnData,
    time: str,
    event: str,
    groups: str | None = None,
    *,
    grid: Sequence[float] | None = None,
    level: float = 0.95,
    inplace: bool = False,
    key_added: str = "infl_survival",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> Survival:
    """Kaplan–Meier and Nelson–Aalen curves and the log-rank test of the patients of all sites, on bins of time.

    The time at which somebody leaves is a record, so all is computed on bins in which at least five patients of a group leave,
    or none. On those bins it equals R's ``survfit`` and ``survdiff`` of the pooled patients, however these lie at sites. Under rules of
    disclosure each site has k events and k other departures, or none, in each bin of each group, so bins are wider.

    Parameters
    ----------
    sites
        AnnData by site name; a site may have a single patient, or no event.
    time, event
        Columns of ``obs``: time of observation, above 0, and whether an event ended it (0 or 1, or truth values).
    groups
        Column of ``obs`` with groups to compare; a site need not have all of them.
    grid
        Ends of the narrowest bins, e.g. months; later times are in the last one. Unless given, they follow from the mean
        time. Bins join until they have enough departures.
    level
        Of the intervals, from log(−log(S)).
    inplace
        Write the result into ``uns`` at every site, as tables and numbers.
    key_added
        Name of the field there.

    Returns
    -------
    The curves and the test; :func:`infl.pl.survival` draws the former.

    Raises
    ------
    infl.errors.DataError
        Times or events are missing or wrong; there is one group only, or one of fewer than five patients.

    References
    ----------
    Kaplan and Meier (1958), Journal of the American Statistical Association 53:457. Aalen (1978), Annals of Statistics 6:701.
    Mantel (1966), Cancer Chemotherapy Reports 50:163.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["months"], adata.obs["died"] = np.arange(1, adata.n_obs + 1), True
    >>> found = infl.tl.survival(sites, "months", "died")
    >>> int(found.curves.at_risk[0]), bool((found.curves.events >= 5).all())
    (83, True)
    """
    refuse_groups_of(*(() if groups is None else (groups,)))
    at: Mapping[str, Times] = times_of(sites, time, event)
    names: tuple[str, ...] = ("all",)
    if groups is not None:
        names = agree_on_levels(sites, groups, "groups")
        if len(names) < 2:
            raise DataError(
                f"groups {groups!r} has one group only, {names[0]!r}, at all sites together: leave groups out"
            )
        codes = {site: pd.Categorical(label_text(sites[site].obs[groups]), categories=names).codes for site in sites}
        at = {site: replace(one, group=codes[site].astype(np.int64)) for site, one in at.items()}
    warn_of_grid({site: one.time for site, one in at.items()}, time, grid)
    at = alongside(sites, at)
    most = most_bins(grid)
    sums = [
        *grid_sums(len(names), by_event=control() is not None, given=grid, most=most),
        departure_sum(len(names), most),
    ]
    state = run_sums(sums, at, key, about="survival")
    events, left, ends = state["events"], state["left"], ends_of(state)
    check_enough(left.sum(axis=1), names)
    test = log_rank(events, left) if groups is not None else (float("nan"), 0, float("nan"))
    found = Survival(curves(events, left, ends, names, level), names, *test, level)
    return written(found, sites if inplace else {}, key_added)


def check_enough(n: np.ndarray, names: Sequence[str]) -> None:
    """Refuse curves of groups, of `n` patients each, that would be about a few."""
    few = [name for name, number in zip(names, n, strict=True) if number < FEWEST]
    if few:
        raise DataError(
            f"fewer than {FEWEST} patients over all sites in {shortlist(few)}: join groups, or leave those observations out"
        )
