"""The audited ε: its bound by hand, its scores against plain gradients, and a run whose noise is switched off."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

from infl.attacks import AuditContext, Status
from infl.attacks._kit.one_run_bound import (
    Curve,
    audited,
    correct_guesses,
    curve_of,
    gaussian_curve,
    gaussian_lower_bound,
    guesses_for,
    likelihood_ratio,
    lower_bound,
    ruled_out,
)
from infl.attacks._kit.shadows import alignment
from infl.attacks.audited_epsilon import AuditedEpsilon
from infl.nn.mlp import ResidualMLP
from infl.privacy.dp import epsilon_of


def highest_chance(correct: int, guesses: int, canaries: int, curve: Curve) -> float:
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if ruled_out(correct, guesses, canaries, curve, middle) else (middle, high)
    return high


@pytest.mark.parametrize("case", [(10, 10, 20, 1.0), (30, 40, 100, 0.7), (70, 100, 100, 0.5), (360, 500, 2000, 0.8)])
def test_chance_is_no_less_than_that_of_randomised_response_and_near_it(case: tuple[int, int, int, float]) -> None:
    """Telling each coin truly with chance e^ε / (1 + e^ε) is as good as any mechanism with δ = 0 can be."""
    correct, guesses, canaries, epsilon = case
    tail = binom.sf(correct - 1, guesses, 1 / (1 + np.exp(-epsilon)))
    bound = highest_chance(correct, guesses, canaries, curve_of(epsilon, 0.0))
    assert tail <= bound * (1 + 1e-6)
    assert bound <= 2 * tail


def test_chance_covers_a_mechanism_that_gives_a_canary_away() -> None:
    """With chance δ for each canary its coin is told, and nothing of the others: (0, δ)-private, and sure of what it says."""
    delta, m = 0.02, 50
    says_one = 1 - (1 - delta) ** m
    assert highest_chance(1, 1, m, curve_of(0.0, delta)) >= 0.5 + says_one / 2 - 1e-9


def test_curve_of_gaussian_noise_by_hand() -> None:
    for noise in (0.5, 1.0, 3.0):
        curve = gaussian_curve(noise, 1.0, 1)
        for p in (0.01, 0.3, 0.9):
            assert curve(p) == pytest.approx(norm.cdf(norm.ppf(p) - 1 / noise), abs=1e-3)
    four = gaussian_curve(2.0, 1.0, 4)  # as one round with half the noise
    assert four(0.5) == pytest.approx(norm.cdf(-1.0), abs=1e-3)


def test_curve_of_sampled_noise_has_the_accountants_epsilon() -> None:
    curve, delta = gaussian_curve(1.1, 0.3, 15), 1e-3
    epsilon = epsilon_of([(1.1, 0.3, 15)], delta)
    p = np.geomspace(1e-4, 1, 400)
    highest = max(float(v - np.exp(epsilon) * curve(v)) for v in p)  # of p − e^ε p', which is δ
    assert highest == pytest.approx(delta, rel=0.1)


def test_gaussian_bound_holds_for_gaussian_noise_and_proves_more_than_one_for_any_noise() -> None:
    rng, m, mu = np.random.default_rng(0), 1000, 1.2
    delta, guesses = 1e-5, 200
    true = epsilon_of([(1 / mu, 1.0, 1)], delta)
    tight, loose = [], []
    for _ in range(20):
        inside = rng.random(m) < 0.5
        correct = correct_guesses(mu * inside + rng.normal(size=m), inside, guesses)
        tight.append(gaussian_lower_bound(correct, guesses, m, delta, 1.0, 1))
        loose.append(lower_bound(correct, guesses, m, delta))
    assert max(tight) <= true
    assert np.mean(tight) > 1.4 * np.mean(loose)
    assert gaussian_lower_bound(guesses // 2, guesses, m, delta, 1.0, 1) == 0


def test_bound_by_hand() -> None:
    # 50 of 50 right: q⁵⁰ = 0.05, so q = 0.9418 and ε = log(q / (1 − q)) = 2.785
    assert lower_bound(50, 50, 50, 0.0) == pytest.approx(2.785, abs=1e-3)
    # With chance δ all canaries are given away together: q⁵⁰ (1 − δ) + δ = 0.05, so ε = 2.7783
    assert lower_bound(50, 50, 50, 1e-3) == pytest.approx(2.778, abs=1e-3)
    assert lower_bound(50, 50, 50, 1e-3) < 2.7783
    assert lower_bound(25, 50, 50, 0.0) == 0.0


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_bound_holds_for_randomised_response_and_is_close_to_it(epsilon: float) -> None:
    """Telling each coin truly with chance e^ε / (1 + e^ε) spends ε exactly: bounds above it are rare, but near."""
    rng, m = np.random.default_rng(0), 1000
    bounds = []
    for _ in range(100):
        inside = rng.random(m) < 0.5
        told = np.where(rng.random(m) < 1 / (1 + np.exp(-epsilon)), inside, ~inside)
        scores = told + 1e-3 * rng.random(m)
        bounds.append(audited(scores, inside, {m, m // 2}, lambda c, g, n, p: lower_bound(c, g, n, 0.0, p))[0])
    assert (np.array(bounds) > epsilon).mean() <= 0.1
    assert np.mean(bounds) > epsilon - 0.4


def test_guesses_by_hand() -> None:
    inside = np.array([True, False, True, False])
    assert correct_guesses(np.array([4.0, 3.0, 2.0, 1.0]), inside, 2) == 2
    assert correct_guesses(np.array([4.0, 3.0, 2.0, 1.0]), inside, 4) == 2
    assert guesses_for(1e-2, 0.5, 20, 400, 1e-5) > guesses_for(3.0, 0.5, 20, 400, 1e-5)


def test_ratio_by_hand() -> None:
    readings, size = np.array([[0.0, 1.0, 2.0]]), np.ones((1, 3))
    always = likelihood_ratio(readings, size, 2.0, 1.0)
    np.testing.assert_allclose(always, (readings[0] - 0.5) / 4)  # of N(1, 2²) to N(0, 2²)
    half = likelihood_ratio(readings, size, 2.0, 0.5)
    np.testing.assert_allclose(half, np.log((1 + np.exp(always)) / 2))
    layers = likelihood_ratio(np.repeat(readings, 2, 0), np.ones((2, 3)), np.array([[2.0], [1e9]]), 1.0)
    np.testing.assert_allclose(layers, always)  # a layer of noise says nothing


def test_alignment_is_that_of_clipped_gradients() -> None:
    torch.manual_seed(0)
    module = ResidualMLP(6, 3, width=5, n_blocks=1, dropout=0.0).eval()
    x, y = torch.randn(4, 6) * 3, torch.tensor([0, 1, 2, 0])
    names = [n for n, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    along = {
        f"{n}.{p}": torch.randn_like(getattr(module.get_submodule(n), p)) for n in names for p in ("weight", "bias")
    }
    readings, size = alignment(module, x, y, along, 0.5)
    weights = dict(module.named_parameters())
    for i in range(4):
        loss = nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        gradient = dict(zip(along, torch.autograd.grad(loss, [weights[n] for n in along]), strict=True))
        total = torch.cat([g.ravel() for g in gradient.values()]).norm()
        for layer, name in enumerate(names):
            parts = [f"{name}.weight", f"{name}.bias"]
            own = torch.cat([gradient[p].ravel() for p in parts])
            sought = torch.cat([along[p].ravel() for p in parts]) @ own / own.norm()
            assert readings[layer, i] == pytest.approx(float(sought), rel=1e-4)
            assert size[layer, i] == pytest.approx(float(own.norm()) * min(1.0, 0.5 / float(total)), rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("noise", ["distributed", "local"])
def test_noise_that_is_switched_off_is_a_leak(private: dict[str, AuditContext], noise: str, monkeypatch) -> None:
    context = private[noise]
    findings = AuditedEpsilon().run(context)
    for finding in findings:
        assert finding.status is Status.HOLDS
        assert finding.high == context.run.privacy["epsilon"]
        assert finding.control > 2
    monkeypatch.setattr("infl.federation.training.discrete_gaussian", lambda sigma, size, rng: np.zeros(size))
    for finding in AuditedEpsilon().run(context):
        assert finding.status is Status.BROKEN
        assert finding.value > finding.high


def test_runs_without_differential_privacy_have_no_epsilon(default: AuditContext) -> None:
    assert not AuditedEpsilon().applies(default)
