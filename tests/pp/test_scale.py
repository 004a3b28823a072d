"""Scaling: as scanpy on the pooled object."""

import numpy as np
import pytest
import scanpy as sc

from infl.errors import DataError, InflWarning, SettingsError
from infl.pp import scale


@pytest.mark.parametrize("max_value", [None, 1.5])
@pytest.mark.parametrize("zero_center", [True, False])
@pytest.mark.parametrize("matrix", ["sparse", "dense", "integer", "layer"])
def test_as_scanpy_on_the_pooled_object(pbmc_sites, pool, key, dense, matrix, zero_center, max_value):
    layer = None
    for site, adata in pbmc_sites.items():
        x = dense(adata.X)
        x[:, 7] = 3  # constant everywhere
        if site == "site_2":
            x[:, 9] = 0  # constant there
        adata.X = x if matrix in ("dense", "layer") else type(adata.X)(x)
        if matrix == "integer":
            adata.X = np.rint(x).astype(np.int64)
        elif matrix == "layer":
            adata.layers["log"], layer = x.copy(), "log"
    pooled = pool(pbmc_sites)
    options = {"zero_center": zero_center, "max_value": max_value, "layer": layer}
    if matrix == "sparse" and zero_center:
        with pytest.warns(UserWarning, match="densifies"):
            sc.pp.scale(pooled, **options)
        with pytest.warns(InflWarning, match=r"densifies it \(site_1\); zero_center=False keeps it sparse"):
            scale(pbmc_sites, key=key, **options)
    else:
        sc.pp.scale(pooled, **options)
        scale(pbmc_sites, key=key, **options)
    ours = pool(pbmc_sites)
    result, want = (a.X if layer is None else a.layers[layer] for a in (ours, pooled))
    assert result.dtype == want.dtype and type(result) is type(want)
    np.testing.assert_allclose(dense(result), dense(want), rtol=1e-5, atol=2e-6)
    for name in ("mean", "std"):
        np.testing.assert_allclose(pbmc_sites["site_3"].var[name], pooled.var[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("as_column", [True, False])
def test_masked_observations_are_left_as_they_are(khan_sites, pool, as_column):
    for adata in khan_sites.values():
        adata.obs["used"] = np.arange(adata.n_obs) % 3 > 0
    pooled = pool(khan_sites)
    masks = {site: adata.obs["used"].to_numpy() for site, adata in khan_sites.items()}
    sc.pp.scale(pooled, mask_obs="used" if as_column else pooled.obs["used"].to_numpy())
    scale(khan_sites, mask_obs="used" if as_column else masks)
    np.testing.assert_allclose(pool(khan_sites).X, pooled.X, rtol=1e-5, atol=1e-5)
    assert list(khan_sites["site_1"].var.columns[-2:]) == list(pooled.var.columns[-2:])


def test_views_and_copies(khan_sites):
    views = {site: adata[:, :50] for site, adata in khan_sites.items()}
    new = scale(views, copy=True)
    assert views["site_1"].is_view and "mean" not in views["site_1"].var
    scale(views)
    np.testing.assert_array_equal(views["site_1"].X, new["site_1"].X)
    assert "mean" not in khan_sites["site_1"].var


def test_settings_that_cannot_work(khan_sites):
    before = khan_sites["site_1"].X.copy()
    with pytest.raises(SettingsError, match="max_value=-1: give a number above 0"):
        scale(khan_sites, max_value=-1)
    with pytest.raises(SettingsError, match="mask_obs must be a column of obs or a dict with an array for every site"):
        scale(khan_sites, mask_obs={"site_1": np.ones(3, dtype=bool)})
    with pytest.raises(DataError, match="mask_obs 'usd' is missing in obs of site_1"):
        scale(khan_sites, mask_obs="usd")
    wrong = {site: np.ones(3, dtype=bool) for site in khan_sites}
    with pytest.raises(
        DataError, match="mask_obs must be truth values, one for each of the .* observations, at site_1"
    ):
        scale(khan_sites, mask_obs=wrong)
    none = {site: np.zeros(adata.n_obs, dtype=bool) for site, adata in khan_sites.items()}
    with pytest.raises(DataError, match="mask_obs leaves fewer than two observations"):
        scale(khan_sites, mask_obs=none)
    np.testing.assert_array_equal(khan_sites["site_1"].X, before)
