"""Principal components: scanpy's on the pooled object, by all products and by blocks of directions."""

import itertools

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.linalg import subspace_angles

from infl.errors import DataError, SettingsError
from infl.pp import harmonise, pca
from infl.pp._components import Search


def largest_angle(a, b) -> float:
    return float(subspace_angles(np.asarray(a, float), np.asarray(b, float)).max())


CASES = list(itertools.product([True, False], ["sparse", "dense", "layer"], ["full", "randomized"]))
LONG = [case for case in CASES if case[2] == "randomized" and case[:2] not in [(True, "sparse"), (False, "dense")]]


@pytest.mark.parametrize(
    ("zero_center", "matrix", "solver"),
    [pytest.param(*case, marks=[pytest.mark.long] if case in LONG else []) for case in CASES],
)
def test_as_scanpy_on_the_pooled_object(pbmc_sites, pool, key, dense, solver, matrix, zero_center):
    layer = None
    for adata in pbmc_sites.values():
        if matrix == "dense":
            adata.X = dense(adata.X)
        elif matrix == "layer":
            adata.layers["log"], layer = adata.X, "log"
            adata.X = None
    pooled = pool(pbmc_sites)
    sc.pp.pca(pooled, 20, layer=layer, zero_center=zero_center, svd_solver="arpack")
    pca(pbmc_sites, 20, layer=layer, zero_center=zero_center, svd_solver=solver, key=key)
    ours = pool(pbmc_sites)
    assert largest_angle(ours.varm["PCs"], pooled.varm["PCs"]) <= 1e-3
    for name in ("variance", "variance_ratio"):
        np.testing.assert_allclose(ours.uns["pca"][name], pooled.uns["pca"][name], rtol=1e-4)
    assert ours.uns["pca"]["params"] == pooled.uns["pca"]["params"]
    if zero_center:
        scores = np.abs(ours.obsm["X_pca"] - pooled.obsm["X_pca"]).max(axis=0) / np.abs(pooled.obsm["X_pca"]).max(
            axis=0
        )
        assert (scores[:10] < 0.01).all()  # signs too
    assert ours.obsm["X_pca"].dtype == np.float32
    if matrix == "sparse":
        assert sparse.issparse(pbmc_sites["site_1"].X)


def test_more_features_than_observations_and_sites_smaller_than_components(khan_sites, pool, key):
    pooled = pool(khan_sites)
    sc.pp.pca(pooled, svd_solver="full")
    pca(khan_sites, key=key)
    assert min(adata.n_obs for adata in khan_sites.values()) < 50
    assert largest_angle(khan_sites["site_4"].varm["PCs"], pooled.varm["PCs"]) <= 1e-3
    pca(khan_sites, svd_solver="randomized", key_added="r")
    assert largest_angle(khan_sites["site_4"].varm["r"], pooled.varm["PCs"]) <= 1e-3
    np.testing.assert_allclose(khan_sites["site_4"].uns["r"]["variance"], pooled.uns["pca"]["variance"], rtol=1e-4)


def test_beyond_five_thousand_features_blocks_of_directions(pool):
    rng = np.random.default_rng(0)
    n_vars, rank = 6000, 12
    loadings = rng.standard_normal((rank, n_vars)) * np.linspace(3, 1, rank)[:, None]
    sites = {}
    for i, n in enumerate((60, 150, 90)):
        x = rng.standard_normal((n, rank)) @ loadings * 0.3 + rng.standard_normal((n, n_vars)) + rng.random(n_vars)
        sites[f"s{i}"] = AnnData(sparse.csr_matrix(np.where(x > 0, x, 0).astype(np.float32)))
        sites[f"s{i}"].obs_names = [f"c{i}-{j}" for j in range(n)]
    pooled = pool(sites)
    sc.pp.pca(pooled, 30, svd_solver="arpack")
    pca(sites, 30)
    assert largest_angle(sites["s1"].varm["PCs"], pooled.varm["PCs"]) <= 0.05
    np.testing.assert_allclose(pool(sites).obsm["X_pca"][:, :10], pooled.obsm["X_pca"][:, :10], atol=0.05)


@given(st.integers(2, 30), st.integers(0, 100), st.data())
@settings(max_examples=40)
def test_blocks_of_directions_find_any_spectrum(n_vars, seed, data):
    n_comps = data.draw(st.integers(1, n_vars))
    rank = data.draw(st.integers(1, n_vars))
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((n_vars, rank)) * np.logspace(0, -3, rank)
    covariance = factor @ factor.T
    search = Search.begin(n_vars, n_comps, seed)
    while not search.done:
        search = search.after(covariance @ search.block)
    values, vectors = search.values, search.vectors
    want = np.maximum(np.linalg.eigvalsh(covariance)[::-1][:n_comps], 0)
    np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-9 * want[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n_comps), atol=1e-8)


def test_marked_features_alone_are_taken(pbmc_sites, pool):
    for adata in pbmc_sites.values():
        adata.var["highly_variable"] = np.arange(765) % 9 == 0
    pooled = pool(pbmc_sites)
    sc.pp.pca(pooled, 10, svd_solver="arpack")
    pca(pbmc_sites, 10)
    first = pbmc_sites["site_1"]
    assert (first.varm["PCs"][~first.var["highly_variable"].to_numpy()] == 0).all()
    assert largest_angle(first.varm["PCs"], pooled.varm["PCs"]) <= 1e-3
    assert first.uns["pca"]["params"] == pooled.uns["pca"]["params"]
    new = pca(pbmc_sites, 3, mask_var=None, copy=True)
    assert (new["site_2"].varm["PCs"] != 0).all() and first.varm["PCs"].shape[1] == 10


def test_a_feature_that_a_site_did_not_measure_is_at_its_mean(pbmc_sites, dense):
    """The same components as when the site had the mean of the others everywhere."""
    gene = pbmc_sites["site_1"].var_names[3]
    filled = {site: adata.copy() for site, adata in pbmc_sites.items()}
    x = dense(filled["site_1"].X)
    x[:, 3] = np.vstack([dense(filled[s][:, gene].X) for s in filled if s != "site_1"]).mean()
    filled["site_1"].X = x
    pbmc_sites["site_1"] = pbmc_sites["site_1"][:, pbmc_sites["site_1"].var_names != gene].copy()
    harmonise(pbmc_sites, features="union")
    filled = {site: adata[:, pbmc_sites["site_1"].var_names].copy() for site, adata in filled.items()}
    pca(pbmc_sites, 5)
    pca(filled, 5)
    assert largest_angle(pbmc_sites["site_2"].varm["PCs"], filled["site_2"].varm["PCs"]) <= 1e-3


def test_a_site_with_constant_features(khan_sites, pool):
    khan_sites["site_2"].X[:, :900] = 0.5
    khan_sites["site_3"].X[:] = khan_sites["site_3"].X[0]
    pooled = pool(khan_sites)
    sc.pp.pca(pooled, 10, svd_solver="full")
    pca(khan_sites, 10)
    assert largest_angle(khan_sites["site_3"].varm["PCs"], pooled.varm["PCs"]) <= 1e-3


def test_products_are_the_same_in_one_piece_and_in_many(khan_sites, monkeypatch):
    khan_sites = {site: adata[:, ::4].copy() for site, adata in khan_sites.items()}
    pca(khan_sites, 5)
    monkeypatch.setattr("infl.pp._pca_sums._IN_MEMORY", 10_000)  # 17 features or observations at a time
    pca(khan_sites, 5, key_added="pieces")
    for adata in khan_sites.values():
        np.testing.assert_allclose(adata.obsm["pieces"], adata.obsm["X_pca"], atol=1e-4)


def test_what_cannot_work_is_one_line_and_alters_nothing(khan_sites):
    with pytest.raises(SettingsError, match="svd_solver='lobpcg': give one of 'auto', .*, or None"):
        pca(khan_sites, svd_solver="lobpcg")
    with pytest.raises(SettingsError, match="n_comps must be from 1 to 83, as there are 83 observations and 2308"):
        pca(khan_sites, 84)
    with pytest.raises(SettingsError, match="mask_var must be truth values, one for each of the 2308 features"):
        pca(khan_sites, mask_var=np.ones(3, dtype=bool))
    with pytest.raises(DataError, match="mask_var 'good' is missing in var of site_1"):
        pca(khan_sites, mask_var="good")
    with pytest.raises(DataError, match="mask_var leaves no feature"):
        pca(khan_sites, mask_var=np.zeros(2308, dtype=bool))
    khan_sites["site_1"].var["highly_variable"] = np.arange(2308) < 50
    with pytest.raises(DataError, match=r"var\['highly_variable'\] is at site_1 and not at site_2"):
        pca(khan_sites)
    for site, adata in khan_sites.items():
        adata.var["highly_variable"] = np.arange(2308) < (60 if site == "site_3" else 50)
    with pytest.raises(DataError, match=r"var\['highly_variable'\] of site_3 is not that of site_1"):
        pca(khan_sites)
    khan_sites["site_1"].var["highly_variable"] = "yes"
    with pytest.raises(DataError, match="mask_var 'highly_variable' must be truth values, at site_1"):
        pca(khan_sites)
    for adata in khan_sites.values():
        adata.X = np.ones(adata.shape, dtype=np.float32)
    with pytest.raises(DataError, match="no feature varies between observations"):
        pca(khan_sites, mask_var=None)
    assert all("X_pca" not in adata.obsm and "pca" not in adata.uns for adata in khan_sites.values())
