"""Leaving out cells and genes that hardly have counts, over all sites, as scanpy does in the pooled data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc

from infl._parameters import Real, door
from infl.data.consortium import agreed
from infl.data.copy import own
from infl.data.sites import as_sites, marked, over_sites, site_rows
from infl.errors import DataError, SettingsError
from infl.pp._matrix import SiteMatrix, copies, matrices
from infl.pp._moments import column_sums
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring
    from infl.sums.shape import Arrays

BOUND = Real(0, none=True)
Kept = tuple[np.ndarray, np.ndarray]
"""What is kept, booleans, and the number that it was judged by."""


@door(min_counts=BOUND, min_genes=BOUND, max_counts=BOUND, max_genes=BOUND)
@marked(between=True, ruled=True)
def filter_cells(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    min_counts: float | None = None,
    min_genes: float | None = None,
    max_counts: float | None = None,
    max_genes: float | None = None,
    inplace: bool = True,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | dict[str, Kept] | AnnData | Kept | None:
    """Keep the cells with enough counts or genes, or not too many, at every site, as :func:`scanpy.pp.filter_cells` does.

    A cell is judged by itself, so nothing is summed.

    Parameters
    ----------
    sites
        AnnData by site name, with counts; dense or sparse.
    min_counts, min_genes
        Least sum of a cell's values, or least number of genes with a value above 0.
    max_counts, max_genes
        The most of them. One of the four per call.
    inplace
        Leave the other cells out at every site and write ``obs["n_counts"]`` or ``obs["n_genes"]``; else return which are kept.
    copy
        Return altered copies and leave `sites` as they are.
    site_key
        Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.
    key
        Not needed, nothing is summed; taken so that all functions here are called alike.

    Returns
    -------
    None; with `copy` the copies by site name, or that of the one object. With ``inplace=False``, by site name or for the one object:
    which cells are kept, (n_obs,) truth values, and the number that each was judged by.

    Raises
    ------
    infl.errors.DataError
        A site would be left without a cell.
    infl.errors.SettingsError
        None of the bounds is given, or several are.

    Examples
    --------
    >>> import anndata as ad, infl, numpy as np
    >>> sites = {"a": ad.AnnData(np.array([[0.0, 3.0], [2.0, 4.0]])), "b": ad.AnnData(np.array([[1.0, 1.0]]))}
    >>> infl.pp.filter_cells(sites, min_genes=2)
    >>> sites["a"].n_obs, sites["b"].obs["n_genes"].tolist()
    (1, [2])
    """
    bound = one_bound(min_counts=min_counts, min_genes=min_genes, max_counts=max_counts, max_genes=max_genes)
    if not isinstance(sites, Mapping):
        return _of_one_object(sites, bound, inplace, copy, site_key)
    if site_key is not None:
        as_sites(sites, site_key)  # refuses
    sites = copies(sites, copy)
    at = matrices(sites, None, key, rewrite=inplace)
    kept = {site: _cells(matrix, bound) for site, matrix in at.items()}
    for site, (chosen, _) in kept.items():
        _check_left(chosen, f"no cell of {site}", bound)
    agreed(at, f"cells checked {bound}", dict.fromkeys(at))  # no site drops cells where another one cannot
    if not inplace:
        return kept
    for site, (chosen, number) in kept.items():
        own(sites[site]).obs[_column(bound)] = number
        sites[site]._inplace_subset_obs(chosen)
    return dict(sites) if copy else None


@over_sites(between=True, min_counts=BOUND, min_cells=BOUND, max_counts=BOUND, max_cells=BOUND)
def filter_genes(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    min_counts: float | None = None,
    min_cells: float | None = None,
    max_counts: float | None = None,
    max_cells: float | None = None,
    inplace: bool = True,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | Kept | None:
    """Keep the genes with enough counts or cells over all sites, or not too many, as :func:`scanpy.pp.filter_genes` does.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with counts; dense or sparse. A site that did not measure a feature
        (``var["infl_present"]``) adds nothing to it.
    min_counts, min_cells
        Least sum of a gene's values over all sites, or least number of cells with a value above 0.
    max_counts, max_cells
        The most of them. One of the four per call.
    inplace
        Leave the other genes out at every site and write ``var["n_counts"]`` or ``var["n_cells"]``; else return which are kept.

    Returns
    -------
    None; with `copy` the copies by site name, or that of the one object. With ``inplace=False``: which genes are kept, (n_vars,)
    truth values, and the number that each was judged by.

    Raises
    ------
    infl.errors.DataError
        No gene would be left.
    infl.errors.SettingsError
        None of the bounds is given, or several are.

    Examples
    --------
    >>> import anndata as ad, infl, numpy as np
    >>> sites = {"a": ad.AnnData(np.array([[0.0, 3.0], [0.0, 4.0]])), "b": ad.AnnData(np.array([[1.0, 1.0]]))}
    >>> infl.pp.filter_genes(sites, min_cells=2)
    >>> sites["b"].var["n_cells"].to_dict()
    {'1': 3}
    """
    bound = one_bound(min_counts=min_counts, min_cells=min_cells, max_counts=max_counts, max_cells=max_cells)
    sites = copies(sites, copy)
    at = matrices(sites, None, key, rewrite=inplace)
    n_vars = len(next(iter(at.values())).present)
    number = run_sums([expression_sum(n_vars, _column(bound))], at, key, about="filter_genes")["number"]
    kept = _within(number, bound)
    _check_left(kept, "no gene", bound)
    if not inplace:
        return kept, _as_summed(number, *at.values())
    for site, adata in sites.items():
        own(adata).var[_column(bound)] = _as_summed(number, at[site])
        adata._inplace_subset_var(kept)
    return dict(sites) if copy else None


def _as_summed(number: np.ndarray, *matrices: SiteMatrix) -> np.ndarray:
    """Return sums, (n_vars,), in the type in which numpy, and so scanpy, sums such matrices.

    Sums that are no whole numbers, since another site's values are none, stay real numbers.
    """
    if number.dtype.kind != "f":
        return number  # numbers of cells
    stored = np.result_type(*(matrix.stored.dtype for matrix in matrices))
    summed = np.zeros(1, dtype=stored).sum().dtype
    if summed.kind in "iu" and not np.array_equal(number, np.rint(number)):
        return number
    return number.astype(summed)


def expression_sum(n_vars: int, column: str) -> FederatedSum:
    """Return the sum of each feature's values, or of the observations with one above 0; sites are matrices, state: ``number``."""
    counted = column == "n_cells"

    def local(matrix: SiteMatrix, state: State) -> Arrays:
        found = np.zeros(n_vars)
        for _, block in matrix.blocks():
            found += column_sums((block > 0).astype(np.float64) if counted else block)
        return {"number": found * matrix.present}

    def combine(total: Arrays, state: State) -> State:
        return {**state, "number": np.rint(total["number"]).astype(np.int64) if counted else total["number"]}

    return FederatedSum(
        name="observations with a feature" if counted else "counts of features",
        shapes={"number": (n_vars,)},
        local=local,
        combine=combine,
        says=f"for each feature: {'number of observations with a value above 0' if counted else 'sum of its values'}",
        scale=COUNT_SCALE if counted else FINE_SCALE,
        records=(lambda matrix, state: local(matrix, state)) if counted else _observed,
        sensitivity={"number": 1} if counted else {},
    )


def _observed(matrix: SiteMatrix, state: State) -> dict[str, Any]:
    """Of how many observations each sum is."""
    return {"number": matrix.n_obs * matrix.present}


def one_bound(**bounds: float | None) -> tuple[str, float]:
    """Return the one bound that is given, with its name.

    Examples
    --------
    >>> one_bound(min_counts=None, min_cells=3)
    ('min_cells', 3)
    """
    given = [(name, value) for name, value in bounds.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(f"{name}=" for name in bounds)
        raise SettingsError(f"{len(given)} bounds are given: give one of {names} per call")
    return given[0]


def _column(bound: tuple[str, float]) -> str:
    return f"n_{bound[0].removeprefix('min_').removeprefix('max_')}"


def _within(number: np.ndarray, bound: tuple[str, float]) -> np.ndarray:
    return number >= bound[1] if bound[0].startswith("min") else number <= bound[1]


def _cells(matrix: SiteMatrix, bound: tuple[str, float]) -> Kept:
    """Which cells of a site are kept, and the number that each was judged by, by scanpy, block by block."""
    options: dict[str, Any] = dict([bound])
    parts = [sc.pp.filter_cells(block, **options) for _, block in matrix.blocks()]
    return np.concatenate([kept for kept, _ in parts]), np.concatenate([number for _, number in parts])


def _of_one_object(
    whole: AnnData, bound: tuple[str, float], inplace: bool, copy: bool, site_key: str | None
) -> AnnData | Kept | None:
    """Filter one object; every site keeps some cells."""
    at = matrices(as_sites(whole, site_key), None, None)
    kept, number = np.zeros(whole.n_obs, dtype=bool), np.zeros(whole.n_obs)
    for site, rows in site_rows(whole, site_key).items():
        kept[rows], of_site = _cells(at[site], bound)
        number = number.astype(of_site.dtype)
        number[rows] = of_site
        _check_left(kept[rows], f"no cell of {site}", bound)
    if not inplace:
        return kept, number
    whole = whole.copy() if copy else own(whole)
    whole.obs[_column(bound)] = number
    whole._inplace_subset_obs(kept)
    return whole if copy else None


def _check_left(kept: np.ndarray, none: str, bound: tuple[str, float]) -> None:
    if not kept.any():
        raise DataError(
            f"{bound[0]}={bound[1]:g} keeps {none}: look at infl.pp.qc_summary(sites) and choose another bound"
        )
