"""How much one prediction helps beside another, by how much it surely did where neither was fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from infl.sums.shape import FederatedSum, SiteView, State

N_MOMENTS = 6


def share_moments(gains: Iterable[float], rooms: Iterable[float]) -> np.ndarray:
    """Return the sums (6,) that :func:`sure_share` takes, of the gain and room of each unit.

    Examples
    --------
    >>> share_moments([1.0, 2.0], [2.0, 4.0]).tolist()
    [2.0, 3.0, 6.0, 5.0, 10.0, 20.0]
    """
    gain, room = (np.asarray(list(values), dtype=float) for values in (gains, rooms))
    return np.array([len(gain), gain.sum(), room.sum(), gain @ gain, gain @ room, room @ room])


def sure_share(n: float, gain: float, room: float, gain2: float, both: float, room2: float) -> float:
    """Return the share, from 0 to 1, of a step that surely brings a prediction nearer to the truth.

    With a step s from the first prediction to the second and what is missing r: sums over units (what would be drawn anew: a
    perturbation, a section) of gain g = s·r and room m = s·s, and of g², g·m and m². The best share is Σg / Σm; its standard error
    over the units is taken off. One unit alone makes nothing sure.

    Examples
    --------
    >>> sure_share(*share_moments([0.5, 0.5, 0.5], [1, 1, 1]))  # half of each step, everywhere alike
    0.5
    >>> sure_share(*share_moments([1.5, 0, 0], [1, 1, 1]))  # the same in the mean, from one unit
    0.0
    """
    if n < 1.5 or room <= 0:  # sums of a sealed run are numbers as others
        return 0.0
    share = gain / room
    error = (n / (n - 1) * max(gain2 - 2 * share * both + share**2 * room2, 0.0)) ** 0.5 / room
    return float(np.clip(share - error, 0, 1))


def share_of_network(
    moments: Callable[[SiteView, State], np.ndarray], records: Callable[[SiteView, State], int], *, kinds: int = 1
) -> FederatedSum:
    """Return the sum that tells how much a network counts beside a simple method; state: ``share``.

    Parameters
    ----------
    moments
        :func:`share_moments` of what a site held out, for each kind of units (kinds, 6). The least share of any kind that has two
        units or more counts.
    records
        How many records those are.
    kinds
        How many kinds of units there are.
    """

    def combine(total: dict[str, Any], state: State) -> State:
        shares = [sure_share(*row) for row in total["moments"] if row[0] >= 1.5]
        return {**state, "share": np.asarray(min(shares, default=0.0))}

    return FederatedSum(
        name="share",
        shapes={"moments": (kinds, N_MOMENTS)},
        local=lambda site, state: {"moments": moments(site, state)},
        combine=combine,
        says="sums that tell how much better the network predicts what was held out than a simple method does",
        records=records,
    )
