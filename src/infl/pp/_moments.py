"""Means and variances over all sites, from sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from infl._parameters import LAYER
from infl.federation.sums import sum_over_sites
from infl.pp._copy import own
from infl.pp._matrix import SiteMatrix, kinds, matrices
from infl.pp._sites import over_sites
from infl.pp._units import warn_of_units

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

Transform = Callable[[Any], Any]
"""Values to values, 0 to 0, applied to a block before it is summed."""

FINE = -40
"""First step of sums whose size nobody knows yet, as a power of two; widened where it does not fit."""


@over_sites(layer=LAYER)
def moments(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    layer: str | None = None,
    inplace: bool = True,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame:
    """Mean and variance of every feature over the observations of all sites.

    Two rounds of sums: first the means, then squared distances from them, each feature on a scale that follows from the
    first round. So the result is as exact for counts in the millions as for fractions of a millionth.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; dense, sparse or backed. A site that did not measure a feature
        (``var["infl_present"]``) has no part in its moments.
    layer
        Layer to use instead of ``X``.
    inplace
        Write ``var["mean"]``, ``var["var"]`` and ``var["std"]`` at every site.
    site_key
        Of one object in place of the dict: the column of ``obs`` that says which site a row belongs to.
    key
        Key ring: with it, and three sites or more, what leaves a site is sealed.

    Returns
    -------
    One row a feature: ``n_obs``, ``mean``, ``var`` (unbiased, as scanpy's) and ``std``.

    Warns
    -----
    infl.errors.InflWarning
        Sites have different kinds of values, such as counts and logarithms.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.moments(sites).n_obs.iloc[0]
    np.int64(83)
    """
    at = matrices(sites, layer, key)
    warn_of_units(kinds(at))
    found = federated_moments(at, key)
    index = next(iter(at.values())).adata.var_names
    table = pd.DataFrame(
        {"n_obs": found.n.astype(np.int64), "mean": found.mean, "var": found.var, "std": np.sqrt(found.var)},
        index=index.copy(),
    )
    if inplace:
        for matrix in at.values():
            for name in ("mean", "var", "std"):
                own(matrix.adata).var[name] = table[name].to_numpy()
    return table


@dataclass(frozen=True)
class Moments:
    """Over all sites, for each feature: number of observations, mean, unbiased variance; (n_vars,) each."""

    n: np.ndarray
    mean: np.ndarray
    var: np.ndarray


def federated_moments(
    at: Mapping[str, SiteMatrix],
    key: Keyring | None,
    *,
    transform: Transform | None = None,
    rows: Mapping[str, np.ndarray] | None = None,
    purpose: str = "moments",
    textbook: bool = False,
) -> Moments:
    """Moments of transformed values.

    Parameters
    ----------
    at
        Matrices by site.
    key
        Key ring or None.
    transform
        Applied to each block.
    rows
        For each site, which observations to use, (n_obs,) booleans.
    purpose
        What the seal is bound to.
    textbook
        Variances by E[x²] − E[x]² with squares in the type of the values: less exact, but what scanpy ranks features by.
    """
    chosen = {site: None if rows is None else rows[site] for site in at}
    first = {site: _first_sums(matrix, transform, chosen[site]) for site, matrix in at.items()}
    fine = dict.fromkeys(("sum", "size"), FINE)
    total = sum_over_sites(first, f"{purpose}: sums", key, exponents=fine | {"n": 0})
    n = np.maximum(total["n"], 1)
    mean = total["sum"] / n
    scale = power_of_two(total["size"] / n)
    center = None if textbook else mean
    second = {
        site: {"square": _squares(matrix, transform, chosen[site], center) / scale**2} for site, matrix in at.items()
    }
    squares = sum_over_sites(second, f"{purpose}: squares", key, exponents={"square": FINE})["square"] * scale**2
    if textbook:
        var = (squares / n - mean**2) * (n / np.maximum(n - 1, 1))
    else:
        var = np.maximum(squares, 0) / np.maximum(n - 1, 1)
    return Moments(total["n"], mean, var)


def power_of_two(size: np.ndarray) -> np.ndarray:
    """Return the power of two next above each value (1 for 0)."""
    with np.errstate(divide="ignore"):
        return np.where(size > 0, np.exp2(np.ceil(np.log2(size))), 1.0)


def taken(block: Any, rows: slice, chosen: np.ndarray | None, transform: Transform | None) -> Any:
    """The chosen observations of a block, transformed."""
    if chosen is not None:
        block = block[np.flatnonzero(chosen[rows])]
    return block if transform is None else transform(block)


def column_sums(block: Any) -> np.ndarray:
    """Sums of columns in float64, whatever the block's type."""
    if sparse.issparse(block):
        return np.bincount(block.indices, weights=block.data, minlength=block.shape[1])
    return block.sum(axis=0, dtype=np.float64)


def _first_sums(matrix: SiteMatrix, transform: Transform | None, chosen: np.ndarray | None) -> dict[str, np.ndarray]:
    """Number of observations, Σx and Σ|x|, (n_vars,) each."""
    n_vars = len(matrix.present)
    sums, sizes = np.zeros(n_vars), np.zeros(n_vars)
    for rows, whole in matrix.blocks():
        block = taken(whole, rows, chosen, transform)
        sums += column_sums(block)
        sizes += column_sums(abs(block))
    n = matrix.n_obs if chosen is None else int(chosen.sum())
    return {"n": np.where(matrix.present, n, 0).astype(float), "sum": sums * matrix.present, "size": sizes}


def _squares(
    matrix: SiteMatrix, transform: Transform | None, chosen: np.ndarray | None, center: np.ndarray | None
) -> np.ndarray:
    """Σ(x − center)², (n_vars,); without a center Σx², of squares in the type of real values."""
    n_vars = len(matrix.present)
    squares = np.zeros(n_vars)
    for rows, whole in matrix.blocks():
        block = taken(whole, rows, chosen, transform)
        if center is None:
            block = block if block.dtype.kind == "f" else block.astype(np.float64)
            squares += column_sums(block.multiply(block).tocsr() if sparse.issparse(block) else block * block)
        elif sparse.issparse(block):
            stored = (block.data - center[block.indices]) ** 2
            squares += np.bincount(block.indices, weights=stored, minlength=n_vars)
            squares += (block.shape[0] - np.bincount(block.indices, minlength=n_vars)) * center**2
        else:
            squares += ((block - center) ** 2).sum(axis=0)
    return np.where(matrix.present, squares, 0)
