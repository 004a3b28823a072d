"""Ridge regression with a penalty by generalised cross-validation: the baseline of regressors.

What it takes of the data are numbers of records, sums, and sums of products, so that over sites it would be the same to rounding.

References
----------
Golub, Heath, Wahba, Generalized cross-validation as a method for choosing a good ridge parameter, Technometrics 1979.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PENALTIES = np.geomspace(1e-3, 1e5, 49)
"""Candidates, in multiples of the mean of a record's squared length over the number of records."""


def ridge(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit each target by itself to the records that have it; return what predicts (n, n_targets) from features.

    Parameters
    ----------
    x
        Features (n, n_features); NaN where not measured, which is then the mean.
    y
        Targets (n, n_targets); NaN where not measured.

    Examples
    --------
    >>> x = np.arange(20.0)[:, None]
    >>> ridge(x, 3 * x + 1)(np.array([[40.0]])).round(1)
    array([[121.]])
    """
    columns = [_of_one(x[known], target[known]) for target in y.T for known in [np.isfinite(target)]]
    return lambda new: np.stack([predict(new) for predict in columns], 1)


def _of_one(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    if not len(y):
        return lambda new: np.full(len(new), np.nan)
    x = x.astype(np.float64)
    seen = (~np.isnan(x)).sum(0)
    center = np.nansum(x, 0) / np.maximum(seen, 1)
    deviation = np.sqrt(np.nansum((x - center) ** 2, 0) / np.maximum(seen, 1))
    scale = np.where(deviation > 1e-9, deviation, 1.0)

    def rows(values: np.ndarray) -> np.ndarray:
        return np.nan_to_num((values - center) / scale)

    left, size, axes = np.linalg.svd(rows(x), full_matrices=False)
    mean, along = y.mean(), left.T @ (y - y.mean())
    rest = float(((y - mean) ** 2).sum() - (along**2).sum())
    penalties = PENALTIES * max(float((size**2).sum()) / len(y), 1e-12)
    kept = size**2 / (size**2 + penalties[:, None])  # (penalties, axes)
    error = rest + ((1 - kept) ** 2 @ along**2)
    free = len(y) - 1 - kept.sum(1)
    best = int(np.argmin(np.where(free > 0.5, error / np.maximum(free, 0.5) ** 2, np.inf)))
    weight = axes.T @ (size / (size**2 + penalties[best]) * along)
    return lambda new: mean + rows(new) @ weight
