"""The temperature is the best of its grid."""

import numpy as np

from infl.sums.temperature import TEMPERATURES, temperature


def test_temperature_is_the_best_of_the_grid() -> None:
    nll = np.abs(np.log(TEMPERATURES) - np.log(2.0))
    assert temperature().combine({"nll": nll}, {})["temperature"] == TEMPERATURES[np.argmin(nll)]
    assert temperature().combine({"nll": np.zeros_like(nll)}, {})["temperature"] == 1.0
