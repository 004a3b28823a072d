"""Domains that mean the same at all sites: k-means of the latents of all sites, from sums that are a run's exchanges.

Several beginnings go abreast in the same exchanges, so they cost none. Their first centres are drawn from the normal
distribution with mean and covariance of all latents: no spot is ever anybody's centre.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import pairwise_distances_argmin_min

from infl.models.task import Sums

BEGINNINGS = 16
FEWEST = 5
"""Spots of which a centre is the mean at least; smaller domains keep the centre that they had."""


def moment_shapes(d: int) -> dict[str, tuple[int, ...]]:
    """Shapes of :func:`moments`."""
    return {"n": (), "sum": (d,), "products": (d, d)}


def moments(z: np.ndarray) -> Sums:
    """Number, sum (d,) and products (d, d) of latents (n, d)."""
    return {"n": np.asarray(float(len(z))), "sum": z.sum(0), "products": z.T @ z}


def first_centres(sums: Mapping[str, np.ndarray], k: int) -> np.ndarray:
    """Centres (beginnings, k, d) to begin with; the same at all sites."""
    n = max(float(sums["n"]), 1.0)
    mean = sums["sum"] / n
    values, axes = np.linalg.eigh(sums["products"] / n - np.outer(mean, mean))
    draws = np.random.default_rng(0).standard_normal((BEGINNINGS, k, len(mean)))
    return mean + draws * np.sqrt(np.maximum(values, 0)) @ axes.T


def part_shapes(k: int, d: int, beginnings: int = BEGINNINGS) -> dict[str, tuple[int, ...]]:
    """Shapes of :func:`parts`."""
    return {"n": (beginnings, k), "sum": (beginnings, k, d), "squares": (beginnings,)}


def parts(z: np.ndarray, centres: np.ndarray) -> Sums:
    """Of each beginning: numbers (k,) and sums (k, d) of the latents nearest to each centre, and squared distances."""
    begun, k, d = centres.shape
    sums: Sums = {name: np.zeros(shape) for name, shape in part_shapes(k, d, begun).items()}
    if len(z):
        for i, own in enumerate(centres):
            label, distance = pairwise_distances_argmin_min(z, own)
            member = np.eye(k)[label]
            sums["n"][i], sums["sum"][i] = member.sum(0), member.T @ z
            sums["squares"][i] = (distance**2).sum()
    return sums


def moved(centres: np.ndarray, sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Centres after a step of Lloyd's algorithm."""
    n = sums["n"][..., None]
    return np.where(n >= FEWEST - 0.5, sums["sum"] / np.maximum(n, 1e-12), centres)


def best(centres: np.ndarray, sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Centres (k, d) of the beginning with the least squared distances, the largest domain first."""
    chosen = int(sums["squares"].argmin())
    return centres[chosen][np.argsort(-sums["n"][chosen], kind="stable")]


def named(domain: np.ndarray, k: int, names: pd.Index) -> pd.Series:
    """Return domains (n,) as categories ``"0"``, ``"1"`` … of the observations `names`; missing where it is −1.

    Examples
    --------
    >>> named(np.array([1, -1]), 2, pd.Index(["x", "y"])).tolist()
    ['1', nan]
    """
    return pd.Series(pd.Categorical.from_codes(domain, categories=[str(i) for i in range(k)]), index=names)


def assign(z: np.ndarray, centres: np.ndarray, graph: sparse.csr_matrix, smooth: int) -> np.ndarray:
    """Return the domain of each spot (n,): of the nearest centre, then `smooth` times that of most of its neighbours.

    A spot's own domain counts as one vote and stays where votes are even.

    Examples
    --------
    >>> path = sparse.csr_matrix(np.eye(5, k=1) + np.eye(5, k=-1))
    >>> z = np.array([[0.0], [0.0], [9.0], [0.0], [0.0]])
    >>> assign(z, np.array([[0.0], [9.0]]), path, 0).tolist(), assign(z, np.array([[0.0], [9.0]]), path, 1).tolist()
    ([0, 0, 1, 0, 0], [0, 0, 0, 0, 0])
    """
    label, _ = pairwise_distances_argmin_min(z, centres)
    one_hot = np.eye(len(centres))
    for _ in range(smooth):
        label = (graph @ one_hot[label] + (1 + 1e-6) * one_hot[label]).argmax(1)
    return label
