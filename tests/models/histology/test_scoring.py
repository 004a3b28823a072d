"""What the histology model is judged by, and what it is compared on."""

import warnings

import numpy as np
import pytest

import infl
from infl.errors import InflWarning
from infl.models.histology import Histology
from infl.models.histology.scoring import pearson


def test_the_network_counts_for_what_it_surely_adds():
    def share(gains, rooms):
        g, r = np.array(gains, float), np.array(rooms, float)
        moments = np.array([len(g), g.sum(), r.sum(), (g * g).sum(), (g * r).sum(), (r * r).sum()])
        helps = Histology().after({"features": []})[0]
        return float(helps.combine({"moments": moments}, {})["share"])

    assert share([0.5, 0.5, 0.5], [1, 1, 1]) == pytest.approx(0.5)
    assert share([1.5, 0.0, 0.0], [1, 1, 1]) < 0.1
    assert share([-1, -1], [1, 1]) == 0 == share([0, 0], [0, 0])


def test_correlation_of_sums_is_that_of_values():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 3))
    b[:, 2] = 1.0
    da, db = a - a.mean(0), b - b.mean(0)
    found = pearson({"guess": (da**2).sum(0), "truth": (db**2).sum(0), "both": (da * db).sum(0)})
    np.testing.assert_allclose(found, [*(np.corrcoef(a[:, j], b[:, j])[0, 1] for j in (0, 1)), 0.0])


def test_compare_knows_the_task(sites):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        table = infl.tl.compare(
            sites, "histology", seeds=1, rounds=2, holdout="site", methods=["infl", "pooled", "baseline"], progress=False,
            section_key="section",
        )  # fmt: skip
    value = table[table["metric"] == "pearson"].set_index("method")["mean"]
    assert value["infl"] > 0.3 and abs(value["infl"] - value["pooled"]) < 0.05 and value["baseline"] > 0.1
