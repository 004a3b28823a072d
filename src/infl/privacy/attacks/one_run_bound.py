"""Which ε do right guesses rule out? The statistics of an audit with canaries in one run.

References
----------
Steinke, Nasr, Jagielski, Privacy auditing with one (1) training run, NeurIPS 2023 (theorem 5.2 and appendix D).
"""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
"""Of the canaries that are guessed on."""


def chance_of(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return the largest chance of so many correct guesses under (ε, δ)-differential privacy.

    Parameters
    ----------
    correct, guesses, canaries
        Correct guesses, of how many, on how many canaries.
    epsilon, delta
        The hypothesis.

    Examples
    --------
    >>> round(chance_of(10, 10, 10, 0.0, 0.0) * 2**10, 6)
    1.0
    """
    from scipy.stats import binom

    rate = 1 / (1 + np.exp(-epsilon))  # of correct guesses, by randomised response
    # What δ may add: the best way to spread it over the runs that fall short of `correct` by 1, 2, … guesses.
    below = binom.cdf(correct - 1, guesses, rate) - binom.cdf(correct - 1 - np.arange(1, correct + 1), guesses, rate)
    spread = float((below / np.arange(1, correct + 1)).max(initial=0.0))
    return float(min(1.0, binom.sf(correct - 1, guesses, rate) + 2 * canaries * delta * spread))


def lower_bound(correct: int, guesses: int, canaries: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest ε that so many correct guesses rule out.

    Examples
    --------
    >>> lower_bound(50, 100, 100, 0.0), round(lower_bound(100, 100, 100, 0.0), 2)
    (0.0, 3.49)
    """
    low, high = 0.0, 1.0
    if chance_of(correct, guesses, canaries, low, delta) >= 1 - confidence:
        return 0.0
    while chance_of(correct, guesses, canaries, high, delta) < 1 - confidence and high < 64:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        ruled_out = chance_of(correct, guesses, canaries, middle, delta) < 1 - confidence
        low, high = (middle, high) if ruled_out else (low, middle)
    return low


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


def audited(scores: np.ndarray, inside: np.ndarray, choices: set[int], delta: float) -> tuple[float, int, int]:
    """Return the lower bound of ε with the numbers of correct guesses and of guesses that gave it.

    Each choice of a number of guesses gets its part of the chance of error.
    """
    best = (0.0, 0, 0)
    for guesses in choices:
        correct = correct_guesses(scores, inside, guesses)
        bound = lower_bound(correct, guesses, len(scores), delta, 1 - (1 - CONFIDENCE) / len(choices))
        best = max(best, (bound, correct, guesses))
    return best
