"""Curves of survival over sites: R's on the bins, whatever site a patient is at, and no bin about a few."""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import infl
from infl.errors import DataError, InflWarning
from infl.keys import Keyring
from infl.tl import survival
from infl.tl._times import enough

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "survival.json").read_text())
GRID = list(range(1, 8))


def patients(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"p{i}" for i in range(n)])


def dealt(obs: pd.DataFrame, where) -> dict[str, AnnData]:
    """Sites s0, s1 …, a patient at the site of its number."""
    where = np.asarray(where)
    return {f"s{i}": AnnData(obs=obs[where == i].copy(), shape=(int((where == i).sum()), 0)) for i in np.unique(where)}


def drawn(n: int, seed: int) -> pd.DataFrame:
    """Patients of two arms, of which one lives longer."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 2, n)
    lived, seen = rng.exponential(20 * (1 + arm)), rng.uniform(1, 60, n)
    return patients(
        months=np.minimum(lived, seen),
        died=lived <= seen,
        arm=np.array(["control", "treated"])[arm],
        x=rng.normal(size=n),
    )


@pytest.fixture
def of_r() -> pd.DataFrame:
    return patients(
        months=np.array(VECTOR["time"], float), died=np.array(VECTOR["event"], int), arm=np.array(VECTOR["arm"], int)
    )


def test_curves_and_test_are_those_of_r(of_r):
    sites = dealt(of_r, np.array(VECTOR["site"], int))
    found = survival(sites, "months", "died", "arm", grid=GRID, key=Keyring.create())
    for group, r in VECTOR["curves"].items():
        own = found.curves[found.curves.group == group]
        assert own.time.tolist() == r["time"]
        assert own.at_risk.tolist() == r["n"]
        for name in ("survival", "std_error", "lower", "upper", "hazard", "hazard_std_error"):
            known = np.array([np.nan if value is None else value for value in r[name]])
            np.testing.assert_allclose(own[name], known, rtol=1e-10)
    np.testing.assert_allclose(found.chi2, VECTOR["chi2"][0], rtol=1e-10)


def test_curves_are_those_of_lifelines_on_the_bins():
    """lifelines 0.30.3: KaplanMeierFitter().fit([1, 1, 2, 2, 3, 3] * 5, [1, 1, 0, 1, 1, 0] * 5), and NelsonAalenFitter."""
    obs = patients(t=[1, 1, 2, 2, 3, 3] * 5, e=[1, 1, 0, 1, 1, 0] * 5)
    found = survival(dealt(obs, np.arange(30) % 4), "t", "e", grid=[1, 2, 3]).curves
    np.testing.assert_allclose(found.survival, [2 / 3, 0.5, 0.25], rtol=1e-12)
    np.testing.assert_allclose(found.hazard, [1 / 3, 7 / 12, 13 / 12], rtol=1e-12)


@settings(max_examples=25)
@given(st.integers(6, 80), st.integers(0, 10**6), st.integers(1, 6))
def test_any_split_gives_the_pooled_answer(n, seed, n_sites):
    obs = drawn(n, seed)
    where = np.random.default_rng(seed).integers(0, n_sites, n)
    where[:2] = [7, 8]  # sites of one patient
    where[~obs.died & (where == 0)] = 9  # a site without events
    pooled = survival({"all": AnnData(obs=obs, shape=(n, 0))}, "months", "died").curves
    pd.testing.assert_frame_equal(survival(dealt(obs, where), "months", "died").curves, pooled)


def test_groups_that_a_site_lacks():
    obs = drawn(300, 1)
    where = np.where(obs.arm == "control", 0, 1)
    split, pooled = (survival(dealt(obs, to), "months", "died", "arm") for to in (where, np.zeros(300)))
    pd.testing.assert_frame_equal(split.curves, pooled.curves)
    assert split.chi2 == pooled.chi2


@settings(max_examples=25)
@given(st.integers(10, 200), st.integers(0, 10**6))
def test_no_bin_is_about_a_few(n, seed):
    obs = drawn(n, seed)
    if obs.arm.value_counts().reindex(["control", "treated"], fill_value=0).min() < 5:
        return
    table = survival(dealt(obs, np.arange(n) % 3), "months", "died", "arm").curves
    left = (table.events + table.censored).to_numpy().reshape(2, -1)
    assert enough(left).all()
    assert left.sum() == n
    assert table.time.is_monotonic_increasing or table.group.nunique() == 2


def test_one_object_and_seal_change_nothing():
    obs = drawn(120, 2)
    obs["hospital"] = np.array(["a", "b", "c"])[np.arange(120) % 3]
    whole = AnnData(obs=obs, shape=(120, 0))
    one = survival(whole, "months", "died", "arm", site_key="hospital", key=Keyring.create())
    many = survival(dealt(obs, np.arange(120) % 3), "months", "died", "arm")
    pd.testing.assert_frame_equal(one.curves, many.curves)
    assert one.median == many.median


def test_median_of_a_group_that_mostly_lives():
    obs = patients(t=[1.0] * 6 + [2.0] * 10, e=[1] * 6 + [0] * 10)
    assert survival(dealt(obs, np.zeros(16)), "t", "e", grid=[1, 2]).median["all"] == np.inf


def test_all_patients_of_all_sites_are_censored():
    obs = patients(t=np.arange(1.0, 31), e=np.zeros(30, int))
    assert (survival(dealt(obs, np.arange(30) % 3), "t", "e").curves.survival == 1).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"t": 0.0}, "time 't' must be above 0 and finite, and 1 of 15 are not, at s1"),
        ({"t": np.inf}, "must be above 0 and finite"),
        ({"t": np.nan}, "time 't' has no value for 1 of 15 observations at s1"),
        ({"e": 2}, "event 'e' must be 0 or 1, or truth values, and 1 of 15 are not, at s1"),
        ({"e": "yes"}, "event 'e' has words where numbers are due, at s1"),
    ],
    ids=str,
)
def test_wrong_times_and_events(change, said):
    obs = patients(t=np.arange(1.0, 31), e=np.ones(30, int)).astype(object)
    sites = dealt(obs, np.arange(30) % 2)
    for name, value in change.items():
        sites["s1"].obs.loc["p1", name] = value
    with pytest.raises(DataError, match="at s1") as error:
        survival(sites, "t", "e")
    assert said in str(error.value)
    assert "p1" not in str(error.value)  # no patient is named


def test_a_grid_in_another_unit_is_told_of():
    obs = drawn(60, 3)
    obs["days"] = obs["months"] * 30 + 1
    sites = dealt(obs, np.arange(60) % 3)
    for grid, said in (
        ([0.1, 0.5], r"all times at 's0', 's1', 's2' are later than grid= ends, 0.5"),
        ([1e5, 2e5], "in the first bin"),
    ):
        with pytest.warns(InflWarning, match=f"{said}.*: give grid= in the unit of 'days'"):
            survival(sites, "days", "died", grid=grid)
        with pytest.warns(InflWarning, match=said):
            infl.tl.cox(sites, "days", "died", "~ x", grid=grid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survival(sites, "days", "died", grid=[float(obs["days"].median()), 1e5])


def test_groups_that_tell_nothing():
    obs = drawn(40, 3).assign(one="x", few=["y"] * 3 + ["z"] * 37)
    for name, said in (("one", "one group only, 'x'"), ("few", "fewer than 5 patients over all sites in 'y'")):
        with pytest.raises(DataError, match=said):
            survival(dealt(obs, np.arange(40) % 2), "months", "died", name)


def test_column_that_is_not_there(khan_sites):
    with pytest.raises(DataError, match="time 'months' is missing in obs of site_1"):
        infl.tl.survival(khan_sites, "months", "died")
