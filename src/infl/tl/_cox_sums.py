"""Cox regression over sites: Newton's steps from sums over bins of time, and how well scores order the patients.

A step has two sums: numbers and means of those who leave in each bin, weighted by their hazard; then one matrix, for which each site
weights its patients by what follows from the first. So of the patients of a bin no products are opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from infl.errors import DataError
from infl.pp._frame import Frame
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.mixture import FEWEST
from infl.sums.shape import Arrays, Records
from infl.tl._regression import check_information
from infl.tl._times import MOST_BINS, Times, ends_of

STEPS = 40
_STANDS = 1e-9
_LARGEST = 100.0  # of a score; its exponential still fits a sum


@dataclass(frozen=True)
class Patients(Times):
    """A site's times with the design, (n_obs, p)."""

    x: np.ndarray


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
    """

    trial: np.ndarray
    best: np.ndarray
    log_likelihood: float = -np.inf
    null: float = np.nan
    partial: Partial | None = None
    information: np.ndarray | None = None
    step: np.ndarray | None = None
    stands: bool = False

    @staticmethod
    def begin(p: int) -> Search:
        """Begin at 0."""
        return Search(np.zeros(p), np.zeros(p))

    def after_risk(self, partial: Partial, penalty: np.ndarray) -> Search:
        """Return the search after the likelihood of the trial came: go on from there, or try half the way."""
        found = partial.log_likelihood - float(self.trial @ penalty @ self.trial) / 2
        if found < self.log_likelihood - 1e-8 * (1 + abs(self.log_likelihood)):
            return replace(self, trial=(self.trial + self.best) / 2, partial=None)
        null = found if np.isnan(self.null) else self.null
        return replace(self, best=self.trial, log_likelihood=found, null=null, partial=partial)

    def after_products(self, information: np.ndarray, penalty: np.ndarray) -> Search:
        """Return the search after the information of the best coefficients came: a step of Newton's."""
        assert self.partial is not None
        change = np.linalg.solve(information + penalty, self.partial.score - penalty @ self.best)
        stands = bool(np.abs(change).max() < _STANDS * (1 + np.abs(self.best).max()))
        return replace(
            self,
            trial=self.best + change,
            step=self.partial.step,
            partial=None,
            information=information,
            stands=stands,
        )


def hazards(site: Patients, state: State, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return covariates in the frame, (n, p), and each patient's hazard, (n,)."""
    q = state["frame"].rows(site.x)
    return q, np.exp(np.clip(q @ coefficients, -_LARGEST, _LARGEST))


def _enough_events(total: Arrays, state: State) -> State:
    _check_number(total["events"].sum())
    return {**state, **total}


def _check_number(n_events: float) -> None:
    if n_events < FEWEST - 0.5:
        raise DataError(
            f"fewer than {FEWEST} events over all sites: a regression of times to events needs more; all may be censored, or coded "
            "the other way round"
        )


def event_sum(p: int) -> FederatedSum:
    """Return the sum of events by bin, and of the covariates of all who had one; state: ``events`` and ``died``."""

    def local(site: Patients, state: State) -> Arrays:
        bins, q = site.bins(ends_of(state)), state["frame"].rows(site.x)
        return {"events": np.bincount(bins[site.event], minlength=MOST_BINS), "died": q[site.event].sum(axis=0)}

    def records(site: Patients, state: State) -> Arrays:
        return {"events": np.bincount(site.bins(ends_of(state)), minlength=MOST_BINS), "died": site.event.sum()}

    return FederatedSum(
        name="events",
        shapes={"events": (MOST_BINS,), "died": (p,)},
        local=local,
        combine=_enough_events,
        says="number of events in each bin of time, and sums of the covariates of all patients with an event",
        scale={"events": COUNT_SCALE, "died": FINE_SCALE},
        records=records,
        sensitivity={"events": 1},
    )


def newton_sum(names: Sequence[str], penalty: float, *, efron: bool) -> FederatedSum:
    """Return Newton's steps over bins, each of two sums; sites are :class:`Patients`, state: ``search``."""
    p = len(names)
    shapes = {"left": (MOST_BINS,), "left_x": (MOST_BINS, p), "died": (MOST_BINS,), "died_x": (MOST_BINS, p)}
    shapes |= {"products": (p, p)}

    def search_of(state: State) -> Search:
        return state.get("search", Search.begin(p))

    def local(site: Patients, state: State) -> Arrays:
        search, bins = search_of(state), site.bins(ends_of(state))
        found = {name: np.zeros(shape) for name, shape in shapes.items()}
        if search.partial is not None:
            q, hazard = hazards(site, state, search.best)
            return found | {"products": search.partial.products(bins, site.event, q, hazard)}
        q, hazard = hazards(site, state, search.trial)
        risk = risk_of(bins, site.event, q, hazard, MOST_BINS)._asdict()
        return found | (risk if efron else {"left": risk["left"], "left_x": risk["left_x"]})

    def combine(total: Arrays, state: State) -> State:
        search, ridge = search_of(state), ridge_of(state["frame"], penalty)
        if search.partial is not None:
            information = total["products"] - search.partial.outer
            check(information + ridge, state["events"].sum(), state, names)
            return {**state, "search": search.after_products(information, ridge)}
        risk = Risk(*(total[name] for name in Risk._fields))
        predictor = float(state["died"] @ search.trial)
        partial = Partial.of(risk, state["events"], state["died"], predictor, efron=efron)
        return {**state, "search": search.after_risk(partial, ridge)}

    def records(site: Patients, state: State) -> Records:
        bins = site.bins(ends_of(state))
        left = np.bincount(bins, minlength=MOST_BINS)
        died = np.bincount(bins[site.event], minlength=MOST_BINS) if efron else left
        return {"left": left, "left_x": left[:, None], "died": died, "died_x": died[:, None], "products": len(bins)}

    return FederatedSum(
        name="risk sets",
        shapes=shapes,
        local=local,
        combine=combine,
        says="for each bin of time: hazards of the patients who leave, of those with an event, and sums of their covariates weighted "
        "by the hazard; and products of covariates over all patients",
        scale=FINE_SCALE,
        records=records,
        steps=2 * STEPS,
        until=lambda state: state["search"].stands if "search" in state else False,
    )


def stratified_sum(names: Sequence[str], penalty: float, *, efron: bool) -> FederatedSum:
    """Return Newton's steps with a baseline for each site, whose risk sets stay there; state: ``search``."""
    p = len(names)

    def local(site: Patients, state: State) -> Mapping[str, Any]:
        search = state.get("search", Search.begin(p))
        if not site.event.any():
            return {"log_likelihood": 0.0, "score": np.zeros(p), "information": np.zeros((p, p)), "events": 0}
        times, bins = np.unique(site.time, return_inverse=True)
        q, hazard = hazards(site, state, search.trial)
        events, died = np.bincount(bins[site.event], minlength=len(times)), q[site.event].sum(axis=0)
        risk = risk_of(bins, site.event, q, hazard, len(times))
        partial = Partial.of(risk, events, died, float(died @ search.trial), efron=efron)
        information = partial.products(bins, site.event, q, hazard) - partial.outer
        found = {"log_likelihood": partial.log_likelihood, "score": partial.score, "information": information}
        return found | {"events": site.event.sum()}

    def combine(total: Arrays, state: State) -> State:
        ridge, nothing = ridge_of(state["frame"], penalty), np.zeros(0)
        search: Search = state.get("search", Search.begin(p))
        partial = Partial(float(total["log_likelihood"]), total["score"], nothing, nothing, nothing, nothing)
        _check_number(float(total["events"]))
        search = search.after_risk(partial, ridge)
        if search.partial is not None:
            check(total["information"] + ridge, float(total["events"]), state, names)
            search = search.after_products(total["information"], ridge)
        return {**state, "search": search, "n_events": int(total["events"])}

    return FederatedSum(
        name="strata",
        shapes={"log_likelihood": (), "score": (p,), "information": (p, p), "events": ()},
        local=local,
        combine=combine,
        says="logarithm of the partial likelihood of all the site's patients together, its slope and curvature, and number of events",
        scale={"events": COUNT_SCALE} | dict.fromkeys(("log_likelihood", "score", "information"), FINE_SCALE),
        records=lambda site, state: len(site.time),
        sensitivity={"events": 1},
        steps=STEPS,
        until=lambda state: state["search"].stands,
    )


def ridge_of(frame: Frame, penalty: float) -> np.ndarray:
    """Return the curvature of the penalty, ½ θ Σ β², in the frame."""
    return penalty * frame.mix.T @ frame.mix


def check(information: np.ndarray, n_events: float, state: State, names: Sequence[str]) -> None:
    """Refuse coefficients without an estimate."""
    begun = "search" in state and bool(state["search"].best.any())
    why = (
        "separation, a term tells those with an event apart without error"
        if begun
        else "a term is constant among those at risk"
    )
    check_information(information / max(float(n_events), 1.0), state["frame"], names, why)
