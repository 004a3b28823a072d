"""Normalisation of counts per observation, and logarithms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from infl._parameters import LAYER, Flag, Key, Real
from infl._warn import warn
from infl.data.columns import layer_names
from infl.data.consortium import agreed, alongside
from infl.data.sites import over_sites
from infl.data.units import units_of
from infl.data.values import in_rows
from infl.errors import DataError, SettingsError
from infl.pp._matrix import SiteMatrix, copies, matrices, put, refuse_negative
from infl.pp._median import federated_median
from infl.sums import COUNT_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import everyone, small_numbers

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring


@over_sites(
    between=True,
    ruled=True,
    target_sum=Real(0, open="low", none=True),
    exclude_highly_expressed=Flag(),
    max_fraction=Real(0, 1),
    key_added=Key(none=True),
    layer=LAYER,
)
def normalize_total(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    target_sum: float | None = None,
    exclude_highly_expressed: bool = False,
    max_fraction: float = 0.05,
    key_added: str | None = None,
    layer: str | None = None,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Give every observation the same total, as :func:`scanpy.pp.normalize_total` does for the pooled data.

    Without `target_sum`, the total is the exact median over the observations of all sites that have any counts, found by
    halving: each site reports in 32 rounds (64 for float64) how many of its totals are below a bound, and only sums of that
    are seen. scanpy before 1.12 leaves observations without counts out of the median of a dense matrix only; here, as in
    scanpy 1.12, it does not matter how the matrix is stored.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; the matrix is replaced at every site, sparse stays sparse.
    target_sum
        Total of each observation afterwards (None: the federated median).
    exclude_highly_expressed
        Leave features out of the totals that have more than `max_fraction` of them in any observation of any site.
    max_fraction
        See `exclude_highly_expressed`.
    key_added
        Column of ``obs`` for the factor that each observation was divided by.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        Values are negative, or logarithms already.

    Warns
    -----
    infl.errors.InflWarning
        Observations without any count; they stay as they are.

    Examples
    --------
    >>> import anndata as ad, infl, numpy as np
    >>> sites = {"a": ad.AnnData(np.array([[1.0, 3.0], [2.0, 4.0]])), "b": ad.AnnData(np.array([[4.0, 4.0], [0, 2]]))}
    >>> infl.pp.normalize_total(sites)
    >>> float(sites["b"].X.sum(axis=1)[0])
    5.0
    """
    sites = copies(sites, copy)
    at = matrices(sites, layer, key, rewrite=True)
    _check_not_logarithms(at, "normalize_total")
    found = {site: _as_real(matrix.raw) for site, matrix in at.items()}
    totals = alongside(sites, {site: _totals(x) for site, x in found.items()})
    if exclude_highly_expressed:
        n_vars = next(iter(found.values())).shape[1]
        counts = alongside(sites, {site: Counts(x, totals[site]) for site, x in found.items()})
        kept = run_sums([highly_expressed(n_vars, max_fraction)], counts, key)["kept"]
        totals = alongside(sites, {site: _totals(x[:, np.flatnonzero(kept)]) for site, x in found.items()})
    if target_sum is None:
        target: Any = _median_total(totals, key)
    else:
        target = target_sum
    factors = {site: total / target for site, total in totals.items()}
    results = {site: _divided(x, factors[site]) for site, x in found.items()}
    for site, adata in sites.items():
        put(adata, layer, results[site])
        if layer is None and not any(units_of(adata, name) == "logarithms" for name in layer_names(adata)):
            adata.uns.pop("log1p", None)  # left over: what it tells of is not here any more
        if key_added is not None:
            adata.obs[key_added] = factors[site]
    _warn_of_empty(totals)
    return dict(sites) if copy else None


@over_sites(between=True, ruled=True, base=Real(0, open="low", none=True), layer=LAYER)
def log1p(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    base: float | None = None,
    copy: bool = False,
    layer: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Logarithm of 1 + x at every site, as :func:`scanpy.pp.log1p`, after a check that no site has been there before.

    Parameters
    ----------
    sites
        AnnData by site name; sparse stays sparse. ``uns["log1p"]["base"]`` is written.
    base
        Base of the logarithm (None: e).
    key
        Not needed, nothing is summed; taken so that all functions here are called alike.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        A site has logarithms or negative values already; which.

    Examples
    --------
    >>> import anndata as ad, infl, numpy as np
    >>> sites = {"a": ad.AnnData(np.array([[0.0, 100.0], [1.0, 2.0]]))}
    >>> infl.pp.log1p(sites)
    >>> float(sites["a"].X[1, 0].round(4))
    0.6931
    """
    if base == 1:
        raise SettingsError("base=1: give a number above 0 other than 1, or None")
    sites = copies(sites, copy)
    at = matrices(sites, layer, key, rewrite=True)
    _check_not_logarithms(at, "log1p")
    results = {site: _log1p(matrix.raw, base) for site, matrix in at.items()}
    for site, adata in sites.items():
        put(adata, layer, results[site])
        adata.uns["log1p"] = {"base": base}
    return dict(sites) if copy else None


def _check_not_logarithms(at: Mapping[str, SiteMatrix], name: str) -> None:
    for site, matrix in at.items():
        refuse_negative(matrix, name)
        if units_of(matrix.adata, matrix.layer) == "logarithms" and "log1p" in matrix.adata.uns:
            raise DataError(
                f"{matrix.layer or 'X'} of {site} is logarithms already (by uns['log1p']), and {name} is for counts: "
                "give the layer with them, or delete uns['log1p'] if it is out of date"
            )
    agreed(at, "checked", dict.fromkeys(at))  # no site replaces its matrix where another one cannot


def _as_real(matrix: Any) -> Any:
    """Floating-point numbers; integers become float32, and CSC becomes CSR, as in scanpy, and half precision single."""
    matrix = in_rows(matrix)
    return matrix if matrix.dtype.kind == "f" else matrix.astype(np.float32)


def _totals(x: Any) -> np.ndarray:
    """Sums of rows, (n_obs,): added in float64, however they are stored, and rounded to the type of the values."""
    if not sparse.issparse(x):
        return x.sum(axis=1, dtype=np.float64).astype(x.dtype)
    row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
    return np.bincount(row, weights=x.data, minlength=x.shape[0]).astype(x.dtype)


@dataclass(frozen=True)
class Counts:
    """A site's counts (n_obs, n_vars), and the totals of its observations (n_obs,)."""

    x: Any
    totals: np.ndarray


def highly_expressed(n_vars: int, max_fraction: float) -> FederatedSum:
    """Return the sum that finds features with too much of an observation's total; state: ``kept``, the others."""

    def local(site: Counts, state: State) -> dict[str, np.ndarray]:
        return {"n": _highly_expressed(site.x, site.totals, max_fraction)}

    return FederatedSum(
        name="highly expressed features",
        shapes={"n": (n_vars,)},
        local=local,
        combine=lambda total, state: {**state, "kept": total["n"] < 0.5},
        says="in how many observations each feature has more than a given share of the total",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"n": 1},
        cells=everyone(
            lambda site: len(site.totals),
            sizes=lambda site, state, rules: {"n": small_numbers(local(site, state)["n"], rules)},
            dominated=("n",),
            partly=True,
        ),
    )


def _highly_expressed(x: Any, totals: np.ndarray, max_fraction: float) -> np.ndarray:
    """In how many observations each feature has more than a fraction of the total, (n_vars,)."""
    if not sparse.issparse(x):
        return (x > totals[:, None] * max_fraction).sum(axis=0).astype(float)
    above = x.data > max_fraction * np.repeat(totals, np.diff(x.indptr))
    return np.bincount(x.indices[above], minlength=x.shape[1]).astype(float)


def _median_total(totals: Mapping[str, np.ndarray], key: Keyring | None) -> np.floating:
    """Median over the observations with counts of all sites."""
    types = agreed(totals, "types of values", {site: total.dtype.name for site, total in totals.items()})
    dtype = np.result_type(*types.values())
    columns = {}
    for site, total in totals.items():
        column = total.astype(dtype)
        columns[site] = np.where(column > 0, column, dtype.type(np.nan))[:, None]
    median = federated_median(alongside(totals, columns), key, purpose="median of totals")[0]
    if not median > 0:
        raise DataError("the median of the totals is 0: leave observations without counts out, or give target_sum=")
    return median


def _divided(x: Any, factors: np.ndarray) -> Any:
    """Rows divided by their factors; a factor of 0 divides nothing."""
    factors = np.where(factors == 0, 1, factors)
    if not sparse.issparse(x):
        return (x / factors[:, None]).astype(x.dtype, copy=False)
    data = (x.data / np.repeat(factors, np.diff(x.indptr))).astype(x.dtype, copy=False)
    return sparse.csr_matrix((data, x.indices.copy(), x.indptr.copy()), shape=x.shape)


def _log1p(matrix: Any, base: float | None) -> Any:
    if matrix.dtype == np.float16:
        matrix = matrix.astype(np.float32)
    if sparse.issparse(matrix):
        matrix = matrix.copy() if matrix.format in ("csr", "csc") else matrix.tocsr()
        matrix.sum_duplicates()  # a logarithm of parts is none of their sum
        matrix.data = _log1p(matrix.data, base)
        return matrix
    matrix = np.asarray(matrix)
    result = np.log1p(matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64))
    return result if base is None else (result / np.log(base)).astype(result.dtype, copy=False)


def _warn_of_empty(totals: Mapping[str, np.ndarray]) -> None:
    empty = {site: int((total <= 0).sum()) for site, total in totals.items() if (total <= 0).any()}
    if empty:
        site, number = next(iter(empty.items()))
        warn(f"{sum(empty.values())} observations have no counts ({number} at {site}); they stay as they are")
