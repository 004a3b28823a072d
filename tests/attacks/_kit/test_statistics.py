"""Intervals, correlations, and the fair choice among variants."""

import numpy as np
import pytest

from infl.attacks._kit.statistics import correlation, cross_chosen, interval, most_chosen, rank_correlation, trials_for


def test_interval_is_students() -> None:
    ends = interval([1.0, 2.0, 3.0])
    assert ends["value"] == 2
    assert ends["high"] - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)  # t of 0.975 with two degrees of freedom
    assert interval([0.3])["low"] == interval([0.3])["high"] == 0.3


def test_trials_that_it_takes_are_worked_out_by_hand() -> None:
    spread = 0.26 * 6**0.5 / 2.5706
    n = trials_for(6, 0.26, 0.15)
    half = {k: interval(np.linspace(-1, 1, k) * spread / np.linspace(-1, 1, k).std(ddof=1))["high"] for k in (n - 1, n)}
    assert half[n] <= 0.15 < half[n - 1]
    assert trials_for(6, 0.1, 0.15) == 6


def test_choice_on_half_of_the_trials_is_not_flattered_by_luck() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(size=(300, 20, 10))  # of twenty variants, none of which is better
    assert np.mean([v.mean(1).max() for v in luck]) > 0.5
    assert abs(np.mean([cross_chosen(v)[0].mean() for v in luck])) < 0.05
    better = luck + np.eye(20)[7][:, None] * 3
    taken, chosen = cross_chosen(better[0])
    assert set(chosen) == {7}
    np.testing.assert_array_equal(taken, better[0][7])
    assert most_chosen(["a", "b"], [1, 1, 0]) == "b"


def test_one_trial_leaves_no_choice() -> None:
    taken, chosen = cross_chosen(np.array([[0.1], [0.4]]))
    assert (taken.tolist(), chosen) == ([0.4], [1])


def test_correlations() -> None:
    assert correlation(np.ones(5), np.arange(5)) == 0
    assert correlation(np.arange(5), -np.arange(5)) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 10.0, 100.0, np.nan]), np.array([1.0, 2.0, 3.0, 0.0])) == pytest.approx(1)
