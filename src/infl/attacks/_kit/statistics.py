"""Means with confidence intervals, correlations, and a fair choice among many variants of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def interval(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return ``value`` (mean), ``low`` and ``high`` (95 %, Student's t) of independent ``trials``.

    Parameters
    ----------
    values
        What each trial gave, (n,).

    Examples
    --------
    >>> interval([1.0, 1.0, 1.0])["high"]
    1.0
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    n = len(values)
    half = t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5 if n > 1 else 0.0
    mean = float(values.mean())
    return {"value": mean, "low": float(mean - half), "high": float(mean + half), "trials": n}


def trials_for(trials: int, half: float, distance: float) -> int:
    """Return how many trials would bring the half-width of a mean's 95 % interval down to a distance.

    Parameters
    ----------
    trials, half
        Number of trials, and the half-width that they gave (Student's t).
    distance
        Above 0.

    Examples
    --------
    >>> trials_for(6, 0.26, 0.15), trials_for(6, 0.1, 0.15)
    (13, 6)
    """
    from scipy.stats import t

    spread = half * trials**0.5 / t.ppf(0.975, max(trials - 1, 1))
    n = max(trials, 2)
    while t.ppf(0.975, n - 1) * spread / n**0.5 > distance:
        n = max(n + 1, int((1.96 * spread / distance) ** 2))
    return n


def cross_chosen(values: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Choose the best of several variants on half of the trials and take its values on the other half, both ways.

    The best of many variants on the trials that it was chosen on would look better than it is.

    Parameters
    ----------
    values
        One row a variant. ``(n_variants, n_trials)``

    Returns
    -------
    The chosen variants' values ``(n_trials,)``, and which variant was chosen for each trial.

    Examples
    --------
    >>> cross_chosen(
    ...     np.array([[1, 5, 1, 5], [2, 2, 2, 2]])
    ... )  # on even trials the second is better, on odd ones the first
    (array([1, 2, 1, 2]), [0, 1, 0, 1])
    """
    n = values.shape[1]
    if n == 1:
        best = int(values[:, 0].argmax())
        return values[best], [best]
    half = np.arange(n) % 2
    best_on = [int(values[:, half == h].mean(1).argmax()) for h in (0, 1)]
    chosen = [best_on[1 - h] for h in half]
    return values[chosen, np.arange(n)], chosen


def most_chosen(names: Sequence[str], chosen: Sequence[int]) -> str:
    """Return the name of the variant that was chosen most often."""
    return names[int(np.bincount(chosen).argmax())]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation; 0 where one of them is constant or not finite.

    Parameters
    ----------
    a, b
        Numbers, (n,) each.

    Examples
    --------
    >>> round(correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])), 6)
    1.0
    >>> correlation(np.zeros(3), np.arange(3.0))
    0.0
    """
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 3 or a[good].std() == 0 or b[good].std() == 0:
        return 0.0
    return float(np.corrcoef(a[good], b[good])[0, 1])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's correlation; 0 where one of them is constant or not finite."""
    from scipy.stats import rankdata

    a, b = np.ravel(a), np.ravel(b)
    good = np.isfinite(a) & np.isfinite(b)
    return correlation(rankdata(a[good]), rankdata(b[good]))
