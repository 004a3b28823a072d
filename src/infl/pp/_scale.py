"""Zero mean and unit variance over all sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from infl._parameters import LAYER, Flag, Real
from infl._warn import warn
from infl.data.columns import known_truths, obs_column
from infl.data.consortium import alongside
from infl.data.sites import over_sites
from infl.data.units import warn_of_units
from infl.data.values import in_rows
from infl.errors import DataError, SettingsError
from infl.pp._matrix import SiteMatrix, copies, kinds, matrices, put
from infl.pp._moments import federated_moments
from infl.pp._preset import scanpy_default
from infl.sums import n_observations

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring


@over_sites(
    between=True, ruled=True, zero_center=Flag(none=True), max_value=Real(0, open="low", none=True), layer=LAYER
)
def scale(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    zero_center: bool | None = None,
    max_value: float | None = None,
    copy: bool = False,
    layer: str | None = None,
    mask_obs: str | Mapping[str, np.ndarray] | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Scale features to zero mean and unit variance over all sites, as :func:`scanpy.pp.scale` does for pooled data.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; the matrix is replaced at every site, and ``var["mean"]`` and ``var["std"]``
        are written (1 for a feature that is constant everywhere, which stays at 0). Features that a site did not measure
        stay 0 there, which is the mean.
    zero_center
        Subtract the mean. A sparse matrix becomes dense by that; with False it stays sparse. Unless given: True, and under
        scanpy's preset ``ScanpyV2Preview`` it must be given, as there.
    max_value
        Clip to this value after scaling.
    mask_obs
        Observations that are used and scaled, the others are left as they are: name of a column of ``obs`` with truth
        values, or an array of them for each site. Fields are then called as in scanpy, ``var["mean of NAME"]`` or
        ``var["mean with mask"]``.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Warns
    -----
    infl.errors.InflWarning
        A sparse matrix became dense, or sites have different kinds of values.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.scale(sites, max_value=10)
    >>> float(sum(site.X[:, 0].sum() for site in sites.values()).round(3)) + 0.0
    0.0
    """
    if zero_center is None:
        zero_center = scanpy_default("scale", "zero_center", True)
        if zero_center is None:
            raise SettingsError("scanpy's preset in force has no default for zero_center=: give True or False")
    sites = copies(sites, copy)
    at = matrices(sites, layer, key, rewrite=True)
    masks, names = _masks(at, mask_obs, key)
    warn_of_units(kinds(at))
    found = federated_moments(at, key, rows=masks, purpose="scale")
    std = np.sqrt(found.var)
    std[std == 0] = 1
    mean, width = np.nan_to_num(found.mean), np.where(np.isnan(std), np.inf, std)  # what is closed is 0 everywhere
    results = {
        site: _scaled(matrix, mean, width, zero_center, max_value, None if masks is None else masks[site])
        for site, matrix in at.items()
    }
    densified = [site for site, matrix in at.items() if zero_center and sparse.issparse(matrix.raw)]
    for site, adata in sites.items():
        put(adata, layer, results[site])
        adata.var[names[0]], adata.var[names[1]] = found.mean, std
    if densified:
        warn(f"zero-centering a sparse matrix densifies it ({densified[0]}); zero_center=False keeps it sparse")
    return dict(sites) if copy else None


def _masks(
    at: Mapping[str, SiteMatrix], mask_obs: str | Mapping[str, np.ndarray] | None, key: Keyring | None
) -> tuple[dict[str, np.ndarray] | None, tuple[str, str]]:
    """Which observations to use at each site, and the names of the fields to write."""
    if mask_obs is None:
        return None, ("mean", "std")
    if isinstance(mask_obs, str):
        columns = {s: obs_column(m.adata, mask_obs, where=s, role="mask_obs") for s, m in at.items()}
        masks = dict(columns)
        names = (f"mean of {mask_obs}", f"std of {mask_obs}")
    elif isinstance(mask_obs, Mapping) and set(mask_obs) >= set(at):
        masks, names = {site: mask_obs[site] for site in at}, ("mean with mask", "std with mask")
    else:
        raise SettingsError("mask_obs must be a column of obs or a dict with an array for every site")
    for site, matrix in at.items():
        found = known_truths(masks[site]) if np.shape(masks[site]) == (matrix.n_obs,) else None
        if found is None or not found[1].all():
            raise DataError(
                f"mask_obs must be truth values, one for each of the {matrix.n_obs} observations, at {site}"
            )
        masks[site] = found[0]
    if n_observations(alongside(at, {site: int(mask.sum()) for site, mask in masks.items()}), key, about="scale") < 2:
        raise DataError("mask_obs leaves fewer than two observations at all sites together: widen it")
    return masks, names


def _scaled(
    matrix: SiteMatrix,
    mean: np.ndarray,
    std: np.ndarray,
    zero_center: bool,
    max_value: float | None,
    mask: np.ndarray | None,
) -> Any:
    """Return (x − mean) / std in the type of the values; float64 from integers and what was sparse, as in scanpy."""
    x = in_rows(matrix.raw)
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    if sparse.issparse(x) and not zero_center:
        x = x.astype(dtype, copy=False)
        data = x.data / std[x.indices]
        if max_value is not None:
            np.minimum(data, max_value, out=data)
        if mask is not None:
            data = np.where(np.repeat(mask, np.diff(x.indptr)), data, x.data)
        return sparse.csr_matrix((data.astype(dtype), x.indices.copy(), x.indptr.copy()), shape=x.shape)
    if sparse.issparse(x):
        x, dtype = x.toarray(), np.dtype(np.float64)
    result = np.array(x, dtype=dtype)
    rows: Any = slice(None) if mask is None else np.flatnonzero(mask)
    part = result[rows]
    if zero_center:
        part = part - np.where(matrix.present, mean, 0).astype(dtype)
    part = part / std.astype(dtype)
    if max_value is not None:
        part = np.clip(part, -max_value if zero_center else None, max_value)
    result[rows] = part
    return result
