"""Cells and genes that are kept are those that scanpy keeps of the pooled object."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from tests.threads import at_every_site

import infl
from infl.errors import DataError, SettingsError

GENES = [{"min_counts": 40}, {"min_cells": 15}, {"max_counts": 60}, {"max_cells": 200}]
CELLS = [{"min_counts": 700}, {"min_genes": 180}, {"max_counts": 1500}, {"max_genes": 260}]
STORAGES = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}


def stored(sites: dict[str, AnnData], storage: str) -> dict[str, AnnData]:
    for adata in sites.values():
        adata.X = STORAGES[storage](adata.X)
    return sites


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("bound", GENES, ids=lambda b: next(iter(b)))
def test_genes_are_scanpys(count_sites, pool, key, bound, storage):
    pooled = pool(stored(count_sites, storage))
    kept, number = infl.pp.filter_genes(count_sites, **bound, inplace=False, key=key)
    assert 0 < kept.sum() < len(kept)
    infl.pp.filter_genes(count_sites, **bound, key=key)
    sc.pp.filter_genes(pooled, **bound)
    for adata in count_sites.values():
        assert list(adata.var_names) == list(pooled.var_names)
        (column,) = [name for name in pooled.var if name.startswith("n_c")]
        np.testing.assert_array_equal(adata.var[column], pooled.var[column])
        np.testing.assert_array_equal(number[kept], pooled.var[column])
        assert adata.X.shape == (adata.n_obs, kept.sum())


@pytest.mark.parametrize("stored_as", ["bool", "uint16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("bound", [{"min_counts": 4}, {"min_cells": 4}], ids=lambda b: next(iter(b)))
def test_numbers_have_the_type_that_scanpy_gives_them(stored_as, storage, bound):
    whole = AnnData(storage(np.random.default_rng(0).integers(0, 2, (12, 5)).astype(stored_as)))
    whole.obs = whole.obs.assign(site=["a", "b"] * 6)
    sites = {site: whole[whole.obs["site"] == site].copy() for site in ("a", "b")}
    expected = whole.copy()
    sc.pp.filter_genes(expected, **bound)
    _, number = infl.pp.filter_genes(sites, **bound, inplace=False)
    infl.pp.filter_genes(sites, **bound)
    infl.pp.filter_genes(whole, **bound, site_key="site")
    (column,) = expected.var
    assert number.dtype == expected.var[column].dtype
    for adata in (*sites.values(), whole):
        pd.testing.assert_series_equal(adata.var[column], expected.var[column])


def test_sums_with_fractions_of_another_site_are_not_cut():
    sites = {"a": AnnData(np.ones((3, 2), dtype=np.int64)), "b": AnnData(np.full((1, 2), 0.5))}
    _, number = infl.pp.filter_genes(sites, min_counts=1, inplace=False)
    infl.pp.filter_genes(sites, min_counts=1)
    assert number.tolist() == sites["a"].var["n_counts"].tolist() == sites["b"].var["n_counts"].tolist() == [3.5, 3.5]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("bound", CELLS, ids=lambda b: next(iter(b)))
def test_cells_are_scanpys(count_sites, pool, bound, storage):
    pooled = pool(stored(count_sites, storage))
    whole = pooled.copy()
    kept = infl.pp.filter_cells(count_sites, **bound, inplace=False)
    infl.pp.filter_cells(whole, **bound, site_key="site")
    infl.pp.filter_cells(count_sites, **bound)
    sc.pp.filter_cells(pooled, **bound)
    assert sum(chosen.sum() for chosen, _ in kept.values()) == pooled.n_obs < sum(len(c) for c, _ in kept.values())
    apart = ad.concat(count_sites)
    assert list(apart.obs_names) == list(pooled.obs_names) == list(whole.obs_names)
    (column,) = [name for name in pooled.obs if name.startswith("n_")]
    np.testing.assert_array_equal(apart.obs[column], pooled.obs[column])
    np.testing.assert_array_equal(whole.obs[column], pooled.obs[column])


def test_copies_leave_the_sites_as_they_are(count_sites):
    before = {site: adata.shape for site, adata in count_sites.items()}
    genes = infl.pp.filter_genes(count_sites, min_cells=20, copy=True)
    cells = infl.pp.filter_cells(count_sites, min_genes=180, copy=True)
    assert {site: adata.shape for site, adata in count_sites.items()} == before
    assert all(genes[site].n_vars < n_vars and cells[site].n_obs < n_obs for site, (n_obs, n_vars) in before.items())


def test_genes_of_one_object_with_mixed_rows(count_sites, pool):
    whole = pool(count_sites)
    whole = whole[np.random.default_rng(0).permutation(whole.n_obs)].copy()
    expected = whole.copy()
    infl.pp.filter_genes(whole, min_cells=20, site_key="site")
    sc.pp.filter_genes(expected, min_cells=20)
    assert list(whole.var_names) == list(expected.var_names) and list(whole.obs_names) == list(expected.obs_names)
    assert not (whole.X != expected.X).nnz


def test_cells_over_a_consortium(count_sites, key):
    apart = {site: adata.copy() for site, adata in count_sites.items()}
    infl.pp.filter_cells(count_sites, min_genes=180)
    at_every_site(lambda held: infl.pp.filter_cells(held, min_genes=180), apart, key)
    assert {s: a.obs_names.tolist() for s, a in apart.items()} == {
        s: a.obs_names.tolist() for s, a in count_sites.items()
    }


def test_no_site_drops_cells_where_another_one_would_lose_all(count_sites, key):
    count_sites["s1"].X = sparse.csr_matrix(count_sites["s1"].shape, dtype=np.float32)
    before = {site: adata.n_obs for site, adata in count_sites.items()}
    with pytest.raises(DataError, match="min_genes=180 keeps no cell of s1: look at"):
        infl.pp.filter_cells(count_sites, min_genes=180)
    found, _ = at_every_site(lambda held: infl.pp.filter_cells(held, min_genes=180), count_sites, key)
    assert all(isinstance(error, Exception) for error in found.values())
    assert {site: adata.n_obs for site, adata in count_sites.items()} == before


@pytest.mark.parametrize("options", [{}, {"min_counts": 1, "max_counts": 9}], ids=["none", "two"])
def test_one_bound_per_call(count_sites, options):
    with pytest.raises(
        SettingsError, match=rf"{len(options)} bounds are given: give one of min_counts=, min_cells=, max"
    ):
        infl.pp.filter_genes(count_sites, **options)
    with pytest.raises(
        SettingsError, match=rf"{len(options)} bounds are given: give one of min_counts=, min_genes=, max"
    ):
        infl.pp.filter_cells(count_sites, **options)


def test_a_bound_that_keeps_nothing(count_sites):
    with pytest.raises(DataError, match="min_cells=1000 keeps no gene: look at infl.pp.qc_summary"):
        infl.pp.filter_genes(count_sites, min_cells=1000)
    assert count_sites["s0"].n_vars == 500 and "n_cells" not in count_sites["s0"].var
