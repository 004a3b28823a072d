"""What members of a consortium learn of a patient from the opened sums of one step: with bins, and, as a control, without.

They take curves apart into departures, and subtract adjacent risk sets. What several steps tell is in tests/benchmarks/test_cox.py.
"""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.errors import DataError
from infl.privacy import Disclosure, DisclosureRules
from infl.sums import run_sums
from infl.tl._cox import cox_sums
from infl.tl._cox_search import LOOKS, Search, departures_of, looks_of, risk_of
from infl.tl._cox_sums import Patients
from infl.tl._times import ends_of, grid_sums

N, P = 200, 3
MANY = 20


@pytest.fixture(scope="module")
def patients() -> Patients:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, P))
    lived, seen = rng.exponential(10 * np.exp(-0.5 * x[:, 0])), rng.uniform(1, 40, N)
    return Patients(np.minimum(lived, seen), lived <= seen, np.zeros(N, dtype=int), x)


def times_found(ends: np.ndarray, patients: Patients) -> float:
    """Share of patients who are alone in their bin, so that the curve's steps have their time."""
    bins = patients.bins(ends)
    return float((np.bincount(bins, minlength=len(ends))[bins] == 1).mean())


def covariates_found(ends: np.ndarray, patients: Patients, *, efron: bool) -> float:
    """Share of patients whose covariates are a difference of adjacent risk sets, or of what is opened of events."""
    bins = patients.bins(ends)
    risk = risk_of(bins, patients.event, patients.x, np.ones(N), len(ends))
    parts = [(risk.left, risk.left_x)]
    if efron:
        parts += [(risk.died, risk.died_x), (risk.left - risk.died, risk.left_x - risk.died_x)]
    found = np.zeros(N, dtype=bool)
    for n, x in parts:
        guesses = (x / np.maximum(n, 1e-12)[:, None])[bins]
        found |= np.abs(guesses - patients.x).max(axis=1) < 1e-6
    return float(found.mean())


@pytest.mark.parametrize("efron", [True, False])
def test_bins_hide_times_and_covariates_and_exact_times_do_not(patients, efron):
    exact = np.unique(patients.time)
    assert times_found(exact, patients) == 1
    assert covariates_found(exact, patients, efron=efron) == 1
    state = run_sums(grid_sums(1, by_event=efron), {"all": patients}, None)
    ends = ends_of(state)
    assert len(ends) >= 5
    assert times_found(ends, patients) == 0
    assert covariates_found(ends, patients, efron=efron) == 0


def test_bins_that_do_not_look_at_events_would_tell_of_them_with_efron(patients):
    """Why bins for Efron's ties have many events and many others: the rule for Breslow's does not do."""
    ends = ends_of(run_sums(grid_sums(1, by_event=False), {"all": patients}, None))
    assert covariates_found(ends, patients, efron=False) == 0
    assert covariates_found(ends, patients, efron=True) > 0.01


@pytest.mark.parametrize("p", [1, 3, 20])
@pytest.mark.parametrize("efron", [True, False])
def test_of_a_bin_half_as_many_numbers_are_opened_as_it_has_values(p, efron):
    """By default; and where a number of departures is given, no look more than that allows, or four."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, p))
    lived, seen = rng.exponential(10 * np.exp(-2 * x[:, 0])), rng.uniform(1, 40, 600)
    patients = Patients(np.minimum(lived, seen), lived <= seen, np.zeros(600, dtype=int), x)
    names = [f"x{j}" for j in range(p)]
    for least in (None, 60):
        state = run_sums(
            cox_sums(names, efron=efron, stratified=False, penalty=0.0, least=least), {"all": patients}, None
        )
        search: Search = state["search"]
        assert search.looks <= looks_of(least or departures_of(p), p)
        bins = patients.bins(ends_of(state))
        for kind in [patients.event, ~patients.event] if efron else [np.ones(600, dtype=bool)]:
            counts = np.bincount(bins[kind])
            assert (search.looks * (1 + p) <= counts[counts > 0] * p / 2 + 1e-9).all()
    assert looks_of(5, p) == LOOKS


@pytest.mark.parametrize("efron", [True, False])
def test_bins_of_a_regression_have_as_many_departures_of_a_kind_as_asked(patients, efron):
    state = run_sums(
        cox_sums(["x"], efron=efron, stratified=False, penalty=0.0, least=MANY)[:2], {"all": patients}, None
    )
    bins = patients.bins(ends_of(state))
    kinds = [patients.event, ~patients.event] if efron else [np.ones(N, dtype=bool)]
    counts = np.array([np.bincount(bins[kind], minlength=len(ends_of(state))) for kind in kinds])
    assert ((counts == 0) | (counts >= MANY)).all() and (efron or counts.shape[1] > 1)


def alone_between_ends(sites: dict[str, AnnData], curves: list[pd.DataFrame]) -> float:
    """Share of patients who are with fewer than k of their site between two ends of bins, of any question, with as they left."""
    opened = [table["time"][table["at_risk"].notna()] for table in curves]
    ends, found = (
        np.unique(np.concatenate([of[:-1] for of in opened])),
        [],
    )  # who leaves after the last end is in the last bin
    for adata in sites.values():
        for died in (False, True):
            bins = np.searchsorted(ends, adata.obs["months"][adata.obs["died"] == died])
            found.append(np.bincount(bins)[bins] < DisclosureRules().k)
    return float(np.concatenate(found).mean())


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_curves_on_many_grids_do_not_tell_who_left_between_their_ends(
    monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    """Each curve alone has k departures of each kind in a bin; without a register, their ends together have not."""
    rng, sites = np.random.default_rng(0), {}
    for site in "abc":
        lived, seen = rng.exponential(20, 80), rng.uniform(5, 60, 80)
        obs = pd.DataFrame({"months": np.minimum(lived, seen), "died": lived <= seen})
        sites[site] = AnnData(obs=obs.set_axis([f"{site}{i}" for i in range(80)]))
    if not on:
        monkeypatch.setattr("infl.privacy.register.judging._split", lambda records, chosen, atom, k: atom)
    curves = []
    with Disclosure(DisclosureRules(features_per_record=np.inf, records_per_parameter=0)):
        for shift in np.arange(0, 8, 0.5):
            try:
                curves.append(
                    infl.tl.survival(sites, "months", "died", grid=(shift + np.arange(1, 9) * 6).tolist()).curves
                )
            except DataError as error:
                assert "rules of disclosure" in str(error)
    assert len(curves[0]) > 1 and alone_between_ends(sites, curves[:1]) == 0
    told = alone_between_ends(sites, curves)
    assert told == 0 if on else told > 0.1, told
