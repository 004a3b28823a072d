"""Clusters from a tree: many small groups by k-means over sites, joined where that adds least to the squared distances (Ward 1963).

The tree is computed from means and numbers of the groups alone, so one set of sums serves any number of clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infl.data.consortium import alongside
from infl.sums import run_sums
from infl.sums.mixture import FEWEST
from infl.sums.observations import n_observations
from infl.tl._centres import Centres, Latents, kmeans
from infl.tl._cluster_sums import distances, sizes

if TYPE_CHECKING:
    from infl.keys import Keyring

GROUPS = 30
"""Groups that the tree begins with."""


def ward(
    latents: Latents, k: int, *, n_init: int, max_iter: int, tol: float, seed: int, key: Keyring | None
) -> Centres:
    """k-means with many groups, and the tree of their means, cut at `k` clusters."""
    n_of = alongside(latents, {site: len(x) for site, x in latents.items()})
    n_groups = max(k, min(GROUPS, n_observations(n_of, key, about="cluster") // FEWEST))
    fine = kmeans(latents, n_groups, n_init=n_init, max_iter=max_iter, tol=tol, seed=seed, key=key)
    counted = run_sums([sizes(n_groups)], alongside(latents, fine.labels), key, about="cluster")["n"]
    n = np.nan_to_num(counted)  # what rules of disclosure close goes with any other
    branch = cut(fine.means, n, k)
    share = np.eye(k)[branch] * np.maximum(n, 1e-12)[:, None]  # (groups, k)
    means = share.T @ fine.means / share.sum(0)[:, None]
    labels = {site: branch[own] for site, own in fine.labels.items()}
    each = alongside(latents, {site: (x - means[labels[site]]) ** 2 for site, x in latents.items()})
    return Centres(means, float(run_sums([distances()], each, key, about="cluster")["score"]), labels)


def cut(means: np.ndarray, n: np.ndarray, k: int) -> np.ndarray:
    """Join the two clusters that adds least to the squared distances, until `k` are left; return the cluster of each group.

    Parameters
    ----------
    means, n
        Mean (groups, d) and number of observations (groups,) of each group.
    k
        Number of clusters.

    Examples
    --------
    >>> cut(np.array([[0.0], [1.0], [9.0], [3.0]]), np.array([5, 5, 5, 5]), 2).tolist()
    [0, 0, 1, 0]
    """
    means, weights, branch = means.astype(float).copy(), np.maximum(n, 1e-12).astype(float), np.arange(len(n))
    left = list(range(len(n)))
    while len(left) > k:
        own, of = means[left], weights[left]
        squares = ((own[:, None] - own) ** 2).sum(2) * (of[:, None] * of) / (of[:, None] + of)
        squares[np.diag_indices(len(left))] = np.inf
        a, b = (left[i] for i in sorted(np.unravel_index(squares.argmin(), squares.shape)))
        means[a] = (weights[a] * means[a] + weights[b] * means[b]) / (weights[a] + weights[b])
        weights[a] += weights[b]
        branch[branch == b] = a
        left.remove(b)
    return np.unique(branch, return_inverse=True)[1]
