"""Expression as the histology model learns it: relative to a spot's total, as counts, or on the way between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infl.models.counts import log_normalised

if TYPE_CHECKING:
    from infl.models.histology.spots import Spots
    from infl.sums import State


@dataclass(frozen=True)
class Expression:
    """How counts become what is learned.

    Parameters
    ----------
    depth
        From 0, relative to the spot's total, to 1, as counts.
    target_sum
        Relative expression is log1p of counts scaled to this sum per spot.
    """

    depth: float
    target_sum: float

    def relative(self, data: Spots, index: np.ndarray) -> np.ndarray:
        """Return log-normalised expression (n, n_features)."""
        return log_normalised(counts_of(data, index), self.target_sum)

    def target(self, data: Spots, index: np.ndarray, private: State) -> np.ndarray:
        """Return standardised expression on the way from relative to counts (n, n_features)."""
        return self.mixed(self.relative(data, index), np.log1p(counts_of(data, index)), private)

    def mixed(self, relative: np.ndarray, absolute: np.ndarray, private: State) -> np.ndarray:
        """Return relative and absolute expression (n, n_features), standardised and mixed by `depth`."""

        def standard(values: np.ndarray, name: str) -> np.ndarray:
            return (values - private.get(f"{name}_mean", 0.0)) / private.get(f"{name}_scale", 1.0)

        return (1 - self.depth) * standard(relative, "relative") + self.depth * standard(absolute, "absolute")

    def of_means(self, log_mean: np.ndarray, private: State) -> np.ndarray:
        """Return expected counts, given as logarithms (n, n_features), in the units of :meth:`target`."""
        mean = np.exp(log_mean)
        relative = np.log1p(mean / mean.sum(1, keepdims=True) * self.target_sum)
        return self.mixed(relative, np.log1p(mean), private)


def counts_of(data: Spots, index: np.ndarray) -> np.ndarray:
    """Return counts (n, n_features), float64."""
    assert data.counts is not None
    return data.counts.rows(index).astype(np.float64)
