"""Coordinates of the observations of all sites in a common space: arrays of ``obsm``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from infl.data.check import check_site_names
from infl.data.columns import shortlist
from infl.data.consortium import agreed, alongside
from infl.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def coordinates(sites: Mapping[str, AnnData | MuData], name: str, *, role: str) -> Mapping[str, np.ndarray]:
    """Return an array of ``obsm`` of each site in float64, (n_obs, d).

    Parameters
    ----------
    sites
        Objects by site name.
    name
        Of the array.
    role
        The argument that names it.

    Raises
    ------
    DataError
        It is missing, no table of finite numbers, or has another number of coordinates at another site.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.pca(sites, n_comps=3)
    >>> coordinates(sites, "X_pca", role="use_rep")["site_1"].shape[1]
    3
    """
    check_site_names(sites)
    found: dict[str, np.ndarray] = {}
    for site, adata in sites.items():
        if name not in getattr(adata, "obsm", {}):
            has = list(getattr(adata, "obsm", {}))
            hint = f"it has {shortlist(has)}" if has else "infl.tl.embed writes 'X_infl', infl.pp.pca 'X_pca'"
            raise DataError(f"{role} {name!r} is missing in obsm of {site}; {hint}")
        try:
            x = np.asarray(adata.obsm[name], dtype=np.float64)
        except (TypeError, ValueError):
            x = np.empty(())
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or not x.shape[1]:
            raise DataError(f"obsm[{name!r}] of {site} is no dense table of coordinates, (n_obs, at least 1)")
        if not np.isfinite(x).all():
            raise DataError(f"obsm[{name!r}] of {site} has NaN or infinite values: compute it again")
        found[site] = x
    widths = agreed(sites, "number of coordinates", {site: x.shape[1] for site, x in found.items()})
    first = next(iter(widths))
    for site, width in widths.items():
        if width != widths[first]:
            raise DataError(
                f"obsm[{name!r}] has {widths[first]} coordinates at {first} and {width} at {site}: make it by "
                "one model, or one PCA, for all sites"
            )
    return alongside(sites, found)
