"""Likelihood by hand, Brier scores against the truth, and ridge Cox regression against its own derivative."""

import numpy as np
import pytest
import torch
from torch import nn

from infl.models.survival.cox import log_likelihood, ridge_cox
from infl.models.survival.data import joined
from infl.models.survival.scoring import brier_parts, losses_of, metrics_of, risk_of, sums_of, survival_of


@pytest.fixture
def module() -> nn.Module:
    made = nn.Module()
    for name, value in {"ends": [1.0, 2.0, np.inf], "base": [0.0, 0.0, 0.0], "censor": [1.0, 0.5, 1.0]}.items():
        made.register_buffer(name, torch.tensor(value, dtype=torch.float64))
    return made


def test_likelihood_by_hand(module: nn.Module) -> None:
    """With odds of one in each bin the hazard is a half; there are two bins, and the second has no end."""
    truth = torch.tensor([[0.5, 1.0], [0.5, 0.0], [1.5, 1.0], [9.0, 0.0]], dtype=torch.float64)
    losses = losses_of(module, torch.zeros(4, 1, dtype=torch.float64), truth)
    np.testing.assert_allclose(losses, np.log([2, 1, 4, 2]))
    survival = survival_of(module, torch.zeros(1, 1, dtype=torch.float64))
    np.testing.assert_allclose(survival[0, :2], [0.5, 0.25])
    assert risk_of(module, torch.tensor([[0.0]], dtype=torch.float64)).item() == 0
    assert risk_of(module, torch.tensor([[1.0]], dtype=torch.float64)).item() > 0


def test_sums_over_sites_are_those_of_all(module: nn.Module) -> None:
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(np.stack([rng.exponential(1.5, 50), rng.integers(0, 2, 50)], 1).astype(float))
    outputs = torch.from_numpy(rng.normal(size=(50, 1)))
    whole = sums_of(module, outputs, truth)
    parts = [sums_of(module, outputs[part], truth[part]) for part in (slice(20), slice(20, None))]
    for name, value in whole.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], value)
    assert 0 <= metrics_of(whole)["concordance"] <= 1


def test_a_brier_score_with_weights_is_that_without_early_leaving() -> None:
    """Those who leave before count through the others: the expected score is that of complete data."""
    rng = np.random.default_rng(1)
    n = 60_000
    at, leaves = rng.integers(0, 4, n), rng.integers(0, 5, n)
    survival = np.tile([0.7, 0.5, 0.3, 0.1], (n, 1))
    complete = brier_parts(survival, at, np.ones(n, dtype=bool), np.ones(4))
    seen, event = np.minimum(at, leaves), at <= leaves
    censor = np.array([0.8, 0.6, 0.4, 0.2])  # leaves a bin only if the event is not in it
    weighted = brier_parts(survival, seen, event, censor)
    np.testing.assert_allclose(weighted[0] / weighted[1], complete[0] / complete[1], atol=0.01)


def test_bins_have_five_events_and_about_as_many_each() -> None:
    events = np.random.default_rng(0).poisson(2.0, 64).astype(float)
    last = joined(events, 8)
    counts = np.add.reduceat(events, np.append(0, last[:-1] + 1))
    assert len(last) <= 8
    assert counts.min() >= 5
    assert last[-1] == 63
    assert joined(np.zeros(64), 8).tolist() == [63]


def test_ridge_cox_is_where_the_penalised_likelihood_is_highest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    time = rng.exponential(np.exp(-x[:, 0]))
    event = rng.random(120) < 0.7
    risk = ridge_cox(x, time, event, seed=0)
    z = (x - x.mean(0)) / x.std(0)
    score = risk(x)
    beta = np.linalg.lstsq(z, score, rcond=None)[0]
    assert beta[0] > 0.5
    gradient = [
        (log_likelihood(z @ (beta + h), time, event) - log_likelihood(z @ (beta - h), time, event)) / 2e-4
        for h in 1e-4 * np.eye(3)
    ]
    strength = np.dot(gradient, beta) / (
        beta @ beta
    )  # at the optimum the gradient is the penalty times the coefficients
    np.testing.assert_allclose(gradient, strength * beta, atol=1e-3)
    assert strength > 0
