"""What members of a consortium learn of a patient from the sums that several steps of Cox regression open of a bin."""

import numpy as np
import pytest

from _bins import FROM_SITES, FROM_ZERO, solved
from infl.tl._cox_search import departures_of


@pytest.mark.parametrize("p", [1, pytest.param(2, marks=pytest.mark.long)])
def test_what_steps_open_of_a_bin_tells_of_it_no_more_than_its_moments_do(p):
    """As many departures as a bin has by default leave each covariate at chance; bins of five, looked at as often as needed, do not."""
    few = np.mean([solved(5, p, seed, FROM_ZERO, starts=10) for seed in range(8)], axis=0)
    assert few[0] > few[1] + 0.25  # the control
    bins = np.mean([solved(departures_of(p), p, seed, FROM_SITES, starts=3) for seed in range(8)], axis=0)
    assert bins[0] < bins[1] + 0.15
