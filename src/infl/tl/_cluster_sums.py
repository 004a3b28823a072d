"""What clusters are made of: numbers, sums and squares of the observations of each, over sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from infl.sums import COUNT_SCALE, FINE_SCALE, WIDE_SCALE, FederatedSum, State
from infl.sums.cells import Cells, everyone
from infl.sums.mixture import FEWEST
from infl.sums.shape import Arrays


@dataclass(frozen=True)
class Shares:
    """Coordinates of a site's observations, (n_obs, d), and what share each cluster has in them, (n_obs, k)."""

    x: np.ndarray
    of: np.ndarray


def _taken(total: Arrays, state: State) -> State:
    return state | total


def enough_of(n: np.ndarray) -> np.ndarray:
    """Return which clusters, by their numbers of observations, have enough for a sum."""
    return n >= FEWEST - 0.5


def _clustered(n_sets: int, **more: Any) -> Cells:
    """What stands behind sums over the observations of each of several clusters; a site is its :class:`Shares`."""
    return Cells(
        sets=lambda own, _: (own.of > 0).reshape(len(own.of), n_sets).T,
        labels=tuple(f"cluster {number}" for number in range(n_sets)) if n_sets > 1 else (),
        partly=True,
        parts=n_sets if n_sets > 1 else 0,
        **more,
    )


def halves() -> FederatedSum:
    """Return how many observations of a cluster lie above its mean along an axis, and of the others; a site is two masks."""
    return FederatedSum(
        name="halves",
        shapes={"n": (2,)},
        local=lambda masks, _: {"n": np.array([mask.sum() for mask in masks], float)},
        combine=_taken,
        says="numbers of observations of a cluster in its half above the mean, and in the other half",
        scale=COUNT_SCALE,
        records=lambda masks, _: {"n": np.array([mask.sum() for mask in masks])},
        sensitivity={"n": 1},
        cells=Cells(sets=lambda masks, _: np.stack(masks), of={"n": np.arange(2)}, partly=True, parts=2),
    )


def cluster_moments(d: int) -> FederatedSum:
    """Return number, sum and products of one cluster's observations; a site is its :class:`Shares`, (n_obs,) for one cluster."""
    return FederatedSum(
        name="moments",
        shapes={"n": (), "sum": (d,), "products": (d, d)},
        local=lambda own, _: {
            "n": own.of.sum(),
            "sum": own.of @ own.x,
            "products": (own.x * own.of[:, None]).T @ own.x,
        },
        combine=_taken,
        says="number of a cluster's observations, sums of their coordinates and of the products of these",
        scale={"sum": FINE_SCALE, "products": FINE_SCALE},
        records=lambda own, _: np.count_nonzero(own.of),
        sensitivity={"n": 1},
        cells=_clustered(1, features=d, panel="coordinates", parameters=d),
    )


def numbers(k: int) -> FederatedSum:
    """Return the number of observations of each cluster; a site is its :class:`Shares`."""
    return FederatedSum(
        name="numbers",
        shapes={"n": (k,)},
        local=lambda own, _: {"n": own.of.sum(axis=0)},
        combine=_taken,
        says="number of observations of each cluster; in a mixture, of parts of observations",
        records=lambda own, _: {"n": np.count_nonzero(own.of, axis=0)},
        sensitivity={"n": 1},
    )


def coordinates(k: int, d: int) -> FederatedSum:
    """Return the sums of coordinates of clusters that have enough observations by ``n`` of :func:`numbers`."""
    return FederatedSum(
        name="sums",
        shapes={"sum": (k, d)},
        local=lambda own, state: {"sum": (own.of * enough_of(state["n"])).T @ own.x},
        combine=_taken,
        says=f"sums of the coordinates of each cluster's observations, where it has {FEWEST} or more",
        scale=FINE_SCALE,
        records=lambda own, _: {"sum": np.count_nonzero(own.of, axis=0)[:, None]},
    )


def numbers_and_coordinates(k: int, d: int) -> FederatedSum:
    """Return :func:`numbers` and :func:`coordinates` in one exchange, for rules of disclosure, which see to it that neither is of a few."""
    return FederatedSum(
        name="sums",
        shapes={"n": (k, 1), "sum": (k, d)},
        local=lambda own, _: {"n": own.of.sum(axis=0)[:, None], "sum": own.of.T @ own.x},
        combine=lambda total, state: state | {"n": total["n"][:, 0], "sum": total["sum"]},
        says="number of observations of each cluster and sums of their coordinates, where rules of disclosure let both be opened",
        scale={"sum": FINE_SCALE},
        records=lambda own, _: dict.fromkeys(("n", "sum"), np.count_nonzero(own.of, axis=0)[:, None]),
        sensitivity={"n": 1},
        cells=_clustered(k, of=dict.fromkeys(("n", "sum"), np.arange(k)[:, None]), features=d, panel="coordinates"),
    )


def squares(k: int, d: int) -> FederatedSum:
    """Return the products of what is left of coordinates after ``means``, for clusters that have enough observations."""

    def local(own: Shares, state: State) -> Arrays:
        found = np.zeros((k, d, d))
        for j in np.flatnonzero(enough_of(state["n"])):
            centred = own.x - state["means"][j]
            found[j] = (centred * own.of[:, j : j + 1]).T @ centred
        return {"squares": found}

    return FederatedSum(
        name="squares",
        shapes={"squares": (k, d, d)},
        local=local,
        combine=_taken,
        says=f"products of each component's observations about its mean, where it has {FEWEST} or more",
        scale=FINE_SCALE,
        records=lambda own, _: {"squares": np.count_nonzero(own.of, axis=0)[:, None, None]},
    )


def score(name: str, says: str) -> FederatedSum:
    """Return the sum of what each observation adds to a score; a site is those, (n_obs,)."""
    return FederatedSum(
        name=name,
        shapes={"score": ()},
        local=lambda each, _: {"score": each.sum()},
        combine=_taken,
        says=says,
        scale=WIDE_SCALE,
        records=lambda each, _: len(each),
        cells=everyone(len),
    )


def distances() -> FederatedSum:
    """Return the sum of squared distances; a site is the (n_obs,) of its own."""
    return score("squares", "sum of the squared distances of all observations from the means of their clusters")


def likelihood() -> FederatedSum:
    """Return the sum of negative log-likelihoods; a site is the (n_obs,) of its own."""
    return score("likelihood", "sum of the log-likelihoods of all observations under the mixture, with the sign turned")


def sizes(k: int) -> FederatedSum:
    """Return how many observations have each label; a site is its labels, (n_obs,)."""
    return FederatedSum(
        name="sizes",
        shapes={"n": (k,)},
        local=lambda labels, _: {"n": np.bincount(labels, minlength=k)},
        combine=_taken,
        says="number of observations of each cluster of the result",
        scale=COUNT_SCALE,
        records=lambda labels, _: {"n": np.bincount(labels, minlength=k)},
        sensitivity={"n": 1},
        cells=Cells(
            sets=lambda labels, _: labels == np.arange(k)[:, None],
            of={"n": np.arange(k)},
            labels=tuple(f"cluster {number}" for number in range(k)),
            partly=True,
            parts=k,
        ),
    )
