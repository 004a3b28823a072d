"""Harmony as sums over sites: soft clusters that every batch has its share of, then a ridge regression in each.

An observation's memberships follow from the centres and the weights of each batch in each cluster. So all that sites have to
agree on is a table of weights, and clustering is a search for the table that reproduces itself: each step, all sites
compute memberships from the last table at once, and add up the next one. No order of observations comes into it.

Of a batch that one site alone has, the weights stay there: others only need the totals of clusters, and the mean of a cluster
that its regression finds, which is a sum over batches. Of a batch that several sites have, these add up weights and sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.pp._sphere import FEWEST, directions
from infl.sums import FINE, FederatedSum, Scale, State

if TYPE_CHECKING:
    from infl.sums.shape import Arrays, Records

COORDINATES = Scale(-80, limbs=5)
"""Of sums of coordinates, whose size nobody knows."""
STEP = 0.5
"""How far a step of clustering goes towards the weights that it found: the whole way, it may swing to and fro."""

_WEIGHTLESS = 1e-9


@dataclass(frozen=True)
class Options:
    """Harmony's settings, see :func:`infl.pp.harmony_integrate`."""

    theta: float = 2.0
    sigma: float = 0.1
    tau: float = 0.0
    alpha: float = 0.2
    prune: float = 1e-5


@dataclass(frozen=True)
class Batches:
    """A site's batches.

    Attributes
    ----------
    rows
        Of each, in the order of the site's observations by batch.
    shared
        Number of each among the batches that several sites have; -1 of one that this site alone has.
    sizes
        Observations of each over all sites, (b,).
    n_obs
        Observations of all batches.
    """

    rows: list[slice]
    shared: np.ndarray
    sizes: np.ndarray
    n_obs: int


@dataclass(frozen=True)
class Found:
    """Memberships, as a site keeps them.

    Attributes
    ----------
    affinity
        exp(−squared distance to a centre / sigma) of its directions, (n, k), up to a factor for each observation.
    nearest
        Sum over observations of the logarithms of those factors.
    penalties
        Of each cluster and batch, (k, b).
    scale
        What makes each observation's memberships, affinity × penalty × scale, add up to 1, (n,).
    before, weights
        Weights of the site's batches in each cluster, (k, b), that the penalties follow from; and of its own observations, by
        these memberships.
    """

    affinity: np.ndarray
    nearest: float
    penalties: np.ndarray
    scale: np.ndarray
    before: np.ndarray
    weights: np.ndarray


def penalties(weights: np.ndarray, expected: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Return by what memberships are multiplied where a batch has more of a cluster than its share, (k, b).

    Examples
    --------
    >>> penalties(np.array([[4.0, 0.0]]), np.array([[2.0, 2.0]]), np.array([1.0, 2.0])).round(2).tolist()
    [[0.71, 2.78]]
    """
    return ((2 * expected + 1) / (weights + expected + 1)) ** theta


def shrinkage(
    weights: np.ndarray, expected: np.ndarray, used: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return, of clusters and batches (k, b), 1 / (weight + ridge), and which share of it the ridge is; 0 where not `used`.

    Of the regression of coordinates on an intercept and the batch, with a ridge of `alpha` times the expected weight, the
    intercept is the mean over batches weighted by the latter, and a batch's effect its sum of differences times the former.

    Examples
    --------
    >>> factor, rest = shrinkage(np.array([[3.0]]), np.array([[5.0]]), np.array([[True]]), 0.2)
    >>> factor.tolist(), rest.tolist()
    ([[0.25]], [[0.25]])
    """
    ridge = alpha * expected
    size = np.where(used, weights + ridge, 1)
    return np.where(used, 1 / size, 0), np.where(used, ridge / size, 0)


class Cells:
    """A site's observations, by batch, and how far they got; all of it stays at the site.

    Parameters
    ----------
    x
        Coordinates, (n, d), in the order of `batches`.
    batches
        Which rows are of which batch.
    options
        Settings.
    """

    def __init__(self, x: np.ndarray, batches: Batches, options: Options) -> None:
        self.x, self.batches, self.options = x, batches, options
        self.found: Found | None = None
        self.sums: np.ndarray | None = None  # of coordinates, of each cluster and batch: (k, b, d)

    # -- what follows from the state ------------------------------------------------------------------------------------

    def weights(self, state: State) -> np.ndarray:
        """Weights of the site's batches in each cluster, over all sites that have them, (k, b)."""
        assert self.found is not None
        step = STEP if state["damped"] else 1.0
        weights = self.found.before + step * (self.found.weights - self.found.before)
        several = self.batches.shared >= 0
        weights[:, several] = state["shared"][:, self.batches.shared[several]]
        return weights

    def expected(self, state: State) -> np.ndarray:
        """Weights that the batches would have if every cluster had the same share of them, (k, b)."""
        return state["totals"][:, None] * (self.batches.sizes / self.batches.n_obs)

    def theta(self, state: State) -> np.ndarray:
        """Strength of the penalty of each batch, (b,)."""
        tau, k = self.options.tau, len(state["centres"])
        least = np.exp(-((self.batches.sizes / (k * tau)) ** 2)) if tau > 0 else 0.0
        return np.asarray(self.options.theta * (1 - least) * np.ones(len(self.batches.sizes)))

    def corrected(self, state: State) -> np.ndarray:
        """Coordinates without what the regressions say of the batches, (n, d)."""
        if self.sums is None or self.found is None:
            return self.x
        factor, _ = self._shrinkage(state)
        sums, several = self.sums.copy(), self.batches.shared >= 0
        sums[:, several] = state["shared_sum"][:, self.batches.shared[several]]
        effects = factor[..., None] * (sums - self.weights(state)[..., None] * state["intercepts"][:, None])
        result, found = self.x.copy(), self.found
        for b, rows in enumerate(self.batches.rows):
            own = found.affinity[rows] @ (found.penalties[:, b, None] * effects[:, b])
            result[rows] -= found.scale[rows, None] * own
        return result

    def _shrinkage(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        weights = self.weights(state)
        used = (weights > self.options.prune * self.batches.sizes) & (state["totals"] >= FEWEST)[:, None]
        return shrinkage(weights, self.expected(state), used, self.options.alpha)

    # -- shares of sums -------------------------------------------------------------------------------------------------

    def cluster(self, state: State) -> np.ndarray:
        """Compute memberships anew; return the weights of the site's own observations, (k, b)."""
        centres, shape = state["centres"], (len(state["centres"]), len(self.batches.rows))
        if self.found is None or state["moved"]:
            close = directions(self.corrected(state)) @ centres.T
            best = close.max(1, keepdims=True)
            affinity = np.exp((close - best) * (2 / self.options.sigma))
            nearest = float((best - 1).sum()) * 2 / self.options.sigma
        else:
            affinity, nearest = self.found.affinity, self.found.nearest
        before, factors = np.zeros(shape), np.ones(shape)
        if self.found is not None:
            before = self.weights(state)
            factors = penalties(before, self.expected(state), self.theta(state))
        scale, weights = np.empty(len(affinity)), np.empty(shape)
        for b, rows in enumerate(self.batches.rows):
            scale[rows] = 1 / (affinity[rows] @ factors[:, b])
            weights[:, b] = factors[:, b] * (affinity[rows].T @ scale[rows])
        self.found = Found(affinity, nearest, factors, scale, before, weights)
        return weights

    def objective(self, state: State) -> float:
        """Distances, entropy and diversity of the site's memberships: what clustering makes small."""
        assert self.found is not None
        found, weights, expected = self.found, self.weights(state), self.expected(state)
        fits = (found.weights * np.log(found.penalties)).sum() + np.log(found.scale).sum() - found.nearest
        diverse = self.theta(state) * np.log((weights + expected + 1) / (2 * expected + 1))
        return self.options.sigma * float(fits + (found.weights * diverse).sum())

    def regress(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum coordinates of each cluster and batch, (k, b, d); return the intercepts' sums (k, d) and weights (k,), too."""
        assert self.found is not None
        found, k = self.found, len(state["centres"])
        self.sums = np.empty((k, len(self.batches.rows), self.x.shape[1]))
        for b, rows in enumerate(self.batches.rows):
            own = found.affinity[rows].T @ (found.scale[rows, None] * self.x[rows])
            self.sums[:, b] = found.penalties[:, b, None] * own
        _, rest = self._shrinkage(state)
        return self.sums, (rest[..., None] * self.sums).sum(1), (rest * found.weights).sum(1)

    def of_shared(self, values: np.ndarray, n_shared: int) -> np.ndarray:
        """Return values (k, b, …) of the batches that several sites have, (k, n_shared, …); 0 of those that are not here."""
        result = np.zeros((len(values), n_shared, *values.shape[2:]))
        several = self.batches.shared >= 0
        result[:, self.batches.shared[several]] = values[:, several]
        return result


def start(centres: np.ndarray, n_shared: int) -> State:
    """Return what all sites know before the first sum: centres (k, d), as directions."""
    centres = directions(centres)
    none = np.zeros((len(centres), n_shared))
    return {"centres": centres, "shared": none, "damped": False, "moved": True, "objectives": ()}


def harmony_sums(k: int, d: int, n_shared: int, *, steps: int) -> tuple[FederatedSum, FederatedSum, FederatedSum]:
    """Return the first memberships, the steps of clustering, and the regressions.

    Parameters
    ----------
    k, d
        Most clusters, and number of coordinates. What there are less of, is 0.
    n_shared
        Batches that several sites have.
    steps
        Of clustering.
    """
    shared: dict[str, tuple[int, ...]] = {"shared": (k, n_shared)} if n_shared else {}
    shapes: dict[str, tuple[int, ...]] = {"totals": (k,), "objective": ()} | shared
    also = ", also of each batch that several sites have" if n_shared else ""
    clusters = FederatedSum(
        name="clusters",
        shapes=shapes,
        local=lambda site, state: _clustered(site, state, k, n_shared),
        combine=lambda total, state: _reached(total, state, STEP),
        finish=lambda total, state: _reached(total, state, 1.0),
        says=f"for each cluster: weight of the observations in it{also}; how well they fit",
        scale=FINE,
        records=lambda site, state: _behind(site, shapes),
        sensitivity={"totals": 1} | dict.fromkeys(shared, 1),
        steps=steps,
    )
    memberships = replace(clusters, name="memberships", steps=1)
    shared = {"shared_sum": (k, n_shared, d)} if n_shared else {}
    sums: dict[str, tuple[int, ...]] = {"sum": (k, d), "weight": (k,), "objective": ()} | shared
    regressions = FederatedSum(
        name="regressions",
        shapes=sums,
        local=lambda site, state: _regressed(site, state, k, n_shared),
        combine=_corrected,
        says=f"for each cluster: sum of coordinates, weighted by batch, and the weight{also}; how well clusters fit",
        scale={"sum": COORDINATES, "weight": FINE, "objective": FINE} | dict.fromkeys(shared, COORDINATES),
        records=lambda site, state: _behind(site, sums),
    )
    return memberships, clusters, regressions


def converged(state: State, tol: float) -> bool:
    """Whether the last regressions made clusters fit better by less than this share.

    Examples
    --------
    >>> converged({"objectives": (100.0, 99.5)}, 0.01), converged({"objectives": (100.0, 90.0)}, 0.01)
    (True, False)
    """
    before, now = state["objectives"][-2:]
    return bool(before - now < tol * abs(before))


def _clustered(site: Cells, state: State, k: int, n_shared: int) -> Arrays:
    first = site.found is not None and not state["objectives"]  # of the memberships before any step
    objective = np.asarray(site.objective(state) if first else 0.0)
    weights = site.cluster(state)
    share = {"totals": _padded(weights.sum(1), k), "objective": objective}
    return share | ({"shared": _padded(site.of_shared(weights, n_shared), k)} if n_shared else {})


def _regressed(site: Cells, state: State, k: int, n_shared: int) -> Arrays:
    of_batches, sums, weights = site.regress(state)
    share = {"sum": _padded(sums, k), "weight": _padded(weights, k), "objective": np.asarray(site.objective(state))}
    if n_shared:
        large = (state["totals"] >= FEWEST)[:, None, None]
        share["shared_sum"] = _padded(np.where(large, site.of_shared(of_batches, n_shared), 0), k)
    return share


def _padded(values: np.ndarray, k: int) -> np.ndarray:
    """Return values (found, …) as (k, …): shapes of sums do not follow from values."""
    return np.concatenate([values, np.zeros((k - len(values), *values.shape[1:]))])


def _behind(site: Cells, shapes: Mapping[str, tuple[int, ...]]) -> Records:
    """Observations behind each number: all of the site, or those of a batch that several sites have."""
    of_batches = np.array([rows.stop - rows.start for rows in site.batches.rows], dtype=float)[None]
    n: dict[str, Any] = dict.fromkeys(shapes, len(site.x))
    for name in {"shared", "shared_sum"} & set(shapes):
        of_shared = site.of_shared(of_batches, shapes[name][1])
        n[name] = of_shared if name == "shared" else of_shared[..., None]
    return n


def _reached(total: Arrays, state: State, step: float) -> State:
    """Return the state with the weights that all sites go to, so far as the step goes."""
    k, shared = len(state["centres"]), state["shared"]
    totals = state.get("totals", np.zeros(k))
    objectives = state["objectives"] or ((float(total["objective"]),) if "totals" in state else ())
    if "shared" in total:
        shared = shared + step * (total["shared"][:k] - shared)
    return {
        **state,
        "totals": totals + step * (total["totals"][:k] - totals),
        "shared": shared,
        "damped": step < 1,
        "moved": False,
        "objectives": objectives,
    }


def _corrected(total: Arrays, state: State) -> State:
    """Return the state with each cluster's intercept, and the centre that it is the direction of."""
    k = len(state["centres"])
    weight = total["weight"][:k, None]
    known = weight > _WEIGHTLESS
    intercepts = np.where(known, total["sum"][:k] / np.where(known, weight, 1), 0)
    return {
        **state,
        "intercepts": intercepts,
        "centres": np.where(known, directions(intercepts), state["centres"]),
        "shared_sum": total["shared_sum"][:k] if "shared_sum" in total else np.zeros((k, 0, intercepts.shape[1])),
        "moved": True,
        "objectives": (*state["objectives"], float(total["objective"])),
    }
