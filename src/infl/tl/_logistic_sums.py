"""Logistic regression of groups on all features over sites, by sums of gradients: scikit-learn's penalty and optimum.

Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4): all sites compute the same next point from the opened loss and gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from infl.sums import FINE_SCALE, FederatedSum, State
from infl.sums.shape import Arrays
from infl.tl._group_sums import Grouped

LOOKS = 300
"""Most sums of gradients."""
_STANDS = 1e-5  # largest slope of the loss of an average observation; scikit-learn's default is ten times that
_MEMORY = 10
_ENOUGH = 1e-4  # share of what the slope promises that a step has to gain


@dataclass(frozen=True)
class Descent:
    """Where a search for the lowest loss is.

    Attributes
    ----------
    trial
        Where the loss is looked at next, (p,).
    best, loss, slope
        The lowest point so far, (p,), its loss and slope, (p,).
    direction, step
        From the best point to the trial.
    moved, turned
        Last steps, and changes of the slope along them, (steps, p).
    looks, stands
        How often the loss was looked at, and whether the search is over.
    """

    trial: np.ndarray
    best: np.ndarray
    loss: float
    slope: np.ndarray
    direction: np.ndarray
    moved: np.ndarray
    turned: np.ndarray
    step: float = 1.0
    looks: int = 0
    stands: bool = False

    @staticmethod
    def begin(p: int) -> Descent:
        """Begin at 0.

        Examples
        --------
        >>> search = Descent.begin(2)
        >>> while not search.stands:
        ...     search = search.after(((search.trial - [1, 2]) ** 2).sum(), 2 * (search.trial - [1, 2]))
        >>> search.best.round(4).tolist()
        [1.0, 2.0]
        """
        zero, none = np.zeros(p), np.zeros((0, p))
        return Descent(zero, zero, np.inf, zero, zero, none, none)

    def after(self, loss: float, slope: np.ndarray) -> Descent:
        """Return the search after loss and slope of the trial came: go on from there, or try half the way."""
        looks = self.looks + 1
        if loss > self.loss + _ENOUGH * self.step * float(self.slope @ self.direction):
            half = self.step / 2
            return replace(self, trial=self.best + half * self.direction, step=half, looks=looks)
        moved, turned = self.moved, self.turned
        change, turn = self.trial - self.best, slope - self.slope
        if np.isfinite(self.loss) and change @ turn > 0:
            moved, turned = np.vstack([moved, change])[-_MEMORY:], np.vstack([turned, turn])[-_MEMORY:]
        direction = -_curved(slope, moved, turned)
        step = 1.0 if len(moved) else min(1.0, 1 / max(float(np.abs(slope).sum()), 1e-300))
        stands = bool(np.abs(slope).max(initial=0) <= _STANDS)
        return Descent(
            self.trial + step * direction, self.trial, loss, slope, direction, moved, turned, step, looks, stands
        )


def _curved(slope: np.ndarray, moved: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Return the slope divided by the curvature that the last steps tell of, (p,)."""
    found, along = slope.copy(), []
    for s, y in zip(moved[::-1], turned[::-1], strict=True):
        along.append(float(s @ found) / float(s @ y))
        found -= along[-1] * y
    if len(moved):
        found *= float(moved[-1] @ turned[-1]) / float(turned[-1] @ turned[-1])
    for s, y, a in zip(moved, turned, along[::-1], strict=True):
        found += (a - float(y @ found) / float(s @ y)) * s
    return found


def logistic_sum(k: int, n_vars: int) -> FederatedSum:
    """Return the sums of a regression of `k` groups; sites are :class:`infl.tl._group_sums.Grouped`, −1 is no group.

    They begin with the state ``centre`` and ``spread`` of the features, (n_vars,): the search is over coefficients of features that are
    centred and divided by their spread, about which the loss is rounder; the penalty is that of the features as they are. With two groups there is one row of coefficients, for the second, as scikit-learn has it. State: ``descent``; :func:`coefficients_of`
    reads it.
    """
    rows = 1 if k == 2 else k
    shape = (rows, n_vars + 1)

    def local(site: Grouped, state: State) -> Arrays:
        weights = _plain(_search(state, shape).trial, state)
        n, loss, slope = 0, 0.0, np.zeros(shape)
        for codes, block in site.blocks():
            used = codes >= 0
            x, y = block[used], codes[used]
            score = np.asarray(x @ weights[:, :-1].T) + weights[:, -1]  # (n, rows)
            if rows == 1:
                loss += float(np.logaddexp(0, score[:, 0]).sum() - score[y == 1, 0].sum())
                left = special.expit(score) - (y == 1)[:, None]
            else:
                loss += float(special.logsumexp(score, axis=1).sum() - score[np.arange(len(y)), y].sum())
                left = special.softmax(score, axis=1)
                left[np.arange(len(y)), y] -= 1
            n += len(y)
            slope[:, :-1] += np.asarray((x.T @ left).T)
            slope[:, -1] += left.sum(axis=0)
        return {"n": np.array(n), "loss": np.array(loss), "slope": slope}

    def combine(total: Arrays, state: State) -> State:
        search, n = _search(state, shape), max(float(total["n"]), 1.0)
        weights, slope = _plain(search.trial, state), total["slope"].copy()
        loss = (float(total["loss"]) + float((weights[:, :-1] ** 2).sum()) / 2) / n  # the intercept has no penalty
        slope[:, :-1] += weights[:, :-1] - slope[:, -1:] * state["centre"]
        slope[:, :-1] /= state["spread"]
        return {**state, "descent": search.after(loss, (slope / n).ravel())}

    return FederatedSum(
        name="slopes of groups",
        shapes={"n": (), "loss": (), "slope": shape},
        local=local,
        combine=combine,
        says="how well a regression of the groups on all features fits, and for each group and feature the sum of its values, each weighted "
        "by how far the regression is off for the observation",
        scale=FINE_SCALE,
        records=lambda site, state: int((site.codes >= 0).sum()),
        steps=LOOKS,
        until=lambda state: state["descent"].stands,
    )


def _search(state: State, shape: tuple[int, int]) -> Descent:
    return state.get("descent", Descent.begin(shape[0] * shape[1]))


def _plain(found: np.ndarray, state: State) -> np.ndarray:
    """Return the coefficients of features as they are, and the intercept, (rows, n_vars + 1)."""
    weights = found.reshape(-1, len(state["centre"]) + 1).copy()
    weights[:, :-1] /= state["spread"]
    weights[:, -1] -= weights[:, :-1] @ state["centre"]
    return weights


def coefficients_of(state: State) -> np.ndarray:
    """Return the coefficients of features, (groups, n_vars), after the sums for them."""
    return _plain(state["descent"].best, state)[:, :-1]
