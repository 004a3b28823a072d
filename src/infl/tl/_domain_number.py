"""How many domains sections tell: what one half of each section teaches, held against the other half, by sums over sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from infl.data.consortium import alongside
from infl.models.neighbours import Sections
from infl.sums import COUNT_SCALE, FederatedSum, n_observations, run_sums
from infl.sums.mixture import FEWEST
from infl.tl._centres import Latents, kmeans

if TYPE_CHECKING:
    from infl.keys import Keyring

MOST, ENOUGH = 10, 0.8
"""Most domains that are tried; and the prediction strength from which on they are well told (Tibshirani and Walther 2005)."""
_N_INIT = 5


def halves_of_sections(sections: Sections) -> np.ndarray:
    """Return which spots (n_obs,) lie beyond the middle of their section along its longest axis.

    Neighbours share what they express, so halves are cut, not drawn.

    Examples
    --------
    >>> grid = np.array([[x, y] for x in range(4) for y in range(2)], dtype=float)
    >>> halves_of_sections(Sections({"": np.arange(8)}, grid, "a")).reshape(4, 2)[:, 0].tolist() in (
    ...     [False, False, True, True],
    ...     [True, True, False, False],
    ... )
    True
    """
    beyond = np.zeros(len(sections.coordinates), dtype=bool)
    for rows in sections.rows.values():
        xy = sections.coordinates[rows]
        along = (xy - xy.mean(0)) @ np.linalg.eigh(np.cov(xy.T))[1][:, -1]
        beyond[rows] = along > np.median(along)
    return beyond


def strengths(latents: Latents, beyond: Mapping[str, np.ndarray], seed: int, key: Keyring | None) -> dict[int, float]:
    """Return the prediction strength of each number of domains from two on.

    Parameters
    ----------
    latents
        By site, (n_obs, d).
    beyond
        By site, which spots are the second half.
    seed
        Of the clusters.
    key
        Key ring or None.
    """
    halves = [
        alongside(latents, {site: x[beyond[site] == half] for site, x in latents.items()}) for half in (False, True)
    ]
    sizes = [
        n_observations(alongside(latents, {s: len(x) for s, x in half.items()}), key, about="spatial domains")
        for half in halves
    ]
    found = {}
    for k in range(2, min(MOST, min(sizes) // FEWEST) + 1):
        own = [kmeans(half, k, n_init=_N_INIT, max_iter=300, tol=1e-4, seed=seed, key=key) for half in halves]
        each = []
        for half, mine, others in ((halves[0], own[0], own[1]), (halves[1], own[1], own[0])):
            pairs = {
                site: (mine.labels[site], pairwise_distances_argmin(x, others.means) if len(x) else np.zeros(0, int))
                for site, x in half.items()
            }
            table = run_sums([agreement(k)], alongside(latents, pairs), key, about="spatial domains")["n"]
            each.append(strength(table))
        found[k] = float(np.mean(each))
    return found


def agreement(k: int) -> FederatedSum:
    """Return how many spots have each pair of domains; a site is its spots' domains by their own half and by the other."""

    def counted(pair: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        return {"n": np.bincount(pair[0] * k + pair[1], minlength=k * k).reshape(k, k)}

    return FederatedSum(
        name="agreement",
        shapes={"n": (k, k)},
        local=lambda pair, _: counted(pair),
        combine=lambda total, state: state | total,
        says="number of spots by the domain that their half of the section gives them, and that the other half does",
        scale=COUNT_SCALE,
        records=lambda pair, _: counted(pair),
        sensitivity={"n": 1},
    )


def strength(table: np.ndarray) -> float:
    """Return how often two spots of a domain stay together elsewhere, for the domain that stays together least.

    Parameters
    ----------
    table
        Number of spots by their domain (rows) and by that of others' centres (columns).

    Examples
    --------
    >>> strength(np.array([[10, 0], [0, 10]])), round(strength(np.array([[10, 0], [5, 5]])), 2)
    (1.0, 0.44)
    """
    n = table.sum(1)
    together = (table * (table - 1)).sum(1)
    return float(min((t / (m * (m - 1)) for t, m in zip(together, n, strict=True) if m > 1), default=0.0))


def well_told(found: Mapping[int, float]) -> int:
    """Return the largest number of domains that sections agree on, else the one that they agree on best; 1 where none was tried.

    Examples
    --------
    >>> well_told({2: 0.9, 3: 0.85, 4: 0.5}), well_told({2: 0.7, 3: 0.75}), well_told({})
    (3, 3, 1)
    """
    enough = [k for k, value in found.items() if value >= ENOUGH]
    return max(enough) if enough else max(found, key=lambda k: found[k], default=1)
