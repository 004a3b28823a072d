"""Missing values, filled by feature from all sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from infl._parameters import LAYER, Choice, Real
from infl.data.consortium import agreed
from infl.data.sites import over_sites
from infl.data.units import check_units
from infl.errors import DataError
from infl.pp._matrix import SiteMatrix, copies, kinds, matrices, put
from infl.pp._moments import known_means, without_missing
from infl.pp._quantiles import federated_quantiles

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring


@over_sites(between=True, method=Choice(("mean", "low")), share=Real(0, 0.5, open="both"), layer=LAYER)
def impute(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    method: Literal["mean", "low"] = "mean",
    share: float = 0.01,
    layer: str | None = None,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Fill missing values (NaN), each feature with one number from the values of all sites.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; the matrix is replaced at every site. A feature that a site did not measure
        (``var["infl_present"]``) stays as it is there.
    method
        ``"mean"`` of the feature's values; or ``"low"``, for values that are missing because they are small, as in proteomics: a
        low quantile of the feature. The minimum itself would be one sample's value.
    share
        Share of the values below the number of ``"low"``.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        A feature has no value at any site, or sites have different kinds of values.

    Notes
    -----
    Filled values count as measured ones in every later test. :func:`infl.tl.de` takes NaN as it is, and needs no filling.

    References
    ----------
    Lazar et al. (2016), Accounting for the multiple natures of missing values in label-free quantitative proteomics. Journal of
    Proteome Research 15:1116.

    Examples
    --------
    >>> import anndata as ad, infl, numpy as np
    >>> sites = {"a": ad.AnnData(np.array([[1.5], [np.nan]])), "b": ad.AnnData(np.array([[2.5], [5.0]]))}
    >>> infl.pp.impute(sites)
    >>> sites["a"].X.tolist()
    [[1.5], [3.0]]
    """
    sites = copies(sites, copy)
    at = matrices(sites, layer, key, rewrite=True, masked=True)
    check_units(kinds(at))
    names = next(iter(at.values())).adata.var_names
    if method == "mean":
        n, mean = known_means(at, key, about="impute")
        fill = np.where(n > 0, mean, np.nan)
    else:
        fill = federated_quantiles(at, [share], key)[0]
    if (empty := np.flatnonzero(np.isnan(fill))).size:
        raise DataError(
            f"{names[empty[0]]!r} has no value at any site ({empty.size} of {len(names)} features): leave those features out first"
        )
    results = {site: _filled(matrix, fill) for site, matrix in at.items()}
    agreed(at, "filled", dict.fromkeys(at))  # no site replaces its matrix where another one cannot
    for site, adata in sites.items():
        put(adata, layer, results[site])
    return dict(sites) if copy else None


def _filled(matrix: SiteMatrix, fill: np.ndarray) -> Any:
    """The matrix of a site with a number of each feature in place of NaN, in the type that it had."""
    raw = matrix.raw
    if raw.dtype.kind != "f":
        return raw
    rows = raw.tocsr() if sparse.issparse(raw) else np.asarray(raw)
    filled = without_missing(rows, fill).astype(raw.dtype, copy=False)
    return filled.asformat(raw.format) if sparse.issparse(raw) else filled
