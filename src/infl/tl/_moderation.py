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
from infl.pp._loess import local_regression

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
    return _drawn(var, df, usable, *_prior(var[usable], df[usable], *_curve(mean, usable)))


def moderate_by_counts(var: np.ndarray, df: np.ndarray, counts: np.ndarray) -> Moderated:
    """Return variances moderated as DEqMS does: the prior follows the number of peptides or spectra, by R's loess.

    Zhu et al. (2020), Molecular & Cellular Proteomics 19:1047.

    Parameters
    ----------
    var, df
        See :func:`moderate`.
    counts
        Number of peptides or spectra behind each feature, (n_vars,), at least 1.

    Raises
    ------
    infl.errors.DataError
        Too few features have a variance, or numbers of peptides differ too little for a curve.
    infl.errors.MissingExtraError
        scikit-misc is missing.
    """
    usable = (df > 0) & np.isfinite(var) & np.isfinite(counts)
    by = np.log2(counts)
    logs = _logs(var[usable], df[usable])
    curve = np.full(len(var), np.nan)
    curve[usable] = _over_peptides(by[usable], logs)
    excess = ((logs - curve[usable]) ** 2).mean() - special.polygamma(1, df[usable] / 2).mean()
    df_prior = 2 * inverse_trigamma(float(excess)) if excess > 0 else np.inf
    return _drawn(var, df, usable, np.exp(curve + _offset(df_prior)), df_prior)


def _over_peptides(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the curve of the variances over numbers of peptides, with the span that R's ``loess`` has by itself, (n,)."""
    if len(np.unique(x)) < 4:
        raise DataError(
            f"method 'deqms' fits a curve over the number of peptides, and there are {len(np.unique(x))} different ones: take method='limma'"
        )
    try:
        return local_regression(x, y, 0.75, needed_by="method 'deqms'")
    except ValueError as error:
        raise DataError(
            f"method 'deqms' found no curve over the number of peptides ({error}): take method='limma'"
        ) from error


def _offset(df_prior: float) -> float:
    """How far the mean of the logarithm of a variance with these degrees of freedom is above that of its estimate."""
    return 0.0 if np.isinf(df_prior) else float(special.digamma(df_prior / 2) - np.log(df_prior / 2))


def _logs(var: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Logarithms of variances, without what their degrees of freedom take from the mean of it."""
    middle = np.median(var) or 1.0
    return np.log(np.maximum(var, _SMALLEST * middle)) - special.digamma(df / 2) + np.log(df / 2)


def _drawn(var: np.ndarray, df: np.ndarray, usable: np.ndarray, prior: np.ndarray, df_prior: float) -> Moderated:
    """Variances of all features, drawn to the prior ones."""
    prior = np.broadcast_to(prior, var.shape)
    if np.isinf(df_prior):
        return Moderated(prior.copy(), prior, df_prior)
    known, df = np.where(usable, var, 0), np.where(usable, df, 0)
    return Moderated((df * known + df_prior * prior) / (df + df_prior), prior, df_prior)


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
    var = np.maximum(var, _SMALLEST * (np.median(var) or 1.0))
    logs = _logs(var, df)
    rank = own.shape[1]
    q, r = np.linalg.qr(own)
    fitted = q @ (q.T @ logs)
    center = every @ np.linalg.solve(r, q.T @ logs)
    excess = ((logs - fitted) ** 2).sum() / max(len(logs) - rank, 1) - special.polygamma(1, df / 2).mean()
    if not excess > 0:
        return (np.full(len(every), var.mean()) if rank == 1 else np.exp(center)), np.inf
    df_prior = 2 * inverse_trigamma(float(excess))
    return np.exp(center + _offset(df_prior)), df_prior


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
