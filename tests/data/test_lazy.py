"""Objects that anndata opens lazily: every function has the results that it has with the same data in memory."""

from importlib.util import find_spec

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import infl
from infl._lazy import computed, is_lazy, read_tables

pytestmark = pytest.mark.skipif(
    find_spec("dask") is None or find_spec("xarray") is None or not hasattr(anndata.experimental, "read_lazy"),
    reason="lazy objects need anndata 0.12 or later, with dask and xarray: pip install 'anndata[lazy]'",
)


def table(number: int) -> AnnData:
    rng = np.random.default_rng(number)
    counts = sparse.csr_matrix(rng.poisson(0.6, (60, 40)).astype(np.float32))
    obs = pd.DataFrame(
        {"kind": pd.Categorical(rng.choice(["a", "b"], 60)), "site": f"s{number}", "age": rng.normal(50, 5, 60)},
        index=[f"{number}-{i}" for i in range(60)],
    )
    var = pd.DataFrame(index=[f"g{i + number}" for i in range(40)])
    return AnnData(counts, obs=obs, var=var, layers={"counts": counts.copy()}, obsm={"place": obs[["age"]]})


@pytest.fixture
def key() -> infl.keys.Keyring:
    return infl.keys.Keyring.create()


@pytest.fixture
def plain() -> dict[str, AnnData]:
    return {f"s{number}": table(number) for number in range(3)}


@pytest.fixture
def lazy(plain, tmp_path) -> dict[str, AnnData]:
    for site, adata in plain.items():
        adata.write_zarr(tmp_path / site)
    return {site: anndata.experimental.read_lazy(tmp_path / site) for site in plain}


def alike(a, b) -> None:
    a, b = (np.asarray(m.toarray() if sparse.issparse(m) else m) for m in (computed(a), computed(b)))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_tables_are_read_where_they_are_given_and_arrays_stay_lazy(lazy, plain):
    infl.pp.harmonise(lazy)
    for site, adata in lazy.items():
        pd.testing.assert_frame_equal(adata.obs, plain[site].obs, check_dtype=False)
        assert isinstance(adata.obsm["place"], pd.DataFrame) and is_lazy(adata.X) and is_lazy(adata.layers["counts"])


def test_reading_tables_leaves_what_is_in_memory(plain):
    obs = plain["s0"].obs
    read_tables(plain)
    assert plain["s0"].obs is obs


def test_preprocessing(lazy, plain, key):
    for sites in (lazy, plain):
        infl.pp.harmonise(sites, features="union")
        infl.pp.filter_genes(sites, min_cells=40)
        infl.pp.filter_cells(sites, min_genes=8)
        infl.pp.highly_variable_genes(sites, n_top_genes=20, layer="counts", flavor="seurat_v3")
        infl.pp.pca(sites, 4, key=key)
        infl.tl.score_genes(sites, ["g3", "g9"], seed=0)
    for site, adata in lazy.items():
        known = plain[site]
        assert is_lazy(adata.X) and adata.var_names.equals(known.var_names) and adata.obs_names.equals(known.obs_names)
        alike(adata.X, known.X)
        assert (adata.var["highly_variable"] == known.var["highly_variable"]).all()
        alike(adata.obsm["X_pca"], known.obsm["X_pca"])
        alike(adata.obs["score"], known.obs["score"])


def test_what_rewrites_values_has_them_in_memory_after(lazy, plain):
    for sites in (lazy, plain):
        infl.pp.harmonise(sites)
        infl.pp.normalize_total(sites)
        infl.pp.log1p(sites)
    for site, adata in lazy.items():
        assert sparse.issparse(adata.X) and is_lazy(adata.layers["counts"])
        alike(adata.X, plain[site].X)


def test_one_object_is_taken_apart_by_site(plain, tmp_path, key):
    whole = anndata.concat(plain)
    whole.write_zarr(tmp_path / "whole")
    opened = anndata.experimental.read_lazy(tmp_path / "whole")
    for data in (opened, whole):
        infl.pp.pca(data, 4, site_key="site", key=key)
    assert is_lazy(opened.X)
    alike(opened.obsm["X_pca"], whole.obsm["X_pca"])
    for data in (opened, whole):
        infl.pp.log1p(data, site_key="site")
    alike(opened.X, whole.X)


def test_a_fit_predictions_and_their_file(lazy, plain, key, tmp_path):
    for sites in (lazy, plain):
        infl.pp.harmonise(sites)
    run = infl.tl.fit_federated(lazy, "classifier", target="kind", rounds=2, key=key)
    for sites in (lazy, plain):
        infl.tl.predict(sites["s1"], run, key=key)
    assert is_lazy(lazy["s1"].X)
    alike(lazy["s1"].obsm["X_infl"], plain["s1"].obsm["X_infl"])
    assert list(lazy["s1"].obs["infl_prediction"]) == list(plain["s1"].obs["infl_prediction"])
    lazy["s1"].write_h5ad(tmp_path / "out.h5ad")
    alike(anndata.read_h5ad(tmp_path / "out.h5ad").X, plain["s1"].X)
    compared = infl.tl.compare(lazy, "classifier", target="kind", rounds=1, seeds=1)
    assert len(compared) and is_lazy(lazy["s0"].X)


def test_modalities_that_are_lazy(lazy, key):
    read_tables(lazy)  # mudata itself takes no lazy tables
    sites = {}
    for site, adata in lazy.items():
        adata.var_names = [f"g{i}" for i in range(40)]
        protein = adata[:, :10].copy()
        protein.var_names = [f"p{i}" for i in range(10)]
        sites[site] = MuData({"rna": adata, "protein": protein})
        sites[site].obs["kind"] = adata.obs["kind"].to_numpy()
    run = infl.tl.fit_federated(sites, "classifier", target="kind", rounds=1, key=key)
    infl.tl.predict(sites["s0"], run, key=key)
    assert len(sites["s0"].obs["infl_prediction"]) == 60 and is_lazy(sites["s0"]["rna"].X)
