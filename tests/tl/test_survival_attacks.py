"""What members of a consortium learn of a patient from the opened sums of one step: with bins, and, as a control, without.

They take curves apart into departures, and subtract adjacent risk sets.
"""

import numpy as np
import pytest
from scipy.optimize import least_squares

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


def opened(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """What steps, (steps, p), open of one bin whose patients have the covariates `x`, (n, p)."""
    hazards = np.exp(steps @ x.T)
    return np.concatenate([hazards.sum(axis=1), (hazards @ x).ravel()])


def solved(n: int, p: int, seed: int, distances: tuple[float, ...], starts: int) -> tuple[float, float]:
    """Share of a bin's patients whose covariates are found to a twentieth by solving what steps open, and by drawing with its moments.

    Steps have these distances from the coefficients, as a search has that ends there.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    steps = 0.5 / p**0.5 + np.array(distances)[:, None] * rng.normal(size=(len(distances), p))
    known = np.round(opened(x, steps) * 2**40) / 2**40

    def attempt() -> tuple[float, np.ndarray]:
        found = least_squares(
            lambda z: opened(z.reshape(n, p), steps) - known,
            rng.normal(size=n * p),
            **dict.fromkeys(("xtol", "ftol", "gtol"), 1e-15),
            max_nfev=100,
        )
        return found.cost, found.x.reshape(n, p)

    def share(guesses: np.ndarray) -> float:
        return float((np.abs(guesses[:, None] - x).max(axis=2).min(axis=0) < 0.05).mean())

    best = min((attempt() for _ in range(starts)), key=lambda one: one[0])[1]
    drawn = rng.normal(size=(50, n, p))
    drawn = (drawn - drawn.mean(axis=1, keepdims=True)) / drawn.std(axis=1, keepdims=True) * x.std(axis=0) + x.mean(
        axis=0
    )
    return share(best), float(np.mean([share(guesses) for guesses in drawn]))


FROM_ZERO = (0.5, 0.05, 0.01, 1e-3, 1e-5, 1e-9)  # six looks of a search that begins at 0
FROM_SITES = (0.05, 1e-3, 1e-6, 1e-10)  # the four that a search may take that begins where baselines by site end


@pytest.mark.parametrize("p", [1, 2])
def test_what_steps_open_of_a_bin_tells_of_it_no_more_than_its_moments_do(p):
    """As many departures as a bin has by default leave each covariate at chance; bins of five, looked at as often as needed, do not."""
    few = np.mean([solved(5, p, seed, FROM_ZERO, starts=10) for seed in range(8)], axis=0)
    assert few[0] > few[1] + 0.25  # the control
    bins = np.mean([solved(departures_of(p), p, seed, FROM_SITES, starts=3) for seed in range(8)], axis=0)
    assert bins[0] < bins[1] + 0.15


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
