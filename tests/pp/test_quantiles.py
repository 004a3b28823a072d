"""Quantiles are numpy's within the stated width, and missing values are filled by them or by means."""

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from sklearn.impute import SimpleImputer

import infl
from infl.errors import DataError, InflError

KINDS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


def split(x: np.ndarray, cuts: list[int], kind: str = "dense") -> dict[str, AnnData]:
    parts = np.split(x, sorted(cuts))
    return {f"s{i}": AnnData(KINDS[kind](part)) for i, part in enumerate(parts) if len(part)}


def with_gaps(x: np.ndarray, seed: int = 0) -> np.ndarray:
    gaps = np.random.default_rng(seed).random(x.shape) < 0.3
    gaps[0] = False
    return np.where(gaps, np.nan, x)


@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore:values differ in kind")
@given(
    arrays(np.float64, (12, 3), elements=st.floats(-1e6, 1e6, width=32)),
    st.lists(st.integers(0, 12), min_size=2, max_size=3),
    st.sampled_from([(0.5,), (0.01, 0.99), (0.25, 0.5, 0.75), (1 / 12,)]),
    st.sampled_from([1 / 64, 1e-3]),
    st.sampled_from(list(KINDS)),
)
def test_within_half_a_width_of_numpys(x, cuts, q, width, kind):
    found = infl.pp.quantiles(split(x, cuts, kind), q, width=width)
    expected = np.quantile(x, q, axis=0, method="inverted_cdf")
    size = np.abs(x).max(axis=0)
    near = (width / 2 + 1e-8) * x.std(axis=0) + 1e-8 * size + 1e-10
    assert (np.abs(found.T - expected) <= near).all().all()
    assert list(found.columns) == list(q)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_and_features_have_no_part(kind, key):
    x = with_gaps(np.random.default_rng(1).normal(20, 3, (90, 5)).astype(np.float32))
    sites = split(x, [40, 60], kind)
    for adata in sites.values():
        adata.var["infl_present"] = True
    sites["s1"].var["infl_present"] = [True, False, True, True, True]
    x[40:60, 1] = np.nan
    found = infl.pp.quantiles(sites, [0.1, 0.5], width=0.002, key=key)
    expected = np.nanquantile(x, [0.1, 0.5], axis=0, method="inverted_cdf").T
    assert np.abs(found.to_numpy() - expected).max() < 0.001 * 3.5
    assert np.isnan(infl.pp.quantiles({"a": AnnData(np.array([[np.nan, 1.5], [np.nan, 2.5]]))}, [0.5]).iloc[0, 0])


def test_a_seal_and_one_object_change_nothing(pbmc_sites, pool, key):
    found = infl.pp.quantiles(pbmc_sites, [0.9])
    assert found.equals(infl.pp.quantiles(pbmc_sites, [0.9], key=key))
    assert found.equals(infl.pp.quantiles(pool(pbmc_sites), [0.9], site_key="site"))


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


@pytest.mark.parametrize(
    ("options", "line"),
    [({"q": [0]}, "q="), ({"q": [1.0]}, "q="), ({"q": []}, "q="), ({"width": 0}, "width="), ({"q": 0.5}, "q=")],
    ids=str,
)
def test_wrong_shares_are_one_line(pbmc_sites, options, line):
    with pytest.raises(InflError, match=line) as error:
        infl.pp.quantiles(pbmc_sites, **options)
    assert "\n" not in str(error.value)
