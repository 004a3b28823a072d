"""Normalisation and logarithms: as scanpy on the pooled object, to the last bit of the median."""

import numpy as np
import pytest
import scanpy as sc
from hypothesis import given
from hypothesis import strategies as st

from infl.data.units import units_of
from infl.errors import DataError, InflWarning, SettingsError
from infl.pp import log1p, normalize_total
from infl.pp._median import federated_median

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.lists(numbers, max_size=6), min_size=1, max_size=4), st.sampled_from([np.float32, np.float64]))
def test_median_is_numpys_bit_for_bit(rows, dtype):
    values = {f"s{i}": np.array(row, dtype=dtype).reshape(-1, 1) for i, row in enumerate(rows)}
    pooled = np.concatenate(list(values.values()))
    median = federated_median(values, None)
    if not len(pooled):
        assert np.isnan(median[0])
    else:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(median[0], np.median(pooled))
    assert median.dtype == dtype


def test_median_of_columns_leaves_nan_out():
    values = {"a": np.array([[1.0, np.nan, np.nan], [9.0, 4.0, np.nan]]), "b": np.array([[-3.0, 2.0, np.nan]])}
    np.testing.assert_array_equal(federated_median(values, None), [1.0, 3.0, np.nan])


@pytest.mark.parametrize("matrix", ["csr", "csc", "dense", "integer", "float64", "layer"])
@pytest.mark.parametrize("exclude", [False, True])
def test_as_scanpy_on_the_pooled_object(count_sites, pool, key, dense, matrix, exclude):
    layer = None
    for adata in count_sites.values():
        if matrix == "dense":
            adata.X = dense(adata.X)
        elif matrix == "integer":
            adata.X = adata.X.astype(np.int32)
        elif matrix == "float64":
            adata.X = adata.X.astype(np.float64)
        elif matrix == "csc":
            adata.X = adata.X.tocsc()
        elif matrix == "layer":
            adata.layers["counts"], layer = adata.X.copy(), "counts"
    pooled = pool(count_sites)
    options = {"exclude_highly_expressed": exclude, "max_fraction": 0.1, "key_added": "factor", "layer": layer}
    sc.pp.normalize_total(pooled, **options)
    before = dense(count_sites["s0"].X)
    normalize_total(count_sites, key=key, **options)
    ours = pool(count_sites)
    result, want = (a.X if layer is None else a.layers[layer] for a in (ours, pooled))
    assert result.dtype == want.dtype and type(result) is type(want)
    np.testing.assert_allclose(dense(result), dense(want), rtol=1e-6)
    np.testing.assert_allclose(ours.obs["factor"], pooled.obs["factor"], rtol=1e-6)
    if layer is not None:
        np.testing.assert_array_equal(dense(count_sites["s0"].X), before)


@pytest.mark.parametrize("is_dense", [True, False])
def test_observations_without_counts_stay_and_count_as_in_scanpy(count_sites, pool, dense, is_dense):
    for adata in count_sites.values():
        x = dense(adata.X)
        x[5:20] = 0
        adata.X = x if is_dense else type(adata.X)(x)
    pooled = pool(count_sites)
    pooled.X = dense(pooled.X)  # scanpy before 1.12 counts them in the median of a sparse matrix
    with pytest.warns(UserWarning, match="zero counts"):
        sc.pp.normalize_total(pooled)
    with pytest.warns(InflWarning, match="45 observations have no counts .15 at s0"):
        normalize_total(count_sites)
    np.testing.assert_allclose(dense(pool(count_sites).X), dense(pooled.X), rtol=1e-6)


def test_copies_leave_the_sites_as_they_are(count_sites, dense):
    before = {site: dense(adata.X).copy() for site, adata in count_sites.items()}
    new = log1p(normalize_total(count_sites, target_sum=1e4, copy=True), copy=True)
    for site, adata in count_sites.items():
        np.testing.assert_array_equal(dense(adata.X), before[site])
        np.testing.assert_allclose(np.expm1(dense(new[site].X)).sum(axis=1), 1e4, rtol=1e-5)
    assert "log1p" in new["s0"].uns and "log1p" not in count_sites["s0"].uns


@pytest.mark.parametrize("base", [None, 2])
@pytest.mark.parametrize("matrix", ["csr", "dense", "integer", "view"])
def test_log1p_as_scanpy(count_sites, pool, dense, base, matrix):
    for site, adata in list(count_sites.items()):
        if matrix == "view":
            count_sites[site] = adata[::2]
        elif matrix != "csr":
            adata.X = dense(adata.X).astype(np.int64 if matrix == "integer" else np.float32)
    pooled = pool(count_sites)
    sc.pp.log1p(pooled, base=base)
    log1p(count_sites, base=base)
    ours = pool(count_sites)
    np.testing.assert_allclose(dense(ours.X), dense(pooled.X), rtol=1e-6)
    assert ours.X.dtype == pooled.X.dtype
    assert count_sites["s1"].uns["log1p"] == pooled.uns["log1p"]


def test_logarithms_and_negative_values_are_refused_and_nothing_changes(count_sites, dense):
    log1p({"s1": count_sites["s1"]})
    before = {site: dense(adata.X).copy() for site, adata in count_sites.items()}
    for function in (log1p, normalize_total):
        with pytest.raises(DataError, match=f"X of s1 is logarithms already .*{function.__name__} is for counts"):
            function(count_sites)
    count_sites["s2"].X = -count_sites["s2"].X
    del count_sites["s1"].uns["log1p"]
    for function in (log1p, normalize_total):
        with pytest.raises(DataError, match="X of s2 has negative values"):
            function(count_sites)
    np.testing.assert_array_equal(dense(count_sites["s0"].X), before["s0"])
    assert "log1p" not in count_sites["s0"].uns


def test_settings_that_cannot_work(count_sites, tmp_path):
    import anndata as ad

    with pytest.raises(SettingsError, match="max_fraction=2: give a number from 0 up to 1"):
        normalize_total(count_sites, max_fraction=2)
    with pytest.raises(SettingsError, match="target_sum=0: give a number above 0"):
        normalize_total(count_sites, target_sum=0)
    with pytest.raises(SettingsError, match="base=1: give a number above 0 other than 1"):
        log1p(count_sites, base=1)
    count_sites["s0"].write_h5ad(tmp_path / "a.h5ad")
    backed = count_sites | {"s0": ad.read_h5ad(tmp_path / "a.h5ad", backed="r")}
    with pytest.raises(DataError, match=r"s0 is backed and would be rewritten: replace it in sites by its .to_memory"):
        log1p(backed)
    for adata in count_sites.values():
        adata.X = adata.X * 0
    with pytest.raises(DataError, match="the median of the totals is 0"):
        normalize_total(count_sites)


def test_counts_are_counts_whatever_a_flag_left_over_says(count_sites, dense):
    expected = {site: adata.copy() for site, adata in count_sites.items()}
    normalize_total(expected)
    for adata in count_sites.values():
        adata.uns["log1p"] = {"base": None}
    assert {units_of(adata) for adata in count_sites.values()} == {"raw counts"}
    normalize_total(count_sites)
    for site, adata in count_sites.items():
        np.testing.assert_array_equal(dense(adata.X), dense(expected[site].X))
        assert "log1p" not in adata.uns
    log1p(count_sites)
    assert {units_of(adata) for adata in count_sites.values()} == {"logarithms"}


def test_a_flag_says_nothing_of_another_matrix(count_sites):
    for adata in count_sites.values():
        adata.layers["log"] = adata.X.copy()
    log1p(count_sites, layer="log")
    normalize_total(count_sites)  # X is counts still
    with pytest.raises(DataError, match="log of s0 is logarithms already"):
        log1p(count_sites, layer="log")
