"""Counts as targets: rates are learned, intervals hold what they promise, and what is no count is refused in one line."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import poisson

import infl
from infl.errors import DataError
from infl.models import Regressor
from infl.models.regressor.counts import deviances, ends, rates

LINEAR = {"width": 0, "optimiser": "sgd", "lr": 0.5, "rounds": 30, "progress": False, "objective": "counts"}


@pytest.fixture
def sites() -> dict[str, ad.AnnData]:
    """Four hospitals; numbers of days follow from two features of six, and of another count a third is not known."""
    rng, made = np.random.default_rng(0), {}
    for number in range(4):
        x = rng.normal(1, 2, size=(100, 6)).astype(np.float32)
        rate = np.exp(1.5 + 0.4 * (x[:, 0] - 1) - 0.2 * (x[:, 3] - 1))
        falls = np.where(rng.random(100) < 0.3, np.nan, rng.poisson(2.0, 100))
        obs = pd.DataFrame(
            {"days": rng.poisson(rate), "falls": falls, "rate": rate}, [f"{number}_{i}" for i in range(100)]
        )
        made[f"site_{number + 1}"] = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene_{j}" for j in range(6)]))
    return made


def test_rates_are_those_of_a_regression_in_one_place(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regressor", target="days", **LINEAR)
    obs = pd.concat([adata.obs for adata in sites.values()])
    assert (obs["infl_prediction"] > 0).all() and (obs["infl_low"] >= 0).all()
    error = np.log(obs["infl_prediction"] / obs["rate"])
    assert error.abs().mean() < 0.1
    inside = ((obs["infl_low"] <= obs["days"]) & (obs["days"] <= obs["infl_high"])).mean()
    assert 0.85 < inside < 0.97
    width = obs["infl_high"] - obs["infl_low"]
    large = obs["rate"] > obs["rate"].quantile(0.9)
    assert width[large].mean() > 1.5 * width[obs["rate"] < obs["rate"].quantile(0.1)].mean()
    assert run.history["val_r2"].iloc[-1] > 0.5


def test_of_several_counts_some_are_not_known(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regressor", target=["days", "falls"], **LINEAR | {"rounds": 5})
    assert np.isfinite(run.history["val_loss"]).all()
    assert np.isfinite(sites["site_1"].obs["infl_prediction_falls"]).all()
    scores = infl.tl.site_metrics(run, sites)
    assert len(scores)


@pytest.mark.parametrize(("value", "n"), [(-1.0, 3), (2.5, 2)])
def test_what_is_no_count_is_refused_and_counted(sites: dict[str, ad.AnnData], value: float, n: int) -> None:
    sites["site_2"].obs["days"] = np.where(np.arange(100) < n, value, sites["site_2"].obs["days"])
    with pytest.raises(
        DataError, match=f"'days' is no count .* for {n} of 100 observations at site_2: correct them, or"
    ):
        infl.tl.fit_federated(sites, "regressor", target="days", **LINEAR)


def test_a_gap_has_no_gradient() -> None:
    module = Regressor(target=("a", "b"), objective="counts", width=0).build({"features": ["x"], "targets": ["a", "b"]})
    outputs = torch.zeros(2, 2, requires_grad=True)
    truth = torch.tensor([[3.0, torch.nan], [0.0, 2.0]], dtype=torch.float64)
    Regressor(target=("a", "b"), objective="counts").losses_of(module, outputs, truth).sum().backward()
    assert outputs.grad is not None and outputs.grad.tolist() == [[-2.0, 0.0], [0.5, -0.5]]


def test_deviance_is_the_likelihood_of_a_poisson_count() -> None:
    y, mean = torch.tensor([0.0, 3.0, 7.0]), torch.tensor(2.0)
    outputs = torch.tensor([-1.0, 0.5, 1.0])
    rate = rates(outputs, mean).numpy()
    found = mean.item() * deviances(outputs, y, mean).numpy() - y.numpy() * np.log(mean.item())
    rest = -poisson.logpmf(y.numpy(), y.numpy().clip(1e-12)) - (y.numpy() - y.numpy() * np.log(y.numpy().clip(1e-12)))
    np.testing.assert_allclose(found, -poisson.logpmf(y.numpy(), rate) - rest, rtol=1e-4, atol=1e-4)
    low, high = ends(torch.tensor(0.25), torch.tensor(3.0))
    assert low == 0 and high == 4
