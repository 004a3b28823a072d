"""How each feature goes with a number in ``obs``, over all sites: one sum, of products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from infl.data.consortium import alongside
from infl.data.sites import over_sites
from infl.keys import Keyring
from infl.models.options import COLUMN
from infl.sums import FederatedSum, State, run_sums

Sums = dict[str, np.ndarray]


def product_sum(n_features: int) -> FederatedSum:
    """Return the sum that correlations follow from; sites are features (n, p) and numbers (n,), state: ``correlation``."""

    def local(site: tuple[np.ndarray, np.ndarray], state: State) -> Sums:
        x, y = site
        return {"n": len(y), "x": x.sum(0), "xx": (x**2).sum(0), "xy": x.T @ y, "y": y.sum(), "yy": (y**2).sum()}

    def combine(total: Sums, state: State) -> State:
        n, x, y = total["n"], total["x"], total["y"]
        together = n * total["xy"] - x * y
        apart = np.sqrt(np.maximum((n * total["xx"] - x**2) * (n * total["yy"] - y**2), 0))
        return {**state, "correlation": np.where(apart > 1e-9, together / np.maximum(apart, 1e-9), np.nan)}

    return FederatedSum(
        name="products",
        shapes={"n": (), "x": (n_features,), "xx": (n_features,), "xy": (n_features,), "y": (), "yy": ()},
        local=local,
        combine=combine,
        says="number of records, sums, squares and products of each feature and the number that it is compared with",
        records=lambda site, state: len(site[1]),
        sensitivity={"n": 1},
    )


@over_sites(between=True, target=COLUMN)
def correlation(
    sites: Mapping[str, AnnData] | AnnData, target: str, *, site_key: str | None = None, key: Keyring | None = None
) -> pd.Series:
    """Return the correlation of each feature with ``obs[target]`` over the observations of all sites.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised.
    target
        Column of ``obs`` with the numbers.

    Returns
    -------
    pandas.Series
        By feature; NaN where a feature does not vary.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["first"] = adata.X[:, 0]
    >>> correlation(sites, "first", key=infl.keys.Keyring.create()).round(6).iloc[0]
    np.float64(1.0)
    """

    def read(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
        x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
        return x.astype(float), adata.obs[target].to_numpy(float)

    names = next(iter(sites.values())).var_names
    values = alongside(sites, {site: read(adata) for site, adata in sites.items()})
    return pd.Series(run_sums([product_sum(len(names))], values, key)["correlation"], index=names)
