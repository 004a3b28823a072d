"""From the records of a comparison to its table."""

import numpy as np

from infl.tl._comparison import worst_site


def test_the_worst_site_has_the_largest_error_and_the_smallest_accuracy() -> None:
    by_seed = {0: [0.5, 0.9, float("nan")], 1: [0.7, 0.3, 0.4]}
    assert np.isclose(worst_site("accuracy", by_seed), (0.5 + 0.3) / 2)
    assert np.isclose(worst_site("calibration_error", by_seed), (0.9 + 0.7) / 2)
    assert np.isnan(worst_site("auroc", {0: [float("nan")]}))
