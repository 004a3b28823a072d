"""Clusters from sums over sites: k-means, and mixtures of normal distributions.

Both begin with halving: the cluster that has most of the squared distances is likeliest to be cut next, at its mean and
across a direction in which it is wide; so the first centres are spread as those of k-means++ are (Arthur and
Vassilvitskii 2007; Su and Dy 2007), and no observation is ever anybody's centre. Sums over fewer than a few observations
are not made: what is counted comes first, and small clusters keep the centre that they had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.metrics import pairwise_distances_argmin
from sklearn.mixture import GaussianMixture

from infl._threads import openmp_threads_for
from infl.data.consortium import alongside
from infl.sums import run_sums
from infl.sums.disclosure import control, settled
from infl.sums.mixture import FEWEST
from infl.tl._cluster_sums import (
    Shares,
    cluster_moments,
    coordinates,
    distances,
    enough_of,
    halves,
    likelihood,
    numbers,
    numbers_and_coordinates,
    squares,
)

if TYPE_CHECKING:
    from infl.keys import Keyring

Latents = Mapping[str, np.ndarray]
"""By site, (n_obs, d) in float64."""

_RIDGE = 1e-6  # what scikit-learn adds to variances


@dataclass(frozen=True)
class Centres:
    """Clusters that all sites know.

    Attributes
    ----------
    means
        (k, d).
    score
        Sum of squared distances, or log-likelihood with its sign turned: less is better.
    labels
        At each site, the cluster of each of its observations.
    covariances, weights
        Of a mixture: (k, d, d), (k,).
    """

    means: np.ndarray
    score: float
    labels: Mapping[str, np.ndarray]
    covariances: np.ndarray | None = None
    weights: np.ndarray | None = None


def kmeans(
    latents: Latents, k: int, *, n_init: int, max_iter: int, tol: float, seed: int, key: Keyring | None
) -> Centres:
    """Lloyd's algorithm over all sites, the best of several beginnings."""
    total = _total(latents, key)
    with openmp_threads_for(_multiplications(latents, k)):
        best = min(
            (
                _lloyd(latents, means, max_iter, tol, total, key)
                for means in _beginnings(latents, k, n_init, total, seed, key)
            ),
            key=lambda run: run.score,
        )
    return replace(best, labels=dict(settled(best.labels)))


def mixture(
    latents: Latents,
    k: int,
    *,
    n_init: int,
    max_iter: int,
    tol: float,
    seed: int,
    key: Keyring | None,
    alike: bool = False,
) -> Centres:
    """Expectation maximisation for a mixture of normal distributions, from the k-means of several beginnings.

    With `alike` all of them have one variance in all directions; only their means and weights differ.
    """
    total = _total(latents, key)
    runs = []
    with openmp_threads_for(_multiplications(latents, k)):
        for means in _beginnings(latents, k, n_init, total, seed, key):
            start = _lloyd(latents, means, max_iter, tol, total, key)
            runs.append(_expectation_maximisation(latents, start, max_iter, tol, total, key, alike))
    return min(runs, key=lambda run: run.score)


def _multiplications(latents: Latents, k: int) -> int:
    """Return how many it takes to find the nearest of `k` centres at the largest site."""
    return k * max(x.size for x in latents.values())


@dataclass(frozen=True)
class _Total:
    n: int
    mean: np.ndarray
    var: np.ndarray
    covariance: np.ndarray


def _total(latents: Latents, key: Keyring | None) -> _Total:
    n, mean, covariance = _moments(latents, {site: np.ones(len(x)) for site, x in latents.items()}, key)
    return _Total(int(n), mean, np.diag(covariance).copy(), covariance)


def _moments(
    latents: Latents, weights: Mapping[str, np.ndarray], key: Keyring | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Number, mean and covariance of weighted observations."""
    shares = alongside(latents, {site: Shares(x, weights[site]) for site, x in latents.items()})
    d = next(iter(latents.values())).shape[1]
    total = run_sums([cluster_moments(d)], shares, key, about="cluster")
    n = float(total["n"])
    mean = total["sum"] / max(n, 1e-12)
    return n, mean, total["products"] / max(n, 1e-12) - np.outer(mean, mean)


def _beginnings(
    latents: Latents, k: int, n_init: int, total: _Total, seed: int, key: Keyring | None
) -> Iterator[np.ndarray]:
    """First centres, (k, d), of each beginning; those of the first are not random."""
    rng = np.random.default_rng(seed)
    for i in range(n_init):
        yield _halved(latents, k, total, rng if i else None, key)


# -- beginnings ---------------------------------------------------------------------------------------------------------


def _halved(
    latents: Latents, k: int, total: _Total, rng: np.random.Generator | None, key: Keyring | None
) -> np.ndarray:
    """First centres, (k, d). Without a generator: always the cluster with most squares, along its widest direction."""
    labels = {site: np.zeros(len(x), dtype=int) for site, x in latents.items()}
    clusters = [(float(total.n), total.mean, total.covariance)]
    closed: set[int] = set()  # clusters without a half that is large enough
    while len(clusters) < k and len(closed) < len(clusters):
        squares = np.array([0 if i in closed else n * np.trace(c) for i, (n, _, c) in enumerate(clusters)])
        if not squares.sum() > 0:
            break
        cut = int(squares.argmax() if rng is None else rng.choice(len(squares), p=squares / squares.sum()))
        _, mean, covariance = clusters[cut]
        values, axes = np.linalg.eigh(covariance)
        # a direction as observations of the cluster spread, by the square root of its covariance
        random = None if rng is None else axes @ (np.sqrt(np.maximum(values, 0)) * rng.standard_normal(len(values)))
        axis = axes[:, -1] if random is None else random
        above = {site: (labels[site] == cut) & ((x - mean) @ axis > 0) for site, x in latents.items()}
        parted = settled({site: np.where(mask, len(clusters), labels[site]) for site, mask in above.items()})
        masks = {site: (own == len(clusters), own == cut) for site, own in parted.items()}
        of_both = run_sums([halves()], alongside(latents, masks), key, about="cluster")["n"]
        if not of_both.min() >= FEWEST:  # or rules of disclosure closed one
            closed.add(cut)
            continue
        of_halves = [
            _moments(latents, {site: (own == which).astype(float) for site, own in parted.items()}, key)
            for which in (cut, len(clusters))
        ]
        if any(np.isnan(n) for n, _, _ in of_halves):  # closed by rules of disclosure
            closed.add(cut)
            continue
        labels = dict(parted)
        clusters[cut] = of_halves[0]
        clusters.append(of_halves[1])
    means = np.array([mean for _, mean, _ in clusters])
    if len(means) < k:  # too few observations to halve on: copies are moved apart a little, and stay empty or not
        more = np.random.default_rng(len(means)).integers(0, len(means), k - len(means))
        means = np.vstack([means, means[more] + 1e-3 * np.sqrt(total.var)])
    return means


# -- k-means ------------------------------------------------------------------------------------------------------------


def _lloyd(
    latents: Latents, means: np.ndarray, max_iter: int, tol: float, total: _Total, key: Keyring | None
) -> Centres:
    k = len(means)
    for _ in range(max_iter):
        one_hot = {site: np.eye(k)[own] for site, own in _labelled(latents, means).items()}
        moved, _ = _means(latents, one_hot, means, key)
        shift, means = ((moved - means) ** 2).sum(), moved
        if shift <= tol * total.var.mean():
            break
    labels = _labelled(latents, means)
    each = alongside(latents, {site: (x - means[labels[site]]) ** 2 for site, x in latents.items()})
    return Centres(means, float(run_sums([distances()], each, key, about="cluster")["score"]), labels)


def _labelled(latents: Latents, means: np.ndarray) -> dict[str, np.ndarray]:
    """The nearest centre of each observation, or the one that rules of disclosure allow it."""
    return dict(settled({site: _nearest(x, means) for site, x in latents.items()}))


def _of(latents: Latents, shares: Mapping[str, np.ndarray]) -> Mapping[str, Shares]:
    return alongside(latents, {site: Shares(latents[site], own) for site, own in shares.items()})


def _nearest(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    return pairwise_distances_argmin(x, means) if len(x) else np.empty(0, dtype=int)


def _means(
    latents: Latents, shares: Mapping[str, np.ndarray], means: np.ndarray, key: Keyring | None
) -> tuple[np.ndarray, np.ndarray]:
    """Means (k, d) and numbers (k,) of clusters; small ones keep their means, and their sums are never made.

    Numbers come first and say which clusters are small; where rules of disclosure do, both are asked for at once.
    """
    k, d = means.shape
    sums = [numbers(k), coordinates(k, d)] if control() is None else [numbers_and_coordinates(k, d)]
    found = run_sums(sums, _of(latents, shares), key, about="cluster")
    n, enough, total = found["n"], enough_of(found["n"]), found["sum"]
    known = enough[:, None] & ~np.isnan(total)
    return np.where(known, total / np.maximum(n, 1e-12)[:, None], means), np.nan_to_num(n)


# -- mixtures -----------------------------------------------------------------------------------------------------------


def _expectation_maximisation(
    latents: Latents, start: Centres, max_iter: int, tol: float, total: _Total, key: Keyring | None, alike: bool
) -> Centres:
    k = len(start.means)
    shares = {site: np.eye(k)[labels] for site, labels in start.labels.items()}
    spread = np.tile(np.diag(total.var + _RIDGE), (k, 1, 1))
    means, covariances, weights = _maximise(latents, shares, start.means, spread, key, alike)
    before, score = np.inf, np.inf
    for _ in range(max_iter):
        model = _as_sklearn(means, covariances, weights)
        each = alongside(latents, {site: -model.score_samples(x) for site, x in latents.items()})
        score = float(run_sums([likelihood()], each, key, about="mixture")["score"])
        if before - score < tol * total.n:
            break
        before = score
        shares = {site: model.predict_proba(x) for site, x in latents.items()}
        means, covariances, weights = _maximise(latents, shares, means, covariances, key, alike)
    labels = {site: model.predict(x) for site, x in latents.items()}
    return Centres(means, score, labels, covariances, weights)


def _maximise(
    latents: Latents,
    shares: Mapping[str, np.ndarray],
    means: np.ndarray,
    covariances: np.ndarray,
    key: Keyring | None,
    alike: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, covariances and weights, given what share each component has in each observation."""
    means, n = _means(latents, shares, means, key)
    enough = enough_of(n)
    known = {"n": n, "means": means}
    total = run_sums([squares(*means.shape)], _of(latents, shares), key, state=known, about="mixture")["squares"]
    new = total / np.maximum(n, 1e-12)[:, None, None] + _RIDGE * np.eye(means.shape[1])
    covariances = np.where(enough[:, None, None], new, covariances)
    weights = np.maximum(n, 1e-12) / np.maximum(n, 1e-12).sum()
    if alike:
        variance = weights @ np.trace(covariances, axis1=1, axis2=2) / means.shape[1]
        covariances = np.broadcast_to(variance * np.eye(means.shape[1]), covariances.shape)
    return means, covariances, weights


def _as_sklearn(means: np.ndarray, covariances: np.ndarray, weights: np.ndarray) -> GaussianMixture:
    """A fitted model of scikit-learn with these parameters, for its densities."""
    model = GaussianMixture(len(means))
    identity = np.eye(means.shape[1])
    model.means_, model.covariances_, model.weights_ = means, covariances, weights
    model.precisions_cholesky_ = np.array(
        [solve_triangular(np.linalg.cholesky(c), identity, lower=True).T for c in covariances]
    )
    return model
