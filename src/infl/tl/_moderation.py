"""Moderated variances: each feature's variance is drawn towards what all features say.

Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression in microarray experiments. Statistical
Applications in Genetics and Molecular Biology 3:3. Sartor et al. (2006), BMC Bioinformatics 7:538, for a prior that
follows a feature's mean. A variance s² on d degrees of freedom is s₀² times F(d, d₀); mean and variance of log s² give s₀² and d₀.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from infl.errors import DataError

_SMALLEST = 1e-5  # of the median variance, which smaller ones count as
_KNOTS_FROM = (3, 6, 30)  # numbers of features from which the curve has one degree of freedom more


@dataclass(frozen=True)
class Moderated:
    """Variances after moderation, the prior ones, (n_vars,) each, and the prior's degrees of freedom."""

    var: np.ndarray
    prior: np.ndarray
    df_prior: float


def moderate(var: np.ndarray, df: np.ndarray, mean: np.ndarray | None = None) -> Moderated:
    """Return moderated variances.

    Parameters
    ----------
    var
        Residual variances, (n_vars,); of no meaning where `df` is 0.
    df
        Their degrees of freedom, (n_vars,).
    mean
        Means of the features, (n_vars,), which the prior then follows.

    Raises
    ------
    infl.errors.DataError
        Fewer than two features have a variance.

    Examples
    --------
    >>> found = moderate(np.array([1.0, 1.1, 0.9, 1.0]), np.full(4, 5.0))
    >>> found.df_prior, found.var.tolist()
    (inf, [1.0, 1.0, 1.0, 1.0])
    """
    usable = (df > 0) & np.isfinite(var)
    if mean is not None:
        usable &= np.isfinite(mean)
    if usable.sum() < 2:
        raise DataError(
            "fewer than two features have more values than the design has terms: simplify design=, or add samples"
        )
    prior, df_prior = _prior(var[usable], df[usable], *_curve(mean, usable))
    if np.isinf(df_prior):
        return Moderated(np.broadcast_to(prior, var.shape).copy(), np.broadcast_to(prior, var.shape), df_prior)
    known = np.where(usable, var, 0)
    moderated = (np.where(usable, df, 0) * known + df_prior * prior) / (np.where(usable, df, 0) + df_prior)
    return Moderated(moderated, np.broadcast_to(prior, var.shape), df_prior)


def _curve(mean: np.ndarray | None, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what log variances are fitted by: a curve of the mean where that is given, else a constant; usable rows, all rows."""
    n = int(usable.sum())
    df = 1 + sum(n >= least for least in _KNOTS_FROM)
    df = 1 if mean is None else min(df, len(np.unique(mean[usable])))
    if mean is None or df == 1:
        return np.ones((n, 1)), np.ones((len(usable), 1))
    low, high = mean[usable].min(), mean[usable].max()
    scaled = (mean - low) / (high - low)
    knots = np.quantile(scaled[usable], np.linspace(0, 1, df))
    basis = natural_cubic(scaled, knots)
    return basis[usable], basis


def natural_cubic(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return a basis of cubic splines that are straight outside their knots, (n, knots).

    Examples
    --------
    >>> natural_cubic(np.array([0.0, 0.5, 2.0]), np.array([0.0, 1.0])).tolist()
    [[1.0, 0.0], [1.0, 0.5], [1.0, 2.0]]
    """
    cubes = np.maximum(x[:, None] - knots, 0) ** 3
    bent = (cubes[:, :-1] - cubes[:, -1:]) / (knots[-1] - knots[:-1])
    return np.column_stack([np.ones_like(x), x, bent[:, :-1] - bent[:, -1:]])


def _prior(var: np.ndarray, df: np.ndarray, own: np.ndarray, every: np.ndarray) -> tuple[np.ndarray, float]:
    """Return prior variances of all features, and their degrees of freedom, from the usable ones."""
    middle = np.median(var) or 1.0
    var = np.maximum(var, _SMALLEST * middle)
    logs = np.log(var) - special.digamma(df / 2) + np.log(df / 2)
    rank = own.shape[1]
    q, r = np.linalg.qr(own)
    fitted = q @ (q.T @ logs)
    center = every @ np.linalg.solve(r, q.T @ logs)
    excess = ((logs - fitted) ** 2).sum() / max(len(logs) - rank, 1) - special.polygamma(1, df / 2).mean()
    if not excess > 0:
        return (np.full(len(every), var.mean()) if rank == 1 else np.exp(center)), np.inf
    df_prior = 2 * inverse_trigamma(float(excess))
    return np.exp(center + special.digamma(df_prior / 2) - np.log(df_prior / 2)), df_prior


def inverse_trigamma(value: float) -> float:
    """Return y with trigamma(y) = value, by Newton's method on 1/trigamma, which is nearly a line.

    Examples
    --------
    >>> bool(abs(special.polygamma(1, inverse_trigamma(0.37)) - 0.37) < 1e-12)
    True
    """
    if value > 1e7:
        return value**-0.5
    if value < 1e-6:
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(50):
        tri = float(special.polygamma(1, y))
        step = tri * (1 - tri / value) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-14 * y:
            break
    return y
