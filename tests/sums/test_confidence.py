"""Thresholds of confidence: what share lies below them, whatever the sites are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.sums.confidence import LEVELS, confidence_cells, error_above, threshold_of


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.floats(-1, 4), st.floats(0.5, 2.5)
)  # hardly any are cut off below
def test_the_wanted_share_lies_below_the_threshold(seed: int, share: float, center: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(center, spread, 4000).clip(-5.9, 15.9)))
    cells = confidence_cells(p, rng.random(4000) < p)
    below = p < threshold_of(cells, share)
    assert abs(below.mean() - share) < 0.02
    wrong_above = cells[1:, 0].sum() - cells[1:, 1].sum()
    assert 0 <= error_above(cells, threshold_of(cells, share)) <= wrong_above / (~below).sum() + 0.02


def test_cells_of_sites_add_up() -> None:
    p, right = np.array([0.2, 0.9, 1.0, 0.7]), np.array([0, 1, 1, 0])
    apart = confidence_cells(p[:2], right[:2]) + confidence_cells(p[2:], right[2:])
    np.testing.assert_array_equal(apart, confidence_cells(p, right))


def test_records_that_all_look_alike_are_kept_together() -> None:
    sure = confidence_cells(np.ones(50), np.ones(50))
    assert sure[-1].tolist() == [50, 50]
    threshold = threshold_of(sure, 0.2)
    assert threshold == 1 / (1 + np.exp(-LEVELS[-1])) < 1.0  # nothing can be told apart, so nothing is left out
    assert error_above(sure, threshold) == 0.0
    assert np.isnan(error_above(confidence_cells(np.full(3, 0.5), np.ones(3)), 0.9))


@pytest.mark.parametrize("n", [7, 14, 19, 21, 23])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_few_records_give_new_ones_the_chance_that_was_asked(n: int, share: float) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        p = 1 / (1 + np.exp(-rng.uniform(-1, 9, n + 50)))
        found.append((p[n:] < threshold_of(confidence_cells(p[:n], p[:n] > 0), share)).mean())
    assert abs(np.mean(found) - share) < 0.01


def test_a_share_that_is_finer_than_the_records_leaves_out_what_is_below_all_or_above_all() -> None:
    cells = confidence_cells(np.array([0.6, 0.9]), np.ones(2))
    low, high = threshold_of(cells, 0.01), threshold_of(cells, 0.99)
    assert abs(low - 0.6) < 0.02
    assert abs(high - 0.9) < 0.02
