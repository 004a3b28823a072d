"""ε as others compute it: integration of one round, convolution of several, and Google's privacy loss distributions.

dp-accounting, which has the last, is of no group of pyproject.toml: it asks for attrs below 24. Where it is installed, it is asked.
"""

import math
from functools import cache

import numpy as np
import pytest
from scipy import integrate, optimize
from scipy.special import ndtr

from infl.privacy import DP
from infl.privacy.dp import GRADIENT_GRID, epsilon_of, epsilon_of_curve, grid_exponent, renyi_curve, steps_of

CASES = [(1.0, 0.2, 1), (2.0, 0.3, 60), (0.9, 0.02, 100), (4.0, 1.0, 10)]
DELTA = 1e-5


def integrated(noise: float, sample_rate: float, epsilon: float) -> float:
    """δ of one round at ε: what of one mixture of Gaussians lies above e^ε times the other, in either direction."""
    x = np.linspace(-15 * noise, 1 + 15 * noise, 200_001)
    without = np.exp(-((x / noise) ** 2) / 2) / noise / math.sqrt(2 * math.pi)
    mixture = (1 - sample_rate) * without + sample_rate * without * np.exp((2 * x - 1) / (2 * noise**2))
    ways = ((mixture, without), (without, mixture))
    return max(float(integrate.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0), x)) for p, q in ways)


@pytest.mark.parametrize(("noise", "sample_rate"), [(1.0, 0.2), (2.0, 0.5), (1.5, 1.0)])
def test_one_round_costs_what_integration_says(noise: float, sample_rate: float) -> None:
    exact = optimize.brentq(lambda e: integrated(noise, sample_rate, e) - DELTA, 1e-3, 20, xtol=1e-3)
    steps = [(noise, sample_rate, 1)]
    assert exact - 2e-3 <= epsilon_of(steps, DELTA, "prv") <= exact * 1.02 + 0.02
    assert exact < epsilon_of(steps, DELTA, "rdp") < 1.5 * exact
    assert epsilon_of([(0.9 * noise, sample_rate, 1)], DELTA, "prv") > exact  # the control: less noise shows


@cache
def losses(noise: float, sample_rate: float, rounds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Privacy loss of several rounds, in both directions: that of one on a fine grid, convolved with itself by Fourier transform."""
    h, size = 5e-4, 1 << 18
    x = np.linspace(-12 * noise, 1 + 12 * noise, 400_001)
    middle = (x[1:] + x[:-1]) / 2
    without = np.diff(ndtr(x / noise))
    mixture = (1 - sample_rate) * without + sample_rate * np.diff(ndtr((x - 1) / noise))
    loss = np.log1p(sample_rate * np.expm1((2 * middle - 1) / (2 * noise**2)))
    found = []
    for mass, of in ((mixture, loss), (without, -loss)):
        one = np.bincount(np.rint(of / h).astype(int) % size, mass, size)  # negative losses from the end
        all_ = np.fft.irfft(np.fft.rfft(one) ** rounds, size)
        found.append((h * np.fft.fftfreq(size, 1 / size), all_))
    return found


def composed(noise: float, sample_rate: float, rounds: int, epsilon: float) -> float:
    """δ of several rounds at ε."""
    return max(
        float(mass[loss > epsilon] @ -np.expm1(epsilon - loss[loss > epsilon]))
        for loss, mass in losses(noise, sample_rate, rounds)
    )


@pytest.mark.parametrize(("noise", "sample_rate", "rounds"), CASES)
def test_rounds_cost_what_their_convolution_says(noise: float, sample_rate: float, rounds: int) -> None:
    theirs = optimize.brentq(lambda e: composed(noise, sample_rate, rounds, e) - DELTA, 1e-3, 30, xtol=1e-3)
    assert epsilon_of([(noise, sample_rate, rounds)], DELTA, "prv") == pytest.approx(theirs, rel=0.02, abs=0.02)
    assert theirs < epsilon_of([(noise, sample_rate, rounds)], DELTA, "rdp") < 1.4 * theirs + 0.1
    assert composed(0.9 * noise, sample_rate, rounds, theirs) > 1.2 * DELTA  # the control: less noise shows


@pytest.mark.parametrize(("noise", "sample_rate", "rounds"), CASES)
def test_rounds_cost_what_privacy_loss_distributions_say(noise: float, sample_rate: float, rounds: int) -> None:
    dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from dp_accounting.pld import PLDAccountant

    account = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise))
    account.compose(event, rounds)
    theirs = account.get_epsilon(DELTA)
    assert epsilon_of([(noise, sample_rate, rounds)], DELTA, "prv") == pytest.approx(theirs, rel=0.02)
    assert theirs <= epsilon_of_curve(rounds * renyi_curve(noise, sample_rate), DELTA) < 1.4 * theirs + 0.1


@pytest.mark.parametrize("size", [1, 100])
def test_noise_on_the_grid_costs_what_continuous_noise_costs(size: int) -> None:
    """A discrete Gaussian, and a gradient that is as many whole steps as the clipping norm allows."""
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution", reason="dp-accounting is not installed")
    steps, noise = int(2.0 ** -grid_exponent(1.0, size)), 1.3
    assert steps >= 1 / GRADIENT_GRID
    discrete = pld.from_discrete_gaussian_mechanism(noise * steps, sensitivity=steps)
    theirs = discrete.self_compose(20).get_epsilon_for_delta(DELTA)
    assert theirs == pytest.approx(epsilon_of([(noise, 1.0, 20)], DELTA, "prv"), rel=0.01)


def test_a_colluder_who_knows_its_share_is_paid_for() -> None:
    """What is accounted is the noise of the others; with all shares counted ε would be smaller than what a member sees."""
    for colluders in (0, 1, 2):
        dp = DP(delta=DELTA, noise_multiplier=2.0, colluders=colluders)
        shares = dp.site_noise(5)
        assert shares * (5 - colluders) ** 0.5 == pytest.approx(2.0)
        assert steps_of([5], dp, 5)[0][0] == pytest.approx(2.0)
        assert steps_of([7], dp, 5)[0][0] == pytest.approx(shares * (7 - colluders) ** 0.5)
    alone = DP(delta=DELTA, noise_multiplier=2.0, noise="local", colluders=4)
    assert alone.site_noise(5) == steps_of([5], alone, 5)[0][0] == 2.0
