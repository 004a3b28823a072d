"""Moments over sites are those of the pooled data, whatever the matrix, its scale and its gaps."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from infl.errors import DataError, InflWarning, SettingsError
from infl.keys import Keyring
from infl.pp import harmonise, log1p, moments, pca, scale

KINDS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


def site(x, i, kind="dense") -> AnnData:
    names = [f"g{j}" for j in range(x.shape[1])]
    return AnnData(
        KINDS[kind](x),
        obs=pd.DataFrame(index=[f"o{i}-{j}" for j in range(len(x))]),
        var=pd.DataFrame(index=names),
    )


@pytest.mark.filterwarnings("ignore:values differ in kind")  # by chance, of 12 values
@given(
    arrays(np.float64, (9, 4), elements=st.floats(-1e3, 1e3)),
    st.lists(st.integers(-40, 40), min_size=4, max_size=4),
    st.lists(st.sampled_from(list(KINDS)), min_size=3, max_size=3),
    st.booleans(),
)
def test_every_feature_is_exact_on_its_own_scale(x, exponents, kinds, sealed):
    x = np.where(np.abs(x) < 1e-3, 0, x) * 2.0 ** np.array(exponents)
    sites = {f"s{i}": site(x[3 * i : 3 * i + 3], i, kind) for i, kind in enumerate(kinds)}
    table = moments(sites, key=Keyring.create() if sealed else None)
    size = np.abs(x).max(axis=0)
    # the first round has one scale for all features, 2⁻⁵⁵ of the largest sum or so
    coarse = 9 * size.max() * 2.0**-50
    np.testing.assert_array_less(np.abs(table["mean"] - x.mean(axis=0)), 1e-11 * size + coarse + 1e-11)
    np.testing.assert_array_less(
        np.abs(table["var"] - x.var(axis=0, ddof=1)), 1e-9 * size**2 + 9 * (coarse + 1e-11) ** 2 + 1e-300
    )
    np.testing.assert_array_equal(sites["s1"].var["mean"], table["mean"])


@pytest.mark.parametrize("kind", ["sparse", "dense", "layer", "view", "backed"])
def test_as_scanpy_on_the_pooled_object(pbmc_sites, pool, key, kind, tmp_path, dense):
    import anndata as ad
    import scanpy as sc

    pooled = pool(pbmc_sites)
    layer = None
    if kind == "backed":
        pbmc_sites["site_1"].write_h5ad(tmp_path / "a.h5ad")
        pbmc_sites["site_1"] = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for name, adata in list(pbmc_sites.items()):
        if kind == "dense":
            adata.X = dense(adata.X)
        elif kind == "layer":
            adata.layers["log"], layer = adata.X, "log"
            adata.X = None
        elif kind == "view":
            pbmc_sites[name] = adata[np.arange(adata.n_obs)]
    table = moments(pbmc_sites, layer=layer, key=key)
    sc.pp.scale(pooled, zero_center=False)
    np.testing.assert_allclose(table["mean"], pooled.var["mean"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["std"], pooled.var["std"], rtol=1e-5)
    assert (table["n_obs"] == 700).all()


def test_a_feature_that_a_site_did_not_measure_is_not_0_there():
    sites = {"a": site(np.array([[1.0, 5.0], [3.0, 7.0]]), 0), "b": site(np.array([[2.0], [6.0]]), 1)}
    harmonise(sites, features="union")
    table = moments(sites, inplace=False)
    assert table["n_obs"].tolist() == [4, 2]
    assert table["mean"].tolist() == [3.0, 6.0]
    assert table["var"].tolist() == pytest.approx([14 / 3, 2.0])
    assert "mean" not in sites["a"].var


@pytest.mark.parametrize("function", [moments, scale, pca])
def test_counts_among_logarithms_are_noticed(count_sites, dense, function):
    for adata in count_sites.values():
        adata.X = dense(adata.X)
    log1p({"s2": count_sites["s2"]})
    with pytest.warns(InflWarning, match="values differ in kind: s2 has logarithms, s0 has raw counts"):
        function(count_sites)


def test_errors_are_one_line_and_alter_nothing(khan_sites):
    other = khan_sites["site_2"][:, ::-1].copy()
    with pytest.raises(
        DataError, match=r"features of site_2 \(2308\) are not those of site_1 .* call infl.pp.harmonise"
    ):
        moments(khan_sites | {"site_2": other})
    with pytest.raises(SettingsError, match="key='secret': give a key ring"):
        moments(khan_sites, key="secret")
    with pytest.raises(DataError, match="layer 'raw' is missing at site_1"):
        moments(khan_sites, layer="raw")
    with pytest.raises(DataError, match=r"sites\['site_1'\]=\[\]: give an AnnData or MuData"):
        moments({"site_1": []})
    khan_sites["site_3"].X[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN in feature 'clone_0' at site_3"):
        moments(khan_sites)
    assert all("mean" not in adata.var for adata in khan_sites.values())
