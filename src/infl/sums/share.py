"""How much one prediction helps beside another, by how much it surely did on records that neither was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from infl.sums.shape import FederatedSum, SiteView, State


def sure_share(gain: float, room: float, gain2: float, both: float, room2: float) -> float:
    """Return the share, from 0 to 1, of a step that surely brings a prediction nearer to the truth.

    With a step s from the first prediction to the second and what is missing r: sums over records of gain g = s·r and room
    m = s·s, and of g², g·m and m². The best share is Σg / Σm; its standard error is taken off.

    Examples
    --------
    >>> sure_share(1.5, 3.0, 0.75, 1.5, 3.0)  # half of each step, everywhere alike
    0.5
    >>> sure_share(1.5, 3.0, 2.25, 1.5, 3.0) < 0.1  # the same in the mean, from one record
    True
    """
    share = gain / room if room > 0 else 0.0
    error = max(gain2 - 2 * share * both + share**2 * room2, 0.0) ** 0.5 / room if room > 0 else 0.0
    return float(np.clip(share - error, 0, 1))


def share_of_network(
    moments: Callable[[SiteView, State], np.ndarray],
    records: Callable[[SiteView, State], int],
    *,
    counted: bool = False,
) -> FederatedSum:
    """Return the sum that tells how much a network counts beside a simple method; state: ``share``.

    Parameters
    ----------
    moments
        The five sums of :func:`sure_share` over a site's validation records.
    records
        How many records those are.
    counted
        Whether a number of records stands before the five sums.
    """

    def combine(total: dict[str, Any], state: State) -> State:
        return {**state, "share": np.asarray(sure_share(*total["moments"][int(counted) :]))}

    return FederatedSum(
        name="share",
        shapes={"moments": (5 + counted,)},
        local=lambda site, state: {"moments": moments(site, state)},
        combine=combine,
        says="sums that tell how much better the network predicts validation records than a simple method does",
        records=records,
    )
