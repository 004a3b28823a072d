"""Which ε do right guesses rule out? The statistics of an audit with canaries in one run.

A trade-off curve bounds what anybody can tell of one canary; over all canaries it bounds how often a number of guesses can be
right. One test serves two families of curves: that of (ε, δ)-differential privacy, which assumes nothing of the noise, and
that of Gaussian noise on Poisson samples, round after round, which is tighter because it is the curve that noise of the agreed
kind really has.

References
----------
Mahloujifar, Melis, Chaudhuri, Auditing f-differential privacy in one run, ICML 2025. Steinke, Nasr, Jagielski, Privacy
auditing with one (1) training run, NeurIPS 2023 (the game; for δ = 0 the two give the same bound). Dong, Roth, Su, Gaussian
differential privacy, JRSS B 2022 (trade-off curves).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from infl.privacy.dp import epsilon_of

CONFIDENCE = 0.95
SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
"""Of the canaries that are guessed on."""
MOST = 40.0
"""Largest ε that is looked for."""
GRID = np.linspace(0.0, MOST, 801)
"""Values of ε at which the curve of a noise is known."""
MESH, ERROR = 0.02, 1e-7
"""Step in which losses are added up, and the chance that is cut off, both per run."""

Curve = Callable[[float], float]
"""The smallest chance of an event without a canary, from its chance with it; or the other way round."""


def curve_of(epsilon: float, delta: float) -> Curve:
    """Return the trade-off curve of (ε, δ)-differential privacy.

    From ``p ≤ e^ε p' + δ`` for an event and for its complement (Dong et al. 2022, proposition 2.5).

    Examples
    --------
    >>> round(curve_of(np.log(3), 0.0)(0.6), 6), round(curve_of(np.log(3), 0.0)(0.9), 6)
    (0.2, 0.7)
    """
    factor = float(np.exp(epsilon))
    return lambda p: max(0.0, (p - delta) / factor, 1 - delta - factor * (1 - p))


@lru_cache(maxsize=256)
def gaussian_curve(noise: float, sample_rate: float, rounds: int) -> Curve:
    """Return the trade-off curve of `rounds` rounds of Gaussian noise on Poisson samples, by numerical composition.

    Parameters
    ----------
    noise
        Standard deviation, in units of what one record can add.
    sample_rate, rounds
        Chance of a record to take part in a round, and the number of rounds.

    Examples
    --------
    >>> from scipy.stats import norm
    >>> alone = norm.cdf(norm.ppf(0.8) - 1 / 2.0)  # one round of all records is a shift by 1 / noise
    >>> bool(abs(gaussian_curve(2.0, 1.0, 1)(0.8) - alone) < 1e-3)
    True
    """
    from opacus.accountants.analysis import prv

    # Opacus takes the logarithm of 1 − q; a rate of almost one is one.
    loss = prv.PoissonSubsampledGaussianPRV(min(sample_rate, 1 - 1e-9), noise)
    width = prv.compute_safe_domain_size([loss], [rounds], eps_error=MESH, delta_error=ERROR)
    domain = prv.Domain.create_aligned(-width, width, MESH / rounds**0.5)
    one = prv.discretize(prv.TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max), domain)
    all_rounds = prv.compose_heterogeneous([one], [rounds])
    # δ(ε) = Σ_{t > ε} p(t) (1 − e^(ε − t)) over the losses t
    t, p = all_rounds.domain.ts, np.maximum(all_rounds.pmf, 0)
    above, weighted = (np.append(np.cumsum(v[::-1])[::-1], 0.0) for v in (p, p * np.exp(-t)))
    first = np.searchsorted(t, GRID, side="right")
    factor = np.exp(GRID)
    delta = np.clip(above[first] - factor * weighted[first], 0.0, 1.0) + ERROR
    # What holds for each of these pairs holds: the largest of the lower bounds of `curve_of`.
    return lambda p: max(0.0, float(((p - delta) / factor).max()), float((1 - delta - factor * (1 - p)).max()))


def ruled_out(correct: int, guesses: int, canaries: int, curve: Curve, chance: float = 1 - CONFIDENCE) -> bool:
    """Say whether a mechanism with this trade-off curve gets this number of guesses right with less than `chance`.

    Let ``right`` be the chance that a canary drawn at random is guessed, rightly, and at least i others are as well, and
    ``wrong`` the same for a wrong guess. Going down from `correct`, the curve bounds ``wrong`` at i − 1 from below by
    ``right`` at i, and the two grow in proportion to the right and wrong guesses of a run with i right ones. At the end
    their sum is the share of canaries that is guessed on. If it comes out larger, the assumption was wrong that `correct` are
    reached with `chance`.

    Parameters
    ----------
    correct, guesses, canaries
        Correct guesses, of how many, on how many canaries.
    curve
        From :func:`curve_of` or :func:`gaussian_curve`.
    chance
        Of an error.

    Examples
    --------
    >>> ruled_out(60, 60, 60, curve_of(1.0, 0.0)), ruled_out(40, 60, 60, curve_of(1.0, 0.0))
    (True, False)
    """
    right, wrong = chance * correct / canaries, chance * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        before, wrong = wrong, max(wrong, curve(right))
        right += i / (guesses - i) * (wrong - before)
        if right + wrong > guesses / canaries:
            return True
    return False


def lower_bound(correct: int, guesses: int, canaries: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest ε that a number of correct guesses rules out, whatever the noise.

    Examples
    --------
    >>> lower_bound(50, 100, 100, 0.0), round(lower_bound(100, 100, 100, 0.0), 2)
    (0.0, 3.49)
    """

    def out(epsilon: float) -> bool:
        return ruled_out(correct, guesses, canaries, curve_of(epsilon, delta), 1 - confidence)

    low, high = 0.0, MOST
    for _ in range(24 if out(low) else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if out(middle) else (low, middle)
    return low


def gaussian_lower_bound(
    correct: int,
    guesses: int,
    canaries: int,
    delta: float,
    sample_rate: float,
    rounds: int,
    confidence: float = CONFIDENCE,
) -> float:
    """Return the ε of the least Gaussian noise that a number of correct guesses rules out; 0 where they rule out none.

    Examples
    --------
    >>> few, many = (gaussian_lower_bound(c, 200, 200, 1e-5, 1.0, 1) for c in (100, 150))
    >>> few, 1 < many < 10
    (0.0, True)
    """

    def out(noise: float) -> bool:
        return ruled_out(correct, guesses, canaries, gaussian_curve(noise, sample_rate, rounds), 1 - confidence)

    low, high = _noises(sample_rate, rounds)  # the higher is ruled out first
    if not out(high):
        return 0.0
    for _ in range(0 if out(low) else 10):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if out(middle) else (middle, high)
    return epsilon_of([(low if out(low) else high, sample_rate, rounds)], delta)


def _noises(sample_rate: float, rounds: int) -> tuple[float, float]:
    """Return noises that are surely too little and surely too much.

    Many rounds come near to one Gaussian shifted by μ = q √(T (e^(1/σ²) − 1)) (Bu et al., Deep learning with Gaussian
    differential privacy, HDSR 2020); these are those of μ = 10 and 0.1.
    """
    low, high = ((np.log1p((mu / sample_rate) ** 2 / rounds)) ** -0.5 for mu in (10.0, 0.1))
    return float(low), float(high)


def likelihood_ratio(
    readings: np.ndarray, size: np.ndarray, spread: np.ndarray | float, sample_rate: float
) -> np.ndarray:
    """Return by how much one round speaks for a canary to be in: it then takes part with chance `sample_rate`.

    Parameters
    ----------
    readings
        The opened sum along each canary's clipped gradient in each layer, as a length. ``(layers, m)``
    size
        Lengths of those gradients. ``(layers, m)``
    spread
        Deviation of the readings by noise. ``(layers, 1)`` or a number
    sample_rate
        Chance to take part.

    Examples
    --------
    >>> likelihood_ratio(np.array([[0.5]]), np.array([[1.0]]), 1.0, 0.2)
    array([0.])
    """
    exponent = ((readings * size - size**2 / 2) / spread**2).sum(0)
    return np.logaddexp(np.log1p(-sample_rate) if sample_rate < 1 else -np.inf, np.log(sample_rate) + exponent)


def guesses_for(noise: float, sample_rate: float, rounds: int, canaries: int, delta: float) -> int:
    """Return on how many canaries to guess, by playing the attack on the mechanism alone.

    It depends on the settings only, so the bound needs no correction for the choice.

    Examples
    --------
    >>> guesses_for(1e-2, 0.2, 60, 1000, 1e-5), guesses_for(2.0, 0.2, 60, 1000, 1e-5) < 500
    (1000, True)
    """
    rng = np.random.default_rng(0)
    inside = np.arange(8 * canaries) % 2 == 0
    scores = np.zeros(len(inside))
    for _ in range(rounds):
        taking_part = inside & (rng.random(len(inside)) < sample_rate)
        readings = taking_part + noise * rng.normal(size=(1, len(inside)))
        scores += likelihood_ratio(readings, np.ones_like(readings), noise, sample_rate)

    def expected(guesses: int) -> float:
        return lower_bound(correct_guesses(scores, inside, 8 * guesses) // 8, guesses, canaries, delta)

    return max((2 * round(share * canaries / 2) for share in SHARES), key=expected)


def correct_guesses(scores: np.ndarray, inside: np.ndarray, guesses: int) -> int:
    """Return how many guesses are right when the highest scores are called inside and the lowest outside.

    Examples
    --------
    >>> correct_guesses(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, False, False]), 2)
    2
    """
    order, half = np.argsort(-scores, kind="stable"), guesses // 2
    return int(inside[order[:half]].sum() + (~inside[order[len(order) - half :]]).sum())


def audited(
    scores: np.ndarray, inside: np.ndarray, choices: set[int], bound: Callable[[int, int, int, float], float]
) -> tuple[float, int, int]:
    """Return the lower bound of ε with the numbers of correct guesses and of guesses that gave it.

    Parameters
    ----------
    scores, inside
        How much speaks for each canary to be in, and whether it is. ``(m,)``
    choices
        Numbers of guesses to try; each gets its part of the chance of error.
    bound
        From correct guesses, guesses, canaries and confidence, e.g. :func:`lower_bound` at some δ.

    Examples
    --------
    >>> scores, inside = np.arange(100.0), np.arange(100) >= 50
    >>> bound, correct, guesses = audited(scores, inside, {20, 100}, lambda c, g, m, p: lower_bound(c, g, m, 0.0, p))
    >>> round(bound, 1), correct, guesses
    (3.3, 100, 100)
    """
    best = (0.0, 0, 0)
    for guesses in sorted(choices):
        correct = correct_guesses(scores, inside, guesses)
        confidence = 1 - (1 - CONFIDENCE) / len(choices)
        best = max(best, (bound(correct, guesses, len(scores), confidence), correct, guesses))
    return best
