"""Which features vary more than others of their mean: the numerics, on means and variances that sums over sites gave.

The formulas are scanpy's (1.11), rounding and ties included, so that the same features are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import median_abs_deviation

from infl.errors import DataError
from infl.pp._loess import local_regression


@dataclass(frozen=True)
class Cutoffs:
    """Bounds of mean and normalised dispersion, all exclusive."""

    min_disp: float = 0.5
    max_disp: float = np.inf
    min_mean: float = 0.0125
    max_mean: float = 3

    def hold(self, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
        """Which features are within; (n_vars,) booleans."""
        return (
            (mean > self.min_mean)
            & (mean < self.max_mean)
            & (dispersion > self.min_disp)
            & (dispersion < self.max_disp)
        )


def dispersions(
    mean: np.ndarray, var: np.ndarray, flavor: Literal["seurat", "cell_ranger"], n_bins: int
) -> pd.DataFrame:
    """Dispersion of each feature, and how it compares with those of features with a like mean.

    Parameters
    ----------
    mean, var
        Of each feature, (n_vars,).
    flavor
        ``"seurat"``: logarithms of dispersion and mean; bins of equal width; mean and standard deviation of each bin
        (Satija et al. 2015). ``"cell_ranger"``: bins of equally many; median and median absolute deviation (Zheng et al.
        2017).
    n_bins
        Number of bins of ``"seurat"``.

    Returns
    -------
    One row per feature: ``means``, ``dispersions``, ``mean_bin``, ``dispersions_norm``.

    Examples
    --------
    >>> table = dispersions(np.array([1.0, 1.1, 1.2]), np.array([1.0, 1.1, 4.8]), "seurat", n_bins=1)
    >>> table["dispersions_norm"].round(2).tolist()
    [-0.58, -0.58, 1.15]
    """
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = var / mean
        if flavor == "seurat":
            dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
            mean = np.log1p(mean)
    table = pd.DataFrame({"means": mean, "dispersions": dispersion})
    edges = n_bins if flavor == "seurat" else np.r_[-np.inf, np.percentile(mean, np.arange(10, 105, 5)), np.inf]
    try:
        table["mean_bin"] = pd.cut(table["means"], bins=edges)
    except ValueError as error:
        raise DataError(
            f"flavor {flavor!r} makes bins of the means, and too many features have the same mean for that: leave features "
            "out that are hardly ever seen, or take another flavor"
        ) from error
    groups = table.groupby("mean_bin", observed=True)["dispersions"]
    if flavor == "seurat":
        center, spread = groups.mean(), groups.std()
        alone = spread.isna()  # one feature in its bin has a normalised dispersion of 1
        spread, center = spread.where(~alone, center), center.where(~alone, 0)
    else:
        center, spread = groups.median(), groups.agg(lambda values: median_abs_deviation(values, scale="normal"))
    of_bin = table["mean_bin"]
    with np.errstate(divide="ignore", invalid="ignore"):
        table["dispersions_norm"] = (dispersion - center.loc[of_bin].to_numpy()) / spread.loc[of_bin].to_numpy()
    return table


def at_least_nth(values: np.ndarray, n: int) -> np.ndarray:
    """Which values are among the `n` largest, or equal the last of them; NaN never is.

    Examples
    --------
    >>> at_least_nth(np.array([3.0, np.nan, 1.0, 2.0, 2.0]), 2).tolist()
    [True, False, False, True, True]
    """
    valid = np.sort(values[~np.isnan(values)])
    if not len(valid):
        return np.zeros(len(values), dtype=bool)
    return np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf) >= valid[-min(n, len(valid))]


def expected_std(mean: np.ndarray, var: np.ndarray, span: float, where: str) -> np.ndarray:
    """Standard deviation of features of that mean, by a local regression over all (Stuart et al. 2019); (n_vars,).

    It is 1 where nothing varies.
    """
    varies = var > 0
    fitted = np.zeros(len(mean))
    x, y = np.log10(mean[varies]), np.log10(var[varies])
    try:
        fitted[varies] = local_regression(x, y, span, needed_by="flavor 'seurat_v3'")
    except ValueError as error:
        raise DataError(
            f"the local regression of variances on means failed at {where} ({int(varies.sum())} features vary there: "
            f"{error}); set a larger span than {span}, or leave features out that are hardly ever seen"
        ) from error
    return np.sqrt(10**fitted)
