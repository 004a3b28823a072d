"""Newton's search for the coefficients of Cox's regression: the partial likelihood of bins of time, and how often they are looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from infl.sums.mixture import FEWEST

STEPS = 40
LOOKS = 4
"""How often numbers about bins are opened, at most; a few are enough from where the regression with a baseline for each site ends."""
SHARE = 2
"""Values of those who leave in a bin, for each number that is opened about it; at least."""
_STANDS = 1e-9
_LAST_STANDS = 1e-5  # of the last look, after which a step of Newton's leaves the square of that


class Risk(NamedTuple):
    """Sums over those who leave in each bin, weighted by their hazard, and over those of them with an event.

    (bins,), (bins, p), (bins,), (bins, p).
    """

    left: np.ndarray
    left_x: np.ndarray
    died: np.ndarray
    died_x: np.ndarray


def risk_of(bins: np.ndarray, event: np.ndarray, q: np.ndarray, hazard: np.ndarray, n_bins: int) -> Risk:
    """Return the sums of a site's patients: bin, event, covariates (n, p) and hazard of each."""

    def added(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        columns = [np.bincount(bins, weights=weight * column, minlength=n_bins) for column in q.T]
        return np.bincount(bins, weights=weight, minlength=n_bins), np.column_stack(columns)

    return Risk(*added(hazard), *added(hazard * event))


@dataclass(frozen=True)
class Partial:
    """Partial likelihood of bins, without the part of the information that follows from products of patients' covariates.

    Attributes
    ----------
    log_likelihood, score, outer
        The logarithm, its slope (p,), and what is taken off the products, (p, p).
    weight
        Of each patient's products by bin of departure, (bins,).
    less
        Of those with an event, by how much less, (bins,).
    step
        Of the baseline hazard in each bin, (bins,).
    """

    log_likelihood: float
    score: np.ndarray
    outer: np.ndarray
    weight: np.ndarray
    less: np.ndarray
    step: np.ndarray

    @classmethod
    def of(cls, risk: Risk, events: np.ndarray, died: np.ndarray, predictor: float, *, efron: bool) -> Partial:
        """Compute it from sums by bin, numbers of events (bins,), and sums of covariates (p,) and of scores of those who died."""
        there, there_x = (np.cumsum(part[::-1], axis=0)[::-1] for part in (risk.left, risk.left_x))
        number = events.astype(int)
        at = np.repeat(np.arange(len(number)), number)  # one line for each event
        order = np.arange(len(at)) - np.repeat(np.cumsum(number) - number, number)
        share = order / number[at] if efron else np.zeros(len(at))
        among = there[at] - share * risk.died[at]
        mean = (there_x[at] - share[:, None] * risk.died_x[at]) / among[:, None]
        step = np.bincount(at, weights=1 / among, minlength=len(number))
        return cls(
            log_likelihood=float(predictor - np.log(among).sum()),
            score=died - mean.sum(axis=0),
            outer=mean.T @ mean,
            weight=np.cumsum(step),
            less=np.bincount(at, weights=share / among, minlength=len(number)),
            step=step,
        )

    def products(self, bins: np.ndarray, event: np.ndarray, q: np.ndarray, hazard: np.ndarray) -> np.ndarray:
        """Return the products of covariates of a site's patients, weighted, (p, p)."""
        weight = hazard * (self.weight[bins] - event * self.less[bins])
        return (q * weight[:, None]).T @ q


@dataclass(frozen=True)
class Search:
    """Newton's search: coefficients in the frame that are tried, the best ones so far, and what is known of them.

    Attributes
    ----------
    trial, best
        Coefficients, (p,).
    log_likelihood, null
        Of the best ones, less the penalty; and at 0.
    partial
        Of the best ones, where the next sum is one of products; else None.
    information
        In the frame, (p, p), of the best ones, without the penalty.
    stands
        Whether the search is over.
    looks, most
        How often the likelihood was looked at, and may be.
    change
        Of the last step, (p,).
    """

    trial: np.ndarray
    best: np.ndarray
    log_likelihood: float = -np.inf
    null: float = np.nan
    partial: Partial | None = None
    information: np.ndarray | None = None
    step: np.ndarray | None = None
    stands: bool = False
    looks: int = 0
    most: int = STEPS
    change: np.ndarray | None = None

    @staticmethod
    def begin(p: int) -> Search:
        """Begin at 0."""
        return Search(np.zeros(p), np.zeros(p))

    @property
    def over(self) -> bool:
        """Whether nothing is looked at any more."""
        return self.stands or (self.looks >= self.most and self.partial is None)

    def after_risk(self, partial: Partial, penalty: np.ndarray) -> Search:
        """Return the search after the likelihood of the trial came: go on from there, or try half the way."""
        found = partial.log_likelihood - float(self.trial @ penalty @ self.trial) / 2
        if found < self.log_likelihood - 1e-8 * (1 + abs(self.log_likelihood)):
            return replace(self, trial=(self.trial + self.best) / 2, partial=None, looks=self.looks + 1)
        null = found if np.isnan(self.null) else self.null
        return replace(self, best=self.trial, log_likelihood=found, null=null, partial=partial, looks=self.looks + 1)

    def after_products(self, information: np.ndarray, penalty: np.ndarray) -> Search:
        """Return the search after the information of the best coefficients came: a step of Newton's."""
        assert self.partial is not None
        change = np.linalg.solve(information + penalty, self.partial.score - penalty @ self.best)
        moved = float(np.abs(change).max() / (1 + np.abs(self.best).max()))
        last = self.looks == self.most
        stands = moved < (_LAST_STANDS if last else _STANDS)
        return replace(
            self,
            trial=self.best + change,
            change=change,
            **(self._last(change, information + penalty) if last else {}),
            step=self.partial.step,
            partial=None,
            information=information,
            stands=stands,
        )

    def _last(self, change: np.ndarray, curvature: np.ndarray) -> dict[str, Any]:
        """Take a step that is not looked at, with what it adds to the likelihood."""
        gain = float(change @ curvature @ change) / 2
        return {"best": self.best + change, "log_likelihood": self.log_likelihood + gain}


def looks_of(least: int, p: int) -> int:
    """Return how often numbers about bins of `least` departures are opened, for `p` covariates.

    Examples
    --------
    >>> looks_of(16, 1), looks_of(5, 1), looks_of(100, 1)
    (4, 4, 25)
    """
    return max(LOOKS, least * p // (SHARE * (p + 1)))


def departures_of(p: int) -> int:
    """Return how many departures of a kind a bin has where no number is given: for each opened number two of their values.

    Examples
    --------
    >>> [departures_of(p) for p in (1, 2, 10)]
    [16, 12, 9]
    """
    return max(FEWEST, -(-SHARE * LOOKS * (p + 1) // p))
