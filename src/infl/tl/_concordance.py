"""How often, of two patients, the one with the higher score has the event first.

Over one baseline, from numbers of patients by parts of scores and times, so it has bounds. With a baseline for each site pairs are of one site,
which counts them by itself.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from infl.sums import COUNT_SCALE, FederatedSum, State
from infl.sums.concordance import ordered_pairs
from infl.sums.shape import Arrays
from infl.tl._cox_sums import Patients
from infl.tl._times import ends_of

SCORES = 16
"""Most parts of the scores, and of the times, by which patients are counted."""
_PER_CELL = 20


def pairs_sum() -> FederatedSum:
    """Return the sum of pairs of one site by their order; state: ``pairs``: those in order, tied in score, and all that can be compared."""

    def local(site: Patients, state: State) -> Arrays:
        score = state["frame"].rows(site.x) @ state["search"].best
        return {"pairs": ordered_pairs(site.time, site.event.astype(bool), score)}

    return FederatedSum(
        name="pairs in order",
        shapes={"pairs": (3,)},
        local=local,
        combine=lambda total, state: {**state, "pairs": np.rint(total["pairs"])},
        says="number of pairs of one site of which the one with the higher score has the event first, of those with one score, and of all",
        scale=COUNT_SCALE,
        records=lambda site, state: {"pairs": len(site.time)},
    )


def concordance_sum() -> FederatedSum:
    """Return the sum of patients by score, time and event; state: ``by_score``, (2, scores, times)."""
    shape = (2, SCORES, SCORES)

    def local(site: Patients, state: State) -> Arrays:
        k = _parts(state["n_obs"])
        q = state["frame"].rows(site.x)
        found = state["search"].best
        spread = max(float(found @ state["spread"] @ found) ** 0.5, 1e-12)
        score = np.searchsorted(stats.norm.ppf(np.arange(1, k) / k) * spread, q @ found)
        time = _coarse(state, k)[site.bins(ends_of(state))]
        cells = np.zeros(shape)
        np.add.at(cells, (site.event.astype(int), score, time), 1)
        return {"cells": cells}

    return FederatedSum(
        name="concordance",
        shapes={"cells": shape},
        local=local,
        combine=lambda total, state: {**state, "by_score": total["cells"]},
        says="number of patients with and without an event, by part of the scores and of the times, about twenty in each",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"cells": 1},
    )


def _parts(n_obs: int) -> int:
    return int(np.clip((n_obs / _PER_CELL) ** 0.5, 2, SCORES))


def _coarse(state: State, k: int) -> np.ndarray:
    """Return the part of the times, of `k`, that each bin is in, by numbers of events; (bins,)."""
    so_far = np.cumsum(state["events"]) / max(float(state["events"].sum()), 1.0)
    return np.minimum((so_far - 1e-9) * k, k - 1).astype(int)
