"""Highly variable features: the very ones that scanpy marks in the pooled object."""

from importlib.metadata import version

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from scipy import sparse

import infl
from infl.errors import DataError, InflWarning, MissingExtraError, SettingsError
from infl.pp import harmonise, highly_variable_genes, log1p, normalize_total

FLAVORS = ["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"]


def as_expected(sites, flavor):
    """Counts for the flavours that want them, logarithms for the others."""
    if not flavor.startswith("seurat_v3"):
        normalize_total(sites)
        log1p(sites)
    return sites


def compare(sites, pooled):
    """Every field as scanpy's: sets identical, figures to 1e-5."""
    for adata in sites.values():
        assert adata.uns["hvg"] == pooled.uns["hvg"]
        for column in pooled.var.columns:
            ours, want = adata.var[column], pooled.var[column]
            assert ours.dtype == want.dtype, column
            if want.dtype.kind in "bi":
                np.testing.assert_array_equal(ours, want, err_msg=column)
            else:
                np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-6, err_msg=column)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("n_top_genes", [None, 60])
@pytest.mark.parametrize("matrix", ["csr", "csc", "dense", "layer"])
def test_as_scanpy_on_the_pooled_object(count_sites, pool, key, dense, flavor, n_top_genes, matrix):
    as_expected(count_sites, flavor)
    layer = "it" if matrix == "layer" else None
    for adata in count_sites.values():
        if matrix == "csc":
            adata.X = adata.X.tocsc()
        elif matrix == "dense":
            adata.X = dense(adata.X)
        elif layer:
            adata.layers["it"], adata.X = adata.X, adata.X * 0
    pooled = pool(count_sites)
    how = {"flavor": flavor, "n_top_genes": n_top_genes, "layer": layer}
    sc.pp.highly_variable_genes(pooled, **how)
    highly_variable_genes(count_sites, key=key, **how)
    compare(count_sites, pooled)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("n_top_genes", [None, 60])
@pytest.mark.parametrize("batch_key", ["site", "donor"])
def test_batches_as_in_scanpy(count_sites, pool, key, dense, flavor, n_top_genes, batch_key):
    for i, adata in enumerate(count_sites.values()):
        x = dense(adata.X)
        x[:, 20 * i : 20 * i + 10] = 0  # never seen at this site
        x[:, 100] = 0  # nor anywhere
        x[:, 110] = 3 if i == 1 else x[:, 110]  # constant there
        adata.X = sparse.csr_matrix(x)
    as_expected(count_sites, flavor)
    pooled = pool(count_sites)
    how = {"flavor": flavor, "n_top_genes": n_top_genes, "batch_key": batch_key}
    sc.pp.highly_variable_genes(pooled, **how)
    highly_variable_genes(count_sites, key=key, **how)
    if flavor.startswith("seurat_v3") and batch_key == "donor" and Version(version("scanpy")) >= Version("1.12rc1"):
        compare_regressions(count_sites, pooled)
    else:
        compare(count_sites, pooled)


def compare_regressions(sites, pooled):
    """Batches over several sites: scanpy 1.12 rounds their moments row by row, and the regression hangs on last digits.

    Ours are the exact ones, which scanpy itself takes of each batch alone.
    """
    alone = [
        sc.pp.highly_variable_genes(pooled[rows].copy(), flavor="seurat_v3", n_top_genes=500, inplace=False)
        for rows in pooled.obs.groupby("donor", observed=True).indices.values()
    ]
    variances = np.mean([table["variances_norm"].to_numpy() for table in alone], axis=0)
    for adata in sites.values():
        np.testing.assert_allclose(adata.var["variances_norm"], variances, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(adata.var["means"], pooled.var["means"], rtol=1e-5)
        both = (adata.var["highly_variable"] & pooled.var["highly_variable"]).sum()
        assert both >= 0.9 * pooled.var["highly_variable"].sum()


@given(st.integers(0, 10**6), st.sampled_from(FLAVORS), st.sampled_from([None, "site"]))
@settings(max_examples=30, deadline=None)
def test_ties_fall_as_in_scanpy(seed, flavor, batch_key):
    """Rare features have the same few counts, so that many of them are exactly as variable as each other."""
    rng = np.random.default_rng(seed)
    rates = rng.lognormal(-1, 1.5, 300)
    sites = {}
    for i, n in enumerate((80, 50, 60)):
        x = rng.poisson(rates * rng.gamma(2, 0.5, (n, 300))).astype(np.float32)
        x[0], x[1] = 1, 2
        x[:, 200:230] = x[:, 230:260]
        sites[f"s{i}"] = AnnData(sparse.csr_matrix(x))
        sites[f"s{i}"].var_names = [f"g{j}" for j in range(300)]
        sites[f"s{i}"].obs_names = [f"{i}-{j}" for j in range(n)]
    as_expected(sites, flavor)
    pooled = ad.concat(sites, label="site", uns_merge="same")
    how = {"flavor": flavor, "batch_key": batch_key, "n_top_genes": 90}
    try:
        sc.pp.highly_variable_genes(pooled, **how)
    except ValueError:  # too many ties for bins, or for the regression
        with pytest.raises(DataError, match="features"):
            highly_variable_genes(sites, **how)
        return
    highly_variable_genes(sites, **how)
    assert (sites["s1"].var["highly_variable"] == pooled.var["highly_variable"]).all()


@pytest.mark.data_dir
@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("batch_key", [None, "site"])
def test_real_counts(key, flavor, batch_key):
    pooled = infl.datasets.papalexi()[::4].copy()
    pooled.obs["site"] = pooled.obs["replicate"]
    sites = infl.pp.split_sites(pooled, by="replicate")
    for adata in sites.values():
        del adata.obs["site"]
    if not flavor.startswith("seurat_v3"):
        sc.pp.normalize_total(pooled, target_sum=1e4)
        sc.pp.log1p(pooled)
        normalize_total(sites, target_sum=1e4)
        log1p(sites)
    how = {"flavor": flavor, "n_top_genes": 100, "batch_key": batch_key}
    sc.pp.highly_variable_genes(pooled, **how)
    highly_variable_genes(sites, key=key, **how)
    assert (next(iter(sites.values())).var["highly_variable"] == pooled.var["highly_variable"]).all()


def test_logarithms_to_another_base(count_sites, pool):
    normalize_total(count_sites)
    log1p(count_sites, base=2)
    pooled = pool(count_sites)
    sc.pp.highly_variable_genes(pooled)
    highly_variable_genes(count_sites)
    compare(count_sites, pooled)
    count_sites["s2"].uns["log1p"]["base"] = None
    with pytest.raises(DataError, match=r"uns\['log1p'\]\['base'\] is 2 at s0 and None at s2"):
        highly_variable_genes(count_sites)


@pytest.mark.parametrize("flavor", ["seurat", "seurat_v3"])
def test_tables_and_subsets(count_sites, pool, flavor):
    pooled = pool(as_expected(count_sites, flavor))
    how = {"flavor": flavor, "n_top_genes": 50}
    for subset in (False, True):
        want = sc.pp.highly_variable_genes(pooled, inplace=False, subset=subset, **how)
        table = highly_variable_genes(count_sites, inplace=False, subset=subset, **how)
        if flavor == "seurat":
            want.index = pooled.var_names if not subset else table.index
        assert len(table) == len(want) and set(table.columns) <= set(want.columns)
        np.testing.assert_array_equal(table["highly_variable"], want["highly_variable"])
    assert "highly_variable" not in count_sites["s0"].var and count_sites["s0"].n_vars == 500
    highly_variable_genes(count_sites, subset=True, **how)
    assert all(list(adata.var_names) == list(table.index) for adata in count_sites.values())


def test_pictures_of_scanpy_work_afterwards(count_sites):
    as_expected(count_sites, "seurat")
    highly_variable_genes(count_sites)
    sc.pl.highly_variable_genes(count_sites["s1"], show=False)
    for adata in count_sites.values():
        adata.X.data = np.expm1(adata.X.data).round()
        del adata.uns["log1p"]
    highly_variable_genes(count_sites, flavor="seurat_v3", n_top_genes=40)
    sc.pl.highly_variable_genes(count_sites["s1"], show=False)


@pytest.mark.parametrize("flavor", ["cell_ranger", "seurat_v3"])
@pytest.mark.parametrize("batch_key", [None, "site"])
def test_a_feature_that_a_site_did_not_measure_is_judged_by_the_others(count_sites, flavor, batch_key):
    as_expected(count_sites, flavor)
    full = {site: adata.copy() for site, adata in count_sites.items()}
    gene = full["s0"].var_names[np.argmax(full["s0"].X.mean(axis=0))]
    count_sites["s2"] = count_sites["s2"][:, count_sites["s2"].var_names != gene].copy()
    harmonise(count_sites, features="union")
    how = {"flavor": flavor, "n_top_genes": 50, "batch_key": batch_key, "inplace": False}
    table = highly_variable_genes(count_sites, **how)
    others = highly_variable_genes({site: full[site] for site in ("s0", "s1")}, **how)
    np.testing.assert_allclose(table.loc[gene, "means"], others.loc[gene, "means"], rtol=1e-9)
    assert np.isfinite(
        table.loc[gene].drop("mean_bin", errors="ignore").drop("highly_variable_rank", errors="ignore").astype(float)
    ).all()


def test_what_cannot_work_is_one_line_and_alters_nothing(count_sites, monkeypatch):
    with pytest.raises(SettingsError, match="flavor='vst': give one of 'seurat', 'cell_ranger'"):
        highly_variable_genes(count_sites, flavor="vst")
    with pytest.raises(SettingsError, match="n_top_genes=0: give a whole number"):
        highly_variable_genes(count_sites, n_top_genes=0)
    with pytest.raises(DataError, match="batch_key 'plate' is missing in obs of s0"):
        highly_variable_genes(count_sites, batch_key="plate", flavor="seurat_v3")
    with pytest.warns(InflWarning, match="flavor 'cell_ranger' is for logarithms, and X of s0 has raw counts"):
        highly_variable_genes(count_sites, flavor="cell_ranger", inplace=False)
    log1p({"s1": count_sites["s1"]})
    with pytest.raises(
        DataError, match="values differ in kind: s1 has logarithms, s0 has raw counts; .*check_values=False"
    ):
        highly_variable_genes(count_sites)
    count_sites["s0"].X.data[0] = 1e4
    with pytest.raises(DataError, match="X of s0 has 10000, too large for a logarithm: flavor 'seurat' is for"):
        highly_variable_genes(count_sites, check_values=False)
    few = {site: adata[:, :4].copy() for site, adata in count_sites.items()}
    with pytest.raises(DataError, match="the local regression of variances on means failed at all sites"):
        highly_variable_genes(few, flavor="seurat_v3", span=0.1, check_values=False)
    monkeypatch.setitem(__import__("sys").modules, "skmisc.loess", None)
    with pytest.raises(MissingExtraError, match=r"needs scikit-misc: pip install 'infl\[hvg\]'"):
        highly_variable_genes(count_sites, flavor="seurat_v3", check_values=False)
    assert all("highly_variable" not in a.var and "hvg" not in a.uns for a in count_sites.values())


def test_cutoffs_beside_a_number_are_said_to_be_idle(count_sites):
    as_expected(count_sites, "seurat")
    with pytest.warns(InflWarning, match="n_top_genes is given, so the cutoffs"):
        table = highly_variable_genes(count_sites, n_top_genes=5, min_disp=1, inplace=False)
    assert isinstance(table, pd.DataFrame) and table["highly_variable"].sum() == 5
