"""DESeq2 over sites finds what PyDESeq2 and R's DESeq2 find; ``tests/vectors/deseq2.py`` and ``deseq2.R`` wrote their answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import infl
from infl.errors import DataError, InflWarning
from infl.keys import Keyring
from infl.tl._deseq2 import dispersion_trend
from infl.tl._deseq2_sums import likelihood_slope
from infl.tl._roots import Search

VECTORS = Path(__file__).parents[1] / "vectors"
DATA = json.loads((VECTORS / "deseq2.json").read_text())
R = json.loads((VECTORS / "deseq2_r.json").read_text())
DESIGNS = {"condition": "~ condition", "site": "~ condition + site", "age": "~ condition + age + site"}


def cohort(n_vars: int = 800) -> AnnData:
    x = np.array(DATA["counts"], dtype=float).T[:, :n_vars]
    condition = pd.Categorical(DATA["condition"], categories=["control", "case"])
    obs = pd.DataFrame(
        {"condition": condition, "age": DATA["age"], "site": DATA["site"]}, index=[f"s{i}" for i in range(len(x))]
    )
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(n_vars)]))


def split(adata: AnnData, codes: Any) -> dict[str, AnnData]:
    return {str(code): adata[np.asarray(codes) == code].copy() for code in np.unique(codes)}


def differing(sites: dict[str, AnnData], design: str = DESIGNS["site"], **options: Any) -> pd.DataFrame:
    table = infl.tl.de(sites, design, method="deseq2", site_effects=False, **options).set_index("variable")
    return table.loc[[f"g{j}" for j in range(len(table))]]


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return {name: differing(split(cohort(), DATA["site"]), design) for name, design in DESIGNS.items()}


@pytest.mark.parametrize("name", DESIGNS)
def test_as_pydeseq2_on_the_pooled_samples(tables, name):
    found, want = tables[name], {n: np.array(v, dtype=float) for n, v in DATA["pydeseq2"][name].items()}
    unknown = np.isnan(want["log_fc"])
    np.testing.assert_array_equal(np.isnan(found["log_fc"]), unknown)
    far = np.abs(found["log_fc"] - want["log_fc"])[~unknown]
    assert (far <= 1e-3).mean() >= 0.99
    np.testing.assert_allclose(found["mean"], want["mean"], rtol=1e-7)
    assert np.nanquantile(np.abs(np.log(found["dispersion"] / want["dispersion"])), 0.99) < 0.01
    assert np.nanquantile(np.abs(found["se"] / want["se"] - 1), 0.99) < 0.01
    ours, theirs = ({int(i) for i in np.flatnonzero(p < 0.05)} for p in (found["adj_p_value"], want["adj_p"]))
    assert len(ours) > 40 and len(ours & theirs) >= 0.98 * len(ours | theirs)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_list_at_five_percent_is_rs(tables, name):
    ours, theirs = (
        set(np.flatnonzero(np.asarray(p, dtype=float) < 0.05)) for p in (tables[name]["adj_p_value"], R[name]["adj_p"])
    )
    assert len(ours & theirs) >= 0.98 * len(ours | theirs)


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=26, max_size=26))
def test_any_split_gives_the_pooled_answer(codes):
    """Sites of one sample, and sites without cases."""
    small = cohort(200)
    found, want = differing(split(small, codes)), differing({"all": small})
    far = np.abs(found["log_fc"] - want["log_fc"])
    assert (far.isna() == want["log_fc"].isna()).all() and (far.dropna() <= 1e-4).mean() >= 0.99
    np.testing.assert_allclose(np.nanmedian(np.abs(found["t_value"] - want["t_value"])), 0, atol=1e-4)


def test_sealed_and_written_at_every_site():
    sites = split(cohort(120), DATA["site"])
    table = infl.tl.de(sites, "~ condition", method="deseq2", key=Keyring.create())
    written = sites["b"].uns["infl_de"]
    pd.testing.assert_frame_equal(written["table"], table)
    assert written["params"]["design"] == "~ condition + site" and written["params"]["method"] == "deseq2"
    assert table["p_value"].is_monotonic_increasing or table["p_value"].isna().any()


def test_equations_are_of_the_condition_alone(monkeypatch):
    """With a level for each site, nothing that is sent has a row for a site."""
    shapes = {}
    added = infl.sums.over_sites._added

    def seen(parts: Any, sites: Any, packing: Any, purpose: str, *args: Any) -> Any:
        parts = list(parts)
        shapes[purpose] = {name: np.shape(value) for name, value in dict(parts)["b"].items()}
        return added(iter(parts), sites, packing, purpose, *args)

    monkeypatch.setattr("infl.sums.over_sites._added", seen)
    differing(split(cohort(120), DATA["site"]))
    assert shapes["deseq2: coefficients"] == {"xx": (1, 120), "xy": (1, 120)}  # the condition alone


def test_counts_that_have_no_size_factors():
    sites = split(cohort(30), DATA["site"])
    for adata in sites.values():
        adata.X[np.arange(adata.n_obs), :] *= np.arange(adata.n_obs)[:, None] > 0
    with pytest.raises(DataError, match=r"every feature has a count of 0 in some sample, .* take method='voom'"):
        infl.tl.de(sites, "~ condition", method="deseq2")
    with pytest.raises(DataError, match=r"has logarithms, and 'deseq2' is for raw counts: give the layer with them"):
        sites = split(cohort(30), DATA["site"])
        infl.pp.log1p(sites)
        infl.tl.de(sites, "~ condition", method="deseq2")


@pytest.mark.parametrize("method", ["deseq2", "voom"])
def test_a_single_negative_count_is_refused_before_any_sum(method: str, monkeypatch: pytest.MonkeyPatch):
    sites = split(cohort(30), DATA["site"])
    first = next(iter(sites))
    sites[first].X[0, 0] = -1
    monkeypatch.setattr("infl.sums.over_sites._added", lambda *a, **k: pytest.fail("a sum was formed"))
    with pytest.raises(
        DataError, match=rf"X of {first} has negative values, and '{method}' is for counts: give the layer"
    ):
        infl.tl.de(sites, "~ condition", method=method)


def test_the_slope_is_that_of_the_likelihood():
    y, mean, logs, step = np.array([[0.0, 3], [4, 9], [17, 2]]), np.full((3, 2), 6.0), np.log([0.3, 2.0]), 1e-5

    def likelihood(log_alpha: np.ndarray) -> np.ndarray:
        r = np.exp(-log_alpha)
        return stats.nbinom.logpmf(y, r, r / (r + mean)).sum(axis=0)

    numeric = (likelihood(logs + step) - likelihood(logs - step)) / (2 * step)
    np.testing.assert_allclose(likelihood_slope(y, mean, np.exp(logs)), numeric, rtol=1e-6)


def test_a_search_finds_roots_and_ends():
    roots = np.array([-3.0, 0.001, 2.5, -20.0, 20.0])
    search = Search.between(np.full(5, -10.0), np.full(5, 10.0))
    while not search.ended:
        search = search.after(special.expit(-(search.at - roots)) - 0.5)
    np.testing.assert_allclose(search.found, [-3, 0.001, 2.5, -10, 10], atol=1e-4)
    assert search.n < 25


def test_dispersions_that_follow_no_curve():
    mean = np.geomspace(1, 1e4, 60)
    with pytest.warns(InflWarning, match="dispersions follow no curve of the mean"):
        found = dispersion_trend(mean, mean / 1e4)
    assert len(np.unique(found)) == 1
