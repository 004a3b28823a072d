"""What scVI is judged by, and what it is compared on."""

import numpy as np
import pytest
from anndata import AnnData
from scipy.stats import poisson
from tests.models.scvi.conftest import N_GENES, SMALL

import infl
from infl.models.scvi import Scvi

pytestmark = pytest.mark.needs("scvi")


def test_compare_has_the_bound_of_held_out_cells(hospitals: dict[str, AnnData]) -> None:
    methods = ["pooled", "infl", "infl_no_key", "baseline"]
    table = infl.tl.compare(hospitals, "scvi", seeds=1, rounds=60, methods=methods, **SMALL | {"lr": 2e-2})
    value = table[table["metric"] == "loss"].set_index("method")["mean"]
    assert abs(value["infl"] / value["pooled"] - 1) < 0.05
    assert value["infl"] < value["baseline"] < value["infl_no_key"]


def test_the_baseline_is_the_likelihood_of_counts_that_depth_alone_moves() -> None:
    rng = np.random.default_rng(0)
    rate = rng.gamma(1.0, 2.0, N_GENES) + 0.5
    cells = AnnData(rng.poisson(rate * rng.lognormal(0, 0.3, (400, 1))).astype(np.float32))
    panel = {"features": list(cells.var_names), "sites": ["a"], "covariates": {}}
    loss = Scvi().baseline(cells[:300], panel, seed=0)(cells[300:])["loss"]
    mean = cells.X[300:].sum(1, keepdims=True) * rate / rate.sum()
    assert loss.shape == (100,)
    assert loss.mean() == pytest.approx(-poisson.logpmf(cells.X[300:], mean).sum(1).mean(), rel=0.01)
