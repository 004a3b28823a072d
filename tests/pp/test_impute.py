"""Missing values are filled by means or low quantiles of all sites."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from sklearn.impute import SimpleImputer
from tests.pp.conftest import KINDS, split, with_gaps

import infl
from infl.errors import DataError


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_scikit_learns(kind, key):
    x = with_gaps(np.random.default_rng(2).normal(20, 3, (90, 5)))
    sites = split(x, [40, 60], kind)
    infl.pp.impute(sites, key=key)
    found = np.vstack([a.X.toarray() if sparse.issparse(a.X) else a.X for a in sites.values()])
    np.testing.assert_allclose(found, SimpleImputer().fit_transform(x), rtol=1e-9)
    assert all(type(a.X) is type(KINDS[kind](x)) for a in sites.values())


def test_what_is_low_is_below_nearly_all(key):
    x = with_gaps(np.random.default_rng(3).normal(20, 3, (200, 4)).astype(np.float32))
    sites = split(x, [40, 120])
    filled = infl.pp.impute(sites, method="low", copy=True, key=key)
    assert np.isnan(sites["s0"].X).any()
    fill = np.vstack([filled[s].X[np.isnan(sites[s].X[:, 0]), 0] for s in sites][:1])
    low = np.nanquantile(x[:, 0], 0.01, method="inverted_cdf")
    assert len(np.unique(fill)) == 1 and abs(fill.flat[0] - low) < 3.2 / 64 / 2
    for site, adata in filled.items():
        known = ~np.isnan(sites[site].X)
        assert adata.X.dtype == np.float32
        np.testing.assert_array_equal(adata.X[known], sites[site].X[known])


def test_a_feature_that_a_site_did_not_measure_stays_as_it_is():
    sites = split(with_gaps(np.random.default_rng(4).normal(20, 3, (40, 3))), [20])
    for adata in sites.values():
        adata.var["infl_present"] = True
    sites["s0"].var["infl_present"] = [False, True, True]
    sites["s0"].X[:, 0] = 0
    infl.pp.impute(sites)
    assert not sites["s0"].X[:, 0].any() and not np.isnan(sites["s1"].X).any()


def test_one_object(pool):
    x = with_gaps(np.random.default_rng(5).normal(20, 3, (60, 4)))
    sites = split(x, [20, 40])
    whole = ad.concat(sites, label="site", index_unique="-")
    infl.pp.impute(whole, site_key="site")
    infl.pp.impute(sites)
    np.testing.assert_array_equal(whole.X, np.vstack([adata.X for adata in sites.values()]))


def test_a_feature_without_a_value_is_named_before_anything_is_filled():
    x = np.random.default_rng(6).normal(20, 3, (20, 3))
    x[:, 1], x[3, 0] = np.nan, np.nan
    sites = split(x, [10])
    with pytest.raises(DataError, match=r"'1' has no value at any site \(1 of 3 features\): leave those features out"):
        infl.pp.impute(sites)
    assert np.isnan(sites["s0"].X[3, 0])
