"""The summary of quality: scanpy's figures for the pooled object, and nothing about single observations."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from infl.errors import DataError, SettingsError
from infl.pp import harmonise, qc_summary


@pytest.mark.parametrize("matrix", ["sparse", "dense", "layer", "backed"])
def test_as_scanpy_on_the_pooled_object(count_sites, pool, key, dense, matrix, tmp_path):
    layer = "counts" if matrix == "layer" else None
    for adata in count_sites.values():
        adata.var["mt"] = np.arange(500) % 17 == 0
        if matrix == "dense":
            adata.X = dense(adata.X)
        elif layer:
            adata.layers["counts"], adata.X = adata.X, None
    pooled = pool(count_sites)
    if matrix == "backed":
        count_sites["s1"].write_h5ad(tmp_path / "a.h5ad")
        count_sites["s1"] = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sc.pp.calculate_qc_metrics(pooled, qc_vars=["mt"], layer=layer, inplace=True)
    qc_summary(count_sites, qc_vars="mt", layer=layer, inplace=True, key=key)
    for site, adata in count_sites.items():
        for ours, want in ((adata.obs, pooled.obs[pooled.obs["site"] == site]), (adata.var, pooled.var)):
            columns = [name for name in want if name not in ("site", "donor", "mt")]
            assert len(columns) > 5 and set(columns) <= set(ours.columns)
            for name in columns:
                np.testing.assert_allclose(ours[name], want[name], rtol=1e-5, err_msg=name)


def test_the_table_shows_what_differs_between_sites(count_sites, dense):
    sc.pp.log1p(count_sites["s1"])
    x = dense(count_sites["s2"].X)
    x[:, :7] = 4
    count_sites["s2"].X = sparse.csr_matrix(x)
    count_sites["s2"] = count_sites["s2"][:, :400].copy()
    harmonise(count_sites, features="union", check_units=False)
    summary = qc_summary(count_sites)
    table = summary.sites
    assert table["units"].tolist() == ["raw counts", "logarithms", "raw counts"]
    assert table["n_features"].tolist() == [500, 500, 400]
    assert table["n_constant"].tolist() == [0, 0, 7]
    np.testing.assert_allclose(table.loc["s0", "pct_zeros"], 100 * (dense(count_sites["s0"].X) == 0).mean())
    assert "raw counts" in repr(summary) and "raw counts" in summary._repr_html_()
    assert "total_counts" not in count_sites["s0"].obs


def test_histograms_add_up_and_show_no_single_observation(count_sites):
    count_sites["s1"] = count_sites["s1"][:8].copy()
    count_sites["s0"].X[0] = 100_000.0  # one that stands out
    summary = qc_summary(count_sites, percent_top=[100, 1000])
    assert set(summary.histograms) == {"n_genes_by_counts", "total_counts", "pct_counts_in_top_100_genes"}
    for table in summary.histograms.values():
        numbers = table.to_numpy()
        assert (numbers % 10 == 0).all()
        assert (np.abs(numbers.sum(axis=1) - summary.sites["n_obs"].to_numpy()) <= 5 * numbers.shape[1]).all()
        assert table.columns.is_monotonic_increasing
    assert summary.histograms["total_counts"].columns[-1].right < 1e6
    assert pd.isna(summary.sites.loc["s1", "total_counts"]) and summary.sites.loc["s0", "total_counts"] > 0
    exact = qc_summary(count_sites, round_to=1).histograms["total_counts"]
    assert exact.loc["s0"].sum() == 150 and exact.columns[-1].left == 5e7


def test_data_that_is_no_counts_is_summarised_too(khan_sites):
    table = qc_summary(khan_sites).sites
    assert (table["units"] == "scaled values").all() and (table["pct_zeros"] < 1).all()


def test_what_cannot_work(count_sites):
    count_sites["s0"].var["mt"] = True
    with pytest.raises(DataError, match="qc_vars 'mt' is missing in var of s1; it has"):
        qc_summary(count_sites, qc_vars=["mt"])
    count_sites["s0"].var["mt"] = "yes"
    with pytest.raises(DataError, match="qc_vars 'mt' has no truth values in var of s0"):
        qc_summary(count_sites, qc_vars=["mt"], inplace=True)
    with pytest.raises(SettingsError, match="round_to=0: give a whole number of at least 1"):
        qc_summary(count_sites, round_to=0)
    assert "total_counts" not in count_sites["s0"].obs
