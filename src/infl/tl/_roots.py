"""Where functions that fall are 0, of many features at once, from their values where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

FITTED = 1e-5
"""Change of a coefficient, or of the logarithm of a dispersion, that is none."""


@dataclass(frozen=True)
class Search:
    """Where slopes are 0, of many features at once, by Chandrupatla's method (1997, Advances in Engineering Software 28:145).

    `at` is where the next slopes are asked for. Slopes are positive below the place and negative above it.

    Examples
    --------
    >>> search = Search.between(np.array([0.0]), np.array([4.0]))
    >>> while not search.ended:
    ...     search = search.after(2.0 - search.at**2)
    >>> float(search.found[0].round(5))
    1.41421
    """

    at: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int = 0
    a: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))
    b: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))

    @classmethod
    def between(cls, low: np.ndarray, high: np.ndarray) -> Search:
        """Begin with an interval."""
        return cls(low, low, high)

    @property
    def ended(self) -> bool:
        """Whether all places are known."""
        return self.n > 2 and bool((np.abs(self.b[0] - self.a[0]) <= 2 * FITTED).all())

    @property
    def found(self) -> np.ndarray:
        """The places, an end of the interval where the slope has one sign."""
        (a, fa), (b, fb) = self.a, self.b
        return np.where(np.abs(fa) < np.abs(fb), a, b)

    def after(self, slope: np.ndarray) -> Search:
        """Return the search with the slopes where it asked for them."""
        if self.n == 0:
            return replace(self, at=self.high, n=1, b=(self.low, slope))
        if self.n == 1:
            rising, falling = self.b[1], slope
            ends = np.where(rising <= 0, self.low, np.where(falling >= 0, self.high, np.nan))
            fixed = np.isfinite(ends)
            a, b = np.where(fixed, ends, self.high), np.where(fixed, ends, self.low)
            return replace(self, at=(a + b) / 2, n=2, a=(a, falling), b=(b, rising))
        (a, fa), (b, fb), x = self.a, self.b, self.at
        same = (slope > 0) == (fa > 0)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, slope
        with np.errstate(divide="ignore", invalid="ignore"):
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            curved = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            t = np.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & np.isfinite(curved), curved, 0.5)
            least = np.where(b != a, FITTED / np.abs(b - a), 0.5)
        t = np.clip(t, np.minimum(least, 0.5), np.maximum(1 - least, 0.5))
        return replace(self, at=a + t * (b - a), n=self.n + 1, a=(a, fa), b=(b, fb))
