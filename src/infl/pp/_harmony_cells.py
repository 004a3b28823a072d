"""What a site keeps and computes for Harmony: memberships of its cells in soft clusters, and what regressions make of them.

The formulas are those of Korsunsky et al. (2019), Nature Methods 16:1289, with the denominators and ridges of Harmony 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infl.pp._sphere import FEWEST, directions
from infl.sums import State

STEP = 0.5
"""How far a step of clustering goes towards the weights that it found: the whole way, it may swing to and fro."""
_SMALLEST = -300.0  # logarithm of a penalty: times the nearest cluster's affinity, 1, it is not 0


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

    ((2 expected + 1) / (weights + expected + 1)) ** theta; only the ratio between clusters matters: the largest
    of each batch is 1, and none is 0.

    Examples
    --------
    >>> penalties(np.array([[3.0], [0.0]]), np.array([[1.0], [1.0]]), np.array([2.0])).round(2).tolist()
    [[0.16], [1.0]]
    """
    logarithms = theta * (np.log(2 * expected + 1) - np.log(weights + expected + 1))
    return np.exp(np.maximum(logarithms - logarithms.max(0), _SMALLEST))


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
        Rows of each batch.
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
