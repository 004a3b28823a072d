"""How predicted effects of perturbations are judged."""

from __future__ import annotations

import numpy as np

TOP = 20
"""Errors are also given for this number of genes that change most."""


def effect_metrics(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Return how well an effect is predicted.

    Returns
    -------
    ``pearson_delta``; ``mse``; ``mse_top20`` and ``direction_top20`` on the 20 genes that change most; ``wmse``: squared
    errors weighted by the size of the change; ``r2_delta``: 1 − error / size of the effect.

    Examples
    --------
    >>> metrics = effect_metrics(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    >>> metrics["mse"], metrics["direction_top20"], metrics["r2_delta"]
    (0.0, 1.0, 1.0)
    """
    top = np.argsort(-np.abs(observed), kind="stable")[:TOP]
    squared, size = (predicted - observed) ** 2, np.abs(observed)
    return {
        "pearson_delta": correlation(predicted, observed),
        "mse": float(squared.mean()),
        "mse_top20": float(squared[top].mean()),
        "direction_top20": float((np.sign(predicted[top]) == np.sign(observed[top])).mean()),
        "wmse": float((squared * size).sum() / size.sum()) if size.any() else np.nan,
        "r2_delta": float(1 - squared.sum() / (observed**2).sum()) if observed.any() else np.nan,
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
