"""What a reference knows of its own records, by sums over sites; with it, records of a class that it never saw are recognised.

Each class has a mean in the latent. How far validation records are from the nearest of these means, and from the mean of all in
their features, is counted in cells: a new record is as novel as the share of them that is nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from infl.sums import COUNT_SCALE, FederatedSum, SiteView, State
from infl.sums.shape import Arrays, Records

MEANS, DEVIATION, TAUGHT, CELLS = "atlas_means", "atlas_deviation", "atlas_n", "atlas_cells"
"""Under which names the results are kept."""
NAMES = (MEANS, DEVIATION, TAUGHT, CELLS)
FEWEST = 3
"""Training records of a class at a site, below which it is not taught there."""
EDGES = np.geomspace(0.05, 50.0, 241)
"""Where cells of distance end, three hundredths apart; those at the ends have what lies beyond."""

Rows = Callable[[Any, Any, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of a module, data and index: latents (n, width), class numbers (n,), −1 where unknown, and distances in features (n,)."""


def atlas_sums(k: int, width: int, rows: Rows) -> tuple[FederatedSum, FederatedSum]:
    """Return the sums of each class's latents over training records, and the counts of validation records by distance.

    A class of fewer than three training records at a site is not taught by it.
    """

    def taught(site: SiteView) -> tuple[np.ndarray, np.ndarray]:
        z, code, _ = rows(site.module, site.data, site.data.train)
        n = np.bincount(code[code >= 0], minlength=k)
        known = (code >= 0) & (n >= FEWEST)[code]
        return z[known].astype(np.float64), np.eye(k)[code[known]]

    def local(site: SiteView, state: State) -> Arrays:
        z, of = taught(site)
        return {"n": of.sum(0), "sum": of.T @ z, "square": (z**2).sum(0)}

    def records(site: SiteView, state: State) -> Records:
        n = taught(site)[1].sum(0)
        return {"n": n, "sum": n[:, None], "square": n.sum()}

    def combine(total: Arrays, state: State) -> State:
        n = total["n"]
        means = total["sum"] / np.maximum(n, 1)[:, None]
        within = (total["square"] - (n[:, None] * means**2).sum(0)) / max(n.sum(), 1)
        return {**state, MEANS: means, TAUGHT: n, DEVIATION: np.sqrt(np.maximum(within, 1e-6))}

    def counted(site: SiteView, state: State) -> Arrays:
        z, _, far = rows(site.module, site.data, site.data.validation)
        return {CELLS: np.stack([_cells(nearest(z, state)[0]), _cells(far)])}

    latents = FederatedSum(
        name="atlas",
        shapes={"n": (k,), "sum": (k, width), "square": (width,)},
        local=local,
        combine=combine,
        says="for each class: number of training records, and sums of the values that the model gives to them; sums of their squares",
        records=records,
        sensitivity={"n": 1},
    )
    distances = FederatedSum(
        name=CELLS,
        shapes={CELLS: (2, len(EDGES) + 1)},
        local=counted,
        combine=lambda total, state: {**state, CELLS: total[CELLS]},
        says="number of validation records by their distance from the nearest class, and from the mean of features",
        scale=COUNT_SCALE,
        records=counted,
        sensitivity={CELLS: 2},
    )
    return latents, distances


def nearest(latent: np.ndarray, atlas: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each latent (n, width) is from the nearest class that was taught (n,), in deviations, and which it is.

    Examples
    --------
    >>> atlas = {MEANS: np.array([[0.0], [9.0], [50.0]]), DEVIATION: np.array([2.0]), TAUGHT: np.array([5, 5, 0])}
    >>> [found.tolist() for found in nearest(np.array([[1.0], [50.0]]), atlas)]
    [[0.5, 20.5], [0, 1]]
    """
    there = np.flatnonzero(atlas[TAUGHT] > 0)
    if not len(there):
        return np.zeros(len(latent)), np.full(len(latent), -1)
    far = np.stack([((latent - m) / atlas[DEVIATION]) ** 2 for m in atlas[MEANS][there]], 1).mean(2)
    return np.sqrt(far.min(1)), there[far.argmin(1)]


def novelty(latent: np.ndarray, features: np.ndarray, atlas: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the share of the reference's validation records that is nearer than each record (n,), by the larger of two distances.

    It is corrected for taking the larger one: of records like those of the reference, a share x or more is at most x novel.

    Parameters
    ----------
    latent
        ``(n, width)``
    features
        Distance of features (n,); NaN where there is none.
    atlas
        Private arrays of the reference.
    """
    parts = [_share(far, cells) for far, cells in zip((nearest(latent, atlas)[0], features), atlas[CELLS], strict=True)]
    used = [part for part in parts if np.isfinite(part).any()]
    return np.maximum(1 - len(used) * (1 - np.max(used, axis=0)), 0.0)


def _cells(far: np.ndarray) -> np.ndarray:
    """Return how many distances lie in each cell; those that are not known are left out."""
    return np.bincount(np.searchsorted(EDGES, far[np.isfinite(far)]), minlength=len(EDGES) + 1).astype(float)


def _share(far: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the share of counted records that is nearer, between cells' ends by their logarithm, rising beyond the last."""
    n = cells.sum()
    if not n:
        return np.full(len(far), np.nan)
    last = EDGES[min(int(np.flatnonzero(cells)[-1]), len(EDGES) - 1)]
    within = np.interp(np.log(np.maximum(far, 1e-12)), np.log(EDGES), np.cumsum(cells)[:-1] / (n + 1))
    return within + np.maximum(1 - last / np.maximum(far, 1e-12), 0) / (n + 1) * np.where(np.isfinite(far), 1, np.nan)
