"""Quantiles are numpy's within the stated width, and missing values are filled by them or by means."""

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.pp.conftest import KINDS, split, with_gaps

import infl
from infl.errors import InflError


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


@pytest.mark.parametrize(
    ("options", "line"),
    [({"q": [0]}, "q="), ({"q": [1.0]}, "q="), ({"q": []}, "q="), ({"width": 0}, "width="), ({"q": 0.5}, "q=")],
    ids=str,
)
def test_wrong_shares_are_one_line(pbmc_sites, options, line):
    with pytest.raises(InflError, match=line) as error:
        infl.pp.quantiles(pbmc_sites, **options)
    assert "\n" not in str(error.value)
