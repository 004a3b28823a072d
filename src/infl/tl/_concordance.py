"""How often, of two patients, the one with the higher score has the event first.

Over one baseline, from numbers of patients by parts of scores and times, so it has bounds. With a baseline for each site pairs are of one site,
which counts them by itself.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from infl.sums import COUNT_SCALE, FederatedSum, State
from infl.sums.shape import Arrays
from infl.tl._cox_sums import Patients
from infl.tl._times import ends_of

SCORES = 16
"""Most parts of the scores, and of the times, by which patients are counted."""
_PER_CELL = 20
_AT_ONCE = 1 << 22  # pairs that are looked at together


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


def ordered_pairs(time: np.ndarray, event: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return numbers of pairs: higher score first, one score, all; who is observed to the time of an event is beyond it, (3,).

    Examples
    --------
    >>> ordered_pairs(np.array([1.0, 2, 2]), np.array([True, True, False]), np.array([5.0, 1, 1])).tolist()
    [2.0, 1.0, 3.0]
    """
    found = np.zeros(3)
    died = np.flatnonzero(event)
    rows = max(1, _AT_ONCE // max(1, len(time)))
    for start in range(0, len(died), rows):
        of = died[start : start + rows, None]
        later = (time > time[of]) | ((time == time[of]) & ~event)
        near = np.isclose(score, score[of], rtol=0, atol=1e-12)
        found += [(later & ~near & (score < score[of])).sum(), (later & near).sum(), later.sum()]
    return found


def concordance_of_pairs(pairs: np.ndarray) -> tuple[float, float, float]:
    """Return the concordance of counted pairs, which is exact, so its bounds are itself.

    Examples
    --------
    >>> concordance_of_pairs(np.array([2.0, 1.0, 4.0]))
    (0.625, 0.625, 0.625)
    """
    share = float((pairs[0] + pairs[1] / 2) / pairs[2]) if pairs[2] else float("nan")
    return share, share, share


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


def concordance_of(cells: np.ndarray) -> tuple[float, float, float]:
    """Return the concordance of counts (event, scores, times), and the least and the most that it can be.

    Pairs in one part of the scores may be in either order, those in one part of the times may count or not.

    Examples
    --------
    >>> cells = np.zeros((2, 2, 2))
    >>> cells[1, 1, 0], cells[0, 0, 1] = 3, 4  # high scores die first
    >>> [float(round(value, 2)) for value in concordance_of(cells)]
    [1.0, 0.8, 1.0]
    """
    died, everybody = cells[1], cells.sum(axis=0)
    after = everybody[:, ::-1].cumsum(axis=1)[:, ::-1] - everybody  # of one score, at later times
    below = np.cumsum(after, axis=0) - after
    right, tied, pairs = (
        (died * part).sum() for part in (below, after, np.broadcast_to(after.sum(axis=0), died.shape))
    )
    d, n = died.sum(axis=0), everybody.sum(axis=0)
    unknown = (d * (n - d) + d * (d - 1) / 2).sum()
    if pairs + unknown == 0:
        return float("nan"), float("nan"), float("nan")
    most = (right + tied + unknown) / (pairs + unknown)
    return float((right + tied / 2) / pairs if pairs else np.nan), float(right / (pairs + unknown)), float(most)
