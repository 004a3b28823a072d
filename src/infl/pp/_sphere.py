"""Clusters of directions over all sites, by halving: where Harmony begins.

Coordinates are seen as directions (vectors of length 1). All clusters are halved at once, at their means and across a random
direction that favours the coordinates in which they are wide, until there are enough; then some steps of k-means follow. So
a hundred clusters take seven halvings, and no observation is ever anybody's centre. What is counted comes first: no
sum is over fewer than a few observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from infl.sums import COUNT_SCALE, FederatedSum, Scale, State, run_sums

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.sums.shape import Arrays

FEWEST = 5
"""Observations that a sum is over at least."""
KMEANS_STEPS = 3
"""Steps of k-means after the halving: more of them do not change what Harmony finds, and cost two sums each."""
DIRECTIONS = Scale(-40, limbs=2)
"""Of sums of numbers that are at most 1."""
_NARROW = 1e-9  # squares an observation: a cluster of equal directions is not cut


@dataclass
class Directions:
    """A site's directions.

    Attributes
    ----------
    z
        (n, d), each of length 1, or 0.
    labels
        The cluster of each after every halving, (n,) each.
    """

    z: np.ndarray
    labels: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, x: np.ndarray) -> Directions:
        """Return the directions of coordinates (n, d)."""
        return cls(directions(x))

    def halved(self, halvings: tuple[Halving, ...]) -> np.ndarray:
        """Cluster of each after these halvings, (n,)."""
        self.labels = self.labels or [np.zeros(len(self.z), dtype=int)]
        for halving in halvings[len(self.labels) - 1 :]:
            labels = self.labels[-1]
            self.labels.append(np.where(halving.above(self.z, labels), halving.becomes[labels], labels))
        return self.labels[len(halvings)]

    def nearest(self, means: np.ndarray) -> np.ndarray:
        """Cluster with the nearest of the means (k, d), (n,)."""
        return (self.z @ means.T - (means**2).sum(1) / 2).argmax(1)


def directions(x: np.ndarray) -> np.ndarray:
    """Return rows (n, d) made 1 long; those of zeros stay.

    Examples
    --------
    >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(size > 0, size, 1)


@dataclass(frozen=True)
class Halving:
    """How clusters are cut, all at once.

    Attributes
    ----------
    means, axes
        Where and across what each cluster is cut, (k, d).
    becomes
        Number of the cluster of what is above, (k,); its own where the cluster stays whole.
    """

    means: np.ndarray
    axes: np.ndarray
    becomes: np.ndarray

    def above(self, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which directions (n, d) are above the cut of their cluster, (n,)."""
        height = z @ self.axes.T - (self.means * self.axes).sum(1)
        return np.take_along_axis(height, labels[:, None], 1)[:, 0] > 0


def first_centres(sites: Mapping[str, Directions], k: int, *, seed: int, key: Keyring | None, about: str) -> np.ndarray:
    """Centres of at most `k` clusters of all sites' directions, (k, d): fewer where there are too few observations.

    Parameters
    ----------
    sites
        By name.
    k
        Number of clusters.
    seed
        Of the directions across which clusters are cut.
    key
        Key ring or None.
    about
        What the seal is bound to.
    """
    d = next(iter(sites.values())).z.shape[1]
    parts, halves, sizes, means = centre_sums(k, d)
    state = run_sums([parts], sites, key, state=before_halving(k, seed), about=about)
    while "cut" in state:
        state = run_sums([halves, parts], sites, key, state=state, about=about)
    for _ in range(KMEANS_STEPS):
        state = run_sums([sizes, means], sites, key, state=state, about=about)
    return state["means"]


def before_halving(k: int, seed: int) -> State:
    """Return what all sites know before the first sum: one cluster, of all observations."""
    return {"halvings": (), "n_clusters": 1, "whole": np.zeros(k, dtype=bool), "seed": seed}


def centre_sums(k: int, d: int) -> list[FederatedSum]:
    """Return the sums of halving, parts and halves, and of k-means, sizes and means; state: ``means``.

    Parameters
    ----------
    k, d
        Number of clusters, and of coordinates.
    """
    parts = FederatedSum(
        name="parts",
        shapes={"n": (k,), "sum": (k, d), "squares": (k, d)},
        local=lambda site, state: _parts(site.z, site.halved(state["halvings"]), k),
        combine=_next_cut,
        says="for each cluster: number of observations, sums and squares of their directions",
        scale={"n": COUNT_SCALE, "sum": DIRECTIONS, "squares": DIRECTIONS},
        records=lambda site, state: _sizes(site.halved(state["halvings"]), k),
        sensitivity={"n": 1, "sum": 2, "squares": 1},
    )
    halves = FederatedSum(
        name="halves",
        shapes={"above": (k,)},
        local=lambda site, state: {"above": _above(site, state, k)},
        combine=lambda total, state: _cut(total["above"], state),
        says="for each cluster: number of observations above where it is to be cut",
        scale=COUNT_SCALE,
        records=lambda site, state: _above(site, state, k),
        sensitivity={"above": 1},
    )
    sizes = FederatedSum(
        name="sizes",
        shapes={"n": (k,)},
        local=lambda site, state: {"n": np.bincount(site.nearest(state["means"]), minlength=k)},
        combine=lambda total, state: {**state, "n": total["n"]},
        says="for each cluster: number of observations nearest to its centre",
        scale=COUNT_SCALE,
        records=lambda site, state: np.bincount(site.nearest(state["means"]), minlength=k),
        sensitivity={"n": 1},
    )
    means = FederatedSum(
        name="means",
        shapes={"sum": (k, d)},
        local=lambda site, state: {"sum": _sum_of_large(site, state, k)},
        combine=_moved,
        says=f"for each cluster of {FEWEST} observations or more: sum of their directions",
        scale=DIRECTIONS,
        records=lambda site, state: _sizes(site.nearest(state["means"]), k)["sum"],
        sensitivity={"sum": 2},
    )
    return [parts, halves, sizes, means]


def _sizes(labels: np.ndarray, k: int) -> dict[str, np.ndarray]:
    n = np.bincount(labels, minlength=k)
    return {"n": n, "sum": n[:, None], "squares": n[:, None]}


def _sums(values: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Sum of values (n, d) of each cluster, (k, d)."""
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(k + 1))
    ordered = values[order]
    return np.array([ordered[start:end].sum(0) for start, end in pairwise(ends)])


def _parts(z: np.ndarray, labels: np.ndarray, k: int) -> Arrays:
    n = np.bincount(labels, minlength=k).astype(float)
    return {"n": n, "sum": _sums(z, labels, k), "squares": _sums(z * z, labels, k)}


def _next_cut(total: Arrays, state: State) -> State:
    """Return the means, and which clusters to halve next: those that are widest, as many as are missing."""
    k, found = len(total["n"]), state["n_clusters"]
    n = total["n"][:found]
    means = total["sum"][:found] / np.maximum(n, 1)[:, None]
    variances = np.maximum(total["squares"][:found] / np.maximum(n, 1)[:, None] - means**2, 0)
    squares = np.where(state["whole"][:found], 0, n * variances.sum(1))
    widest = np.argsort(-squares, kind="stable")[: k - found]
    cut = widest[squares[widest] > _NARROW * n[widest]]
    state = {name: value for name, value in state.items() if name != "cut"} | {"means": means}
    if not len(cut):
        return state
    rng = np.random.default_rng([state["seed"], len(state["halvings"])])
    axes = rng.standard_normal(means.shape) * variances
    return {**state, "cut": (cut, Halving(means, axes, np.arange(found)), n)}


def _above(site: Directions, state: State, k: int) -> np.ndarray:
    labels, (cut, halving, _) = site.halved(state["halvings"]), state["cut"]
    above = halving.above(site.z, labels) & np.isin(labels, cut)
    return np.bincount(labels[above], minlength=k)


def _cut(above: np.ndarray, state: State) -> State:
    """Return the state after clusters were halved; a cluster with too small a half stays whole from now on."""
    cut, halving, n = state["cut"]
    enough = np.minimum(above[cut], n[cut] - above[cut]) >= FEWEST
    whole, becomes, found = state["whole"].copy(), halving.becomes.copy(), state["n_clusters"]
    whole[cut[~enough]] = True
    becomes[cut[enough]] = found + np.arange(enough.sum())
    halvings = (*state["halvings"], Halving(halving.means, halving.axes, becomes))
    return {**state, "whole": whole, "halvings": halvings, "n_clusters": found + int(enough.sum())}


def _sum_of_large(site: Directions, state: State, k: int) -> np.ndarray:
    large = state["n"] >= FEWEST
    return np.where(large[:, None], _sums(site.z, site.nearest(state["means"]), k), 0)


def _moved(total: Arrays, state: State) -> State:
    found = len(state["means"])
    n = state["n"][:found, None]
    means = np.where(n >= FEWEST, total["sum"][:found] / np.maximum(n, 1), state["means"])
    return {**state, "means": means}
