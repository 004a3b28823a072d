"""Quantiles of each feature over all sites, within a stated width, by halving.

By Cantelli's inequality the q-quantile of any values with mean m and standard deviation s lies between m − s √((1 − q) / q) and
m + s √(q / (1 − q)). So the search begins with a range that follows from moments alone, without any value, and ends when it is narrow enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from infl._parameters import LAYER, Real, Several
from infl.data.sites import over_sites
from infl.data.units import warn_of_units
from infl.pp._matrix import SiteMatrix, kinds, matrices
from infl.pp._moments import Rows, known_rows, moment_sums
from infl.sums import COUNT_SCALE, FederatedSum, State, run_sums
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

WIDTH = 1 / 64
SHARE = Real(0, 1, open="both")
_ROUNDING = 1e-9  # share of a standard deviation, and of a count, that is none


@over_sites(
    between=True, q=Several(SHARE, says="shares between 0 and 1, each of them once"), width=Real(1e-6, 1), layer=LAYER
)
def quantiles(
    sites: Mapping[str, AnnData] | AnnData,
    q: Sequence[float] = (0.25, 0.5, 0.75),
    *,
    width: float = WIDTH,
    layer: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame:
    """Quantiles of every feature over the observations of all sites, within a stated width.

    A quantile is the value of one observation. So it is not looked for to the last digit: in each round sites send how many of their
    values are at most a bound, and the range is halved until it is `width` standard deviations wide.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; dense, sparse or backed. NaN is a missing value. A site that did not measure a feature
        (``var["infl_present"]``) has no part in its quantiles.
    q
        Shares of the values, above 0 and below 1.
    width
        Width of the last range, in standard deviations of the feature over all sites.

    Returns
    -------
    One row per feature and one column per share: the middle of the last range. The smallest value with at least a share `q` of
    all values up to it (numpy's ``method="inverted_cdf"``) is at most half a width away. NaN for a feature without a value.

    Warns
    -----
    infl.errors.InflWarning
        Sites have different kinds of values, such as counts and logarithms.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.quantiles(sites, [0.5, 0.9]).columns.tolist()
    [0.5, 0.9]
    """
    at = matrices(sites, layer, key, masked=True)
    warn_of_units(kinds(at))
    found = federated_quantiles(at, q, key, width=width)
    index = next(iter(at.values())).adata.var_names
    return pd.DataFrame(found.T, index=index.copy(), columns=list(q))


def federated_quantiles(
    at: Mapping[str, SiteMatrix], q: Sequence[float], key: Keyring | None, *, width: float = WIDTH
) -> np.ndarray:
    """Return the quantiles, (shares, n_vars), NaN for features without a value."""
    n_vars = len(next(iter(at.values())).present)
    state = run_sums([*moment_sums(n_vars), halving_sum(n_vars, q, width)], known_rows(at), key, about="quantiles")
    middle = (state["low"] + state["high"]) / 2
    return np.where(state["n"] > 0, middle, np.nan)


def halving_sum(n_vars: int, q: Sequence[float], width: float) -> FederatedSum:
    """Return the sum that halves the ranges; it follows :func:`moment_sums`, sites are :class:`Rows`, state: ``low``, ``high``."""
    shares = np.array(q)[:, None]
    steps = max(1, int(np.ceil(np.log2(1 / (np.sqrt(shares * (1 - shares)).min() * width)))))

    def local(site: Rows, state: State) -> Arrays:
        return {"below": at_most(site, np.mean(_ranges(state, shares), axis=0))}

    def combine(total: Arrays, state: State) -> State:
        low, high = _ranges(state, shares)
        middle = (low + high) / 2
        enough = np.rint(total["below"]) >= shares * state["n"] - _ROUNDING * np.maximum(state["n"], 1)
        return {**state, "low": np.where(enough, low, middle), "high": np.where(enough, middle, high)}

    return FederatedSum(
        name="values up to a bound",
        shapes={"below": (len(q), n_vars)},
        local=local,
        combine=combine,
        says="for each feature: how many values are at most a bound, to find a quantile within a stated width",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"below": 1},
        steps=steps,
        called="{name}",
    )


def _ranges(state: State, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Between which values the quantiles are, (shares, n_vars) each; at first by mean and standard deviation."""
    if "low" in state:
        return state["low"], state["high"]
    mean, std = state["mean"], np.sqrt(np.maximum(state["squares"], 0) / np.maximum(state["n"], 1))
    low, high = mean - std * np.sqrt((1 - shares) / shares), mean + std * np.sqrt(shares / (1 - shares))
    spare = _ROUNDING * (np.abs(mean) + std)  # the quantile of constant values is on the edge
    return low - spare, high + spare


def at_most(site: Rows, bounds: np.ndarray) -> np.ndarray:
    """How many values of a site are at most a bound, (shares, n_vars), as the bounds are; NaN is none."""
    found = np.zeros(bounds.shape)
    for block in site.blocks():
        for below, bound in zip(found, bounds, strict=True):
            if sparse.issparse(block):
                n_vars = block.shape[1]
                zeros = block.shape[0] - np.bincount(block.indices, minlength=n_vars)
                below += np.bincount(block.indices, weights=block.data <= bound[block.indices], minlength=n_vars)
                below += zeros * (bound >= 0)
            else:
                below += (block <= bound).sum(axis=0)
    return found * site.matrix.present
