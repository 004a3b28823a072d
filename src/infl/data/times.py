"""Times to an event, and whether an event ended them, as columns of ``obs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infl._warn import warn
from infl.data.columns import numbers_of, shortlist
from infl.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def times_and_events(adata: AnnData | MuData, time: str, event: str, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Return times and whether each ended with an event, (n_obs,) each.

    Raises
    ------
    DataError
        A column is missing or has gaps, a time is not above 0, an event is neither 0 nor 1.
    """
    times, events = numbers_of(adata, time, site, "time"), numbers_of(adata, event, site, "event")
    if wrong := int((~(np.isfinite(times) & (times > 0))).sum()):
        raise DataError(
            f"time {time!r} must be above 0 and finite, and {wrong} of {len(times)} are not, at {site}: correct them, or "
            "leave those observations out"
        )
    if wrong := int((~np.isin(events, (0, 1))).sum()):
        raise DataError(
            f"event {event!r} must be 0 or 1, or truth values, and {wrong} of {len(events)} are not, at {site}: 1 is an "
            "event, 0 the end of observation without one"
        )
    return times, events == 1


_SEVERAL = 5  # times; fewer may well be in one bin


def warn_of_grid(times: Mapping[str, np.ndarray], time: str, grid: Sequence[float] | None) -> None:
    """Warn of sites whose times are all later than a grid ends, or all in the first of several bins: it is likely in another unit.

    Examples
    --------
    >>> warn_of_grid(
    ...     {"a": np.array([100.0, 400.0, 900.0, 30.0, 90.0]), "b": np.array([1500.0])}, "days", [90, 180, 1000]
    ... )
    """
    if grid is None or not len(grid):
        return
    first, last = min(grid), max(grid)
    several = {site: own for site, own in times.items() if len(own) >= _SEVERAL}
    for where, sites in (
        (f"later than grid= ends, {last:g}", [site for site, own in several.items() if own.min() > last]),
        (
            f"in the first bin of grid=, up to {first:g}",
            [s for s, own in several.items() if own.max() <= first and len(grid) > 1],
        ),
    ):
        if sites:
            warn(f"all times at {shortlist(sites)} are {where}: give grid= in the unit of {time!r}")
