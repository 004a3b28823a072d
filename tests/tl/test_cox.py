"""Cox regression over sites: R's coxph on the bins, whatever site a patient is at."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import infl
from infl.errors import DataError, SettingsError
from infl.keys import Keyring
from infl.sums.concordance import concordance_of_pairs, ordered_pairs
from infl.tl import cox

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "survival.json").read_text())
GRID = list(range(1, 8))


def dealt(obs: pd.DataFrame, where) -> dict[str, AnnData]:
    where = np.asarray(where)
    return {f"s{i}": AnnData(obs=obs[where == i].copy(), shape=(int((where == i).sum()), 0)) for i in np.unique(where)}


@pytest.fixture
def patients() -> pd.DataFrame:
    names = ("x", "age", "arm", "site", "time", "event")
    obs = pd.DataFrame({name: np.array(VECTOR[name], float) for name in names}).rename(columns={"site": "hospital"})
    return obs.set_axis([f"p{i}" for i in range(len(obs))])


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("n_sites", [1, 4])
def test_coefficients_and_errors_are_those_of_r(patients, ties, n_sites):
    known = VECTOR[ties]
    where = patients.hospital if n_sites == 4 else np.zeros(len(patients))
    found = cox(
        dealt(patients, where),
        "time",
        "event",
        "~ x + age + arm",
        ties=ties,
        grid=GRID,
        min_departures=5,
        key=Keyring.create(),
    )
    np.testing.assert_allclose(found.table.coefficient, known["coefficient"], rtol=1e-6)
    np.testing.assert_allclose(found.table.std_error, known["std_error"], rtol=1e-6)
    np.testing.assert_allclose([found.null_log_likelihood, found.log_likelihood], known["log_likelihood"], rtol=1e-8)
    assert found.baseline.time.tolist() == GRID
    np.testing.assert_allclose(found.baseline.hazard, known["hazard"], rtol=1e-6)
    low, high = found.concordance_bounds
    assert low < known["concordance"][0] < high
    np.testing.assert_allclose(found.concordance, known["concordance"], atol=0.02)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_strata_by_site_are_those_of_r(patients, ties):
    found = cox(dealt(patients, patients.hospital), "time", "event", "~ x + age + arm", ties=ties, strata="site")
    np.testing.assert_allclose(found.table.coefficient, VECTOR[ties]["stratified"], rtol=1e-6)
    np.testing.assert_allclose(found.table.std_error, VECTOR[ties]["stratified_std_error"], rtol=1e-6)
    assert found.baseline is None
    assert found.n_events == patients.event.sum()
    np.testing.assert_allclose(found.concordance, VECTOR[ties]["stratified_concordance"], rtol=1e-9)
    assert found.concordance_bounds == (found.concordance, found.concordance)


def test_pairs_of_sites_without_an_order_have_no_concordance():
    assert np.isnan(concordance_of_pairs(np.zeros(3))).all()
    counted = ordered_pairs(np.array([3.0, 1, 2, 2]), np.array([True, True, True, True]), np.array([0.0, 3, 1, 1]))
    assert counted.tolist() == [5, 0, 5]  # two events at one time are in no order


def test_ridge_is_that_of_r(patients):
    found = cox(
        dealt(patients, patients.hospital), "time", "event", "~ x + age + arm", grid=GRID, min_departures=5, penalty=3
    )
    np.testing.assert_allclose(found.table.coefficient, VECTOR["ridge"], rtol=1e-6)


def drawn(n: int, seed: int, p: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(rng.normal(size=(n, p)), columns=[f"x{j}" for j in range(p)], index=[f"p{i}" for i in range(n)])
    lived, seen = rng.exponential(10 * np.exp(-0.5 * obs.x0)), rng.uniform(1, 40, n)
    return obs.assign(months=np.minimum(lived, seen), died=lived <= seen)


@pytest.mark.filterwarnings("ignore:cox. bins of time are few:infl.errors.InflWarning")
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from(["efron", "breslow"]))
@settings(max_examples=10)
def test_any_split_gives_the_pooled_answer(seed, n_sites, ties):
    obs = drawn(150, seed)
    where = np.random.default_rng(seed).integers(0, n_sites, len(obs))
    where[:2] = [97, 98]  # sites of one patient
    where[~obs.died & (where == 0)] = 99  # a site without events
    pooled, split = (
        cox(dealt(obs, to), "months", "died", "~ x0 + x1 + x2", ties=ties) for to in (np.zeros(150), where)
    )
    pd.testing.assert_frame_equal(split.table, pooled.table, rtol=1e-7)
    pd.testing.assert_frame_equal(split.baseline, pooled.baseline, rtol=1e-7)
    assert split.concordance_bounds == pooled.concordance_bounds


@pytest.mark.filterwarnings("ignore:cox. bins of time are few:infl.errors.InflWarning")
def test_ridge_takes_more_covariates_than_patients():
    obs = drawn(40, 1, p=60)
    found = cox(
        dealt(obs, np.arange(40) % 3),
        "months",
        "died",
        " + ".join(obs.columns[:60]),
        ties="breslow",
        penalty=5,
        min_departures=20,
    )
    assert np.isfinite(found.table.to_numpy()).all()
    assert found.table.coefficient.x0 > 0


def test_few_bins_that_move_a_coefficient_are_said_and_many_are_near_exact_times():
    obs = drawn(200, 4)
    with pytest.warns(
        infl.errors.InflWarning, match=r"bins of time are few .\d+., so 'x0' is far from where exact times"
    ):
        cox(dealt(obs, np.arange(200) % 3), "months", "died", "~ x0")
    obs = drawn(3000, 4)
    exact = cox(dealt(obs, np.zeros(3000)), "months", "died", "~ x0 + x1", strata="site").table
    found = cox(dealt(obs, np.arange(3000) % 3), "months", "died", "~ x0 + x1").table
    assert (np.abs(found.coefficient - exact.coefficient) < 0.5 * exact.std_error).all()


@pytest.mark.filterwarnings("ignore:cox. bins of time are few:infl.errors.InflWarning")
def test_what_to_do_where_looks_at_bins_end_too_soon():
    obs = drawn(80, 3)
    obs.months = np.exp(-1.5 * obs.x0) * np.random.default_rng(3).exponential(10, 80)
    with pytest.warns(
        infl.errors.InflWarning, match="not come to a stand; .* larger min_departures=, which allows more looks"
    ):
        cox(dealt(obs, np.arange(80) % 3), "months", "died", "~ x0 + x1")


def test_steps_that_lead_too_far_are_halved():
    obs = drawn(80, 2)
    obs.x0 = obs.x0**9  # a few patients have all the weight
    found = cox(dealt(obs, np.arange(80) % 3), "months", "died", "~ x0", strata="site")
    assert found.log_likelihood >= found.null_log_likelihood


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        ({"died": 0}, {}, DataError, "fewer than 5 events over all sites"),
        ({"died": 0}, {"strata": "site"}, DataError, "fewer than 5 events over all sites"),
        ({"x0": "at the site"}, {"strata": "site"}, DataError, "a term is constant among those at risk: 'x0'"),
        ({}, {"strata": "site", "formula": "~ x0 + site"}, SettingsError, "a term for the site tells nothing"),
        ({}, {"formula": "~ x0 - 1"}, SettingsError, "without - 1"),
        ({"x0": "died"}, {"ties": "breslow"}, DataError, "without error: 'x0'"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted(change, options, error, said):
    obs = drawn(90, 3)
    where = np.arange(90) % 3
    for name, value in change.items():
        obs[name] = {"at the site": where, "died": obs.died.astype(float)}.get(value, value)
    options = {"formula": "~ x0"} | options
    with pytest.raises(error) as found:
        cox(dealt(obs, where), "months", "died", **options)
    assert said in str(found.value)
