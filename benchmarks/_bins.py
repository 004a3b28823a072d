"""An attack on Cox regression with one baseline, for cox.py: what a search opens of a bin is solved for its patients' covariates."""

import numpy as np
from scipy.optimize import least_squares

FROM_ZERO = (0.5, 0.05, 0.01, 1e-3, 1e-5, 1e-9)
"""Distances of steps from the end: six looks of a search that begins at 0."""
FROM_SITES = (0.05, 1e-3, 1e-6, 1e-10)
"""The four that a search may take that begins where baselines by site end."""


def opened(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """What steps, (steps, p), open of one bin whose patients have the covariates `x`, (n, p)."""
    hazards = np.exp(steps @ x.T)
    return np.concatenate([hazards.sum(axis=1), (hazards @ x).ravel()])


def solved(n: int, p: int, seed: int, distances: tuple[float, ...], starts: int) -> tuple[float, float]:
    """Share of a bin's patients whose covariates are found to a twentieth by solving what steps open, and by drawing with its moments.

    Steps have these distances from the coefficients, as a search has that ends there.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    steps = 0.5 / p**0.5 + np.array(distances)[:, None] * rng.normal(size=(len(distances), p))
    known = np.round(opened(x, steps) * 2**40) / 2**40

    def attempt() -> tuple[float, np.ndarray]:
        found = least_squares(
            lambda z: opened(z.reshape(n, p), steps) - known,
            rng.normal(size=n * p),
            **dict.fromkeys(("xtol", "ftol", "gtol"), 1e-15),
            max_nfev=100,
        )
        return found.cost, found.x.reshape(n, p)

    def share(guesses: np.ndarray) -> float:
        return float((np.abs(guesses[:, None] - x).max(axis=2).min(axis=0) < 0.05).mean())

    best = min((attempt() for _ in range(starts)), key=lambda one: one[0])[1]
    drawn = rng.normal(size=(50, n, p))
    drawn = (drawn - drawn.mean(axis=1, keepdims=True)) / drawn.std(axis=1, keepdims=True) * x.std(axis=0) + x.mean(
        axis=0
    )
    return share(best), float(np.mean([share(guesses) for guesses in drawn]))
