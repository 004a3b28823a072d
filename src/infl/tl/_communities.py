"""Leiden communities of each site, and which of them are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scanpy as sc
from anndata import AnnData

from infl.sums.mixture import FEWEST

APART = 1.0
"""Centroids further apart than this, in root mean squared radii of the two clusters, are different clusters."""


@dataclass(frozen=True)
class Community:
    """What a site sends of one of its communities, or the same of several sites together.

    Attributes
    ----------
    members
        (site, number of the community there).
    n
        Observations.
    mean
        Centroid, (d,).
    square
        Mean squared distance from it.
    """

    members: frozenset[tuple[str, int]]
    n: int
    mean: np.ndarray
    square: float

    def apart(self, other: Community) -> float:
        """Distance of the centroids in radii; infinite for two of one site, which are different for sure."""
        if {site for site, _ in self.members} & {site for site, _ in other.members}:
            return np.inf
        scale = (self.square + other.square) / 2
        return float(np.sqrt(((self.mean - other.mean) ** 2).sum() / max(scale, 1e-300)))

    def joined(self, other: Community) -> Community:
        """Both as one."""
        n = self.n + other.n
        mean = (self.n * self.mean + other.n * other.mean) / n
        square = sum(c.n * (c.square + ((c.mean - mean) ** 2).sum()) for c in (self, other)) / n
        return Community(self.members | other.members, n, mean, float(square))


def communities(x: np.ndarray, *, resolution: float, n_neighbors: int, seed: int) -> np.ndarray:
    """Leiden on the graph of nearest neighbours of one site, (n_obs,) numbers; by scanpy."""
    if len(x) < FEWEST:
        return np.zeros(len(x), dtype=int)
    adata = AnnData(obsm={"X": x}, shape=(len(x), 0))
    sc.pp.neighbors(adata, n_neighbors=min(n_neighbors, len(x) - 1), use_rep="X", random_state=seed)
    sc.tl.leiden(adata, resolution=resolution, flavor="igraph", n_iterations=-1, directed=False, random_state=seed)
    return adata.obs["leiden"].cat.codes.to_numpy().astype(int)


def described(site: str, x: np.ndarray, labels: np.ndarray) -> list[Community]:
    """Return what the site sends of its communities: nothing of those with fewer than five observations."""
    found = []
    for label in np.unique(labels):
        own = x[labels == label]
        if len(own) < FEWEST:
            continue
        mean = own.mean(axis=0)
        square = float(((own - mean) ** 2).sum(axis=1).mean())
        found.append(Community(frozenset([(site, int(label))]), len(own), mean, square))
    return found


def matched(found: list[Community]) -> list[Community]:
    """Join the nearest two of different sites again and again, until they are too far apart.

    Examples
    --------
    >>> a = [
    ...     Community(frozenset([("a", 0)]), 10, np.array([0.0]), 1.0),
    ...     Community(frozenset([("a", 1)]), 9, np.array([9.0]), 1.0),
    ... ]
    >>> b = [Community(frozenset([("b", 0)]), 10, np.array([0.2]), 1.0)]
    >>> [sorted(c.members) for c in matched(a + b)]
    [[('a', 1)], [('a', 0), ('b', 0)]]
    """
    found = list(found)
    while len(found) > 1:
        first, second = min(combinations(range(len(found)), 2), key=lambda pair: found[pair[0]].apart(found[pair[1]]))
        if found[first].apart(found[second]) > APART:
            break
        one = found[first].joined(found[second])
        found = [c for i, c in enumerate(found) if i not in (first, second)] + [one]
    return found


def numbered(found: list[Community]) -> Mapping[tuple[str, int], int]:
    """Number of the joint cluster of each community, by position."""
    return {member: i for i, community in enumerate(found) for member in community.members}
