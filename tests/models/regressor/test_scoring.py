"""Metrics of numbers by sums, intervals that hold what they promise, and ridge regression from sums of products."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from infl.models.regressor.ridge import ridge
from infl.models.regressor.scoring import MARGINS, losses_of, margin_sum, metrics_of, parts, rank_correlation, sums_of


@given(seed=st.integers(0, 1000), cut=st.integers(0, 40))
def test_metrics_of_sums_are_those_of_the_pooled_records(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(40, 2))
    z[rng.random(z.shape) < 0.2] = np.nan
    guess = np.nan_to_num(z) + rng.normal(size=z.shape)
    losses = rng.random(40)
    sites = [sums_of(guess[part], z[part], losses[part]) for part in (slice(cut), slice(cut, None))]
    found = metrics_of({name: sites[0][name] + sites[1][name] for name in sites[0]})
    r2 = []
    for truth, said in zip(z.T, guess.T, strict=True):
        known = np.isfinite(truth)
        r2.append(1 - ((truth - said)[known] ** 2).sum() / ((truth[known] - truth[known].mean()) ** 2).sum())
    assert found["r2"] == pytest.approx(np.mean(r2))
    assert found["loss"] == pytest.approx(losses.mean())


def test_rank_correlation_of_counts_is_near_that_of_ranks() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 1))
    for known in (0.2, 0.5, 0.9):  # a prediction that is the mean of what can be, of narrower spread than the truth
        guess = known * (known * z + (1 - known**2) ** 0.5 * rng.normal(size=z.shape))
        cells = sums_of(guess, z, np.zeros(4000))["ranks"][0]
        assert rank_correlation(cells) == pytest.approx(stats.spearmanr(z, guess)[0], abs=0.03)


@given(seed=st.integers(0, 100), level=st.sampled_from([0.5, 0.8, 0.9]), n=st.integers(20, 60))
def test_an_interval_holds_its_share_of_validation_records(seed: int, level: float, n: int) -> None:
    distance = np.random.default_rng(seed).normal(size=(n, 1))
    cells = np.zeros((1, len(MARGINS) + 1))
    np.add.at(cells, (0, np.searchsorted(MARGINS, distance[:, 0])), 1)
    margin = margin_sum(1, level).combine({"distances": cells}, {})["margin"][0]
    rank = int(np.ceil((n + 1) * level))
    exact = np.sort(distance[:, 0])[min(rank, n) - 1]
    assert exact <= margin <= exact + 0.0201
    assert np.isnan(margin_sum(1, level).combine({"distances": 0 * cells}, {})["margin"][0])


def test_ends_of_an_interval_never_cross_and_are_quantiles() -> None:
    y = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, 1))).float()
    head = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([head], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        losses_of(head.expand(2000, 3), y, "quantile", 0.8).mean().backward()
        optimiser.step()
    middle, low, high = (part.item() for part in parts(head.detach()[None], 1))
    assert low < middle < high
    assert ((low <= y) & (y <= high)).float().mean().item() == pytest.approx(0.8, abs=0.02)


def test_outliers_move_a_robust_loss_less() -> None:
    far = torch.tensor([[10.0]])
    at = torch.zeros(1, 1)
    assert losses_of(at, far, "huber", 0.9).item() == pytest.approx(9.5)
    assert losses_of(at, far, "gaussian", 0.9).item() == pytest.approx(50.0)
    assert losses_of(at, torch.tensor([[torch.nan]]), "gaussian", 0.9).item() == 0


@pytest.mark.parametrize("shape", [(80, 5), (20, 60)])
def test_ridge_follows_from_sums_of_products(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    y = x[:, :1] * 2 + rng.normal(size=(len(x), 1)) + 7
    halves = [slice(None, len(x) // 3), slice(len(x) // 3, None)]
    n, mean = len(x), sum(x[half].sum(0) for half in halves) / len(x)
    deviation = np.sqrt(sum((x[half] ** 2).sum(0) for half in halves) / n - mean**2)
    gram = sum(((x[half] - mean) / deviation).T @ ((x[half] - mean) / deviation) for half in halves)
    cross = sum(((x[half] - mean) / deviation).T @ (y[half, 0] - y.mean()) for half in halves)
    new = rng.normal(size=(10, shape[1]))
    found = ridge(x, y)(new)[:, 0]
    penalties = np.geomspace(1e-3, 1e5, 49) * np.trace(gram) / n
    by_sums = [
        y.mean() + (new - mean) / deviation @ np.linalg.solve(gram + p * np.eye(len(gram)), cross) for p in penalties
    ]
    assert min(np.abs(guess - found).max() for guess in by_sums) < 1e-6
