"""Times to an event, and whether an event ended them, as columns of ``obs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infl.data.columns import numbers_of
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
