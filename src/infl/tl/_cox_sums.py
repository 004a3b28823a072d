"""Cox regression over sites: Newton's steps from sums over bins of time, and how well scores order the patients.

A step has two sums: numbers and means of those who leave in each bin, weighted by their hazard; then one matrix, for which each site
weights its patients by what follows from the first. So of the patients of a bin no products are opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infl.errors import DataError
from infl.pp._frame import Frame
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.mixture import FEWEST
from infl.sums.shape import Arrays, Records
from infl.tl._cox_search import STEPS, Partial, Risk, Search, looks_of, risk_of
from infl.tl._regression import check_information, refuse_direction
from infl.tl._times import MOST_BINS, Times, ends_of

_SEPARATION = "separation, a term tells those with an event apart without error"
_APART = 0.1  # standard deviations of a covariate by which the last look still moves its coefficient, if it tells events apart
_START_RIDGE = 0.1
_LARGEST = 100.0  # of a score; its exponential still fits a sum


@dataclass(frozen=True)
class Patients(Times):
    """A site's times with the design, (n_obs, p)."""

    x: np.ndarray


def hazards(site: Patients, state: State, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return covariates in the frame, (n, p), and each patient's hazard, (n,)."""
    q = state["frame"].rows(site.x)
    return q, np.exp(np.clip(q @ coefficients, -_LARGEST, _LARGEST))


def _check_number(n_events: float) -> None:
    if n_events < FEWEST - 0.5:
        raise DataError(
            f"fewer than {FEWEST} events over all sites: a regression of times to events needs more; all may be censored, or coded "
            "the other way round"
        )


def event_sum(p: int, *, efron: bool) -> FederatedSum:
    """Return the sum of events by bin, and of the covariates of all who had one, and begin the search over bins.

    State: ``events``, ``died`` and ``search``; it begins where the regression with a baseline for each site ended.
    """

    def local(site: Patients, state: State) -> Arrays:
        bins, q = site.bins(ends_of(state)), state["frame"].rows(site.x)
        return {
            "events": np.bincount(bins[site.event], minlength=MOST_BINS),
            "left": np.bincount(bins, minlength=MOST_BINS),
            "died": q[site.event].sum(axis=0),
        }

    def records(site: Patients, state: State) -> Arrays:
        left = np.bincount(site.bins(ends_of(state)), minlength=MOST_BINS)
        return {"events": left, "left": left, "died": site.event.sum()}

    def begin(total: Arrays, state: State) -> State:
        events, left, none = total["events"], total["left"], np.zeros((MOST_BINS, p))
        _check_number(events.sum())
        null = Partial.of(Risk(left, none, events, none), events, np.zeros(p), 0.0, efron=efron).log_likelihood
        start = state["search"].best
        search = Search(start, start, null=null, most=looks_of(state["least"], p))
        return {**state, "events": events, "died": total["died"], "search": search, "start": state["search"]}

    return FederatedSum(
        name="events",
        shapes={"events": (MOST_BINS,), "left": (MOST_BINS,), "died": (p,)},
        local=local,
        combine=begin,
        says="number of events and of departures in each bin of time, and sums of the covariates of all patients with an event",
        scale={"events": COUNT_SCALE, "left": COUNT_SCALE, "died": FINE_SCALE},
        records=records,
        sensitivity={"events": 1, "left": 1},
    )


def newton_sum(names: Sequence[str], penalty: float, *, efron: bool) -> FederatedSum:
    """Return Newton's steps over bins, each of two sums; sites are :class:`Patients`, state: ``search``."""
    p = len(names)
    shapes = {"left": (MOST_BINS,), "left_x": (MOST_BINS, p), "died": (MOST_BINS,), "died_x": (MOST_BINS, p)}
    shapes |= {"products": (p, p)}

    def local(site: Patients, state: State) -> Arrays:
        search, bins = state["search"], site.bins(ends_of(state))
        found = {name: np.zeros(shape) for name, shape in shapes.items()}
        if search.partial is not None:
            q, hazard = hazards(site, state, search.best)
            return found | {"products": search.partial.products(bins, site.event, q, hazard)}
        q, hazard = hazards(site, state, search.trial)
        risk = risk_of(bins, site.event, q, hazard, MOST_BINS)._asdict()
        return found | (risk if efron else {"left": risk["left"], "left_x": risk["left_x"]})

    def combine(total: Arrays, state: State) -> State:
        search, ridge = state["search"], ridge_of(state["frame"], penalty)
        if search.partial is not None:
            information = total["products"] - search.partial.outer
            check(information + ridge, state["events"].sum(), state, names)
            search = search.after_products(information, ridge)
            if search.over and not search.stands and np.abs(search.change).max() > _APART:
                refuse_direction(search.change, state["frame"], names, _SEPARATION)
            return {**state, "search": search}
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
        called="risk sets {step}",
        steps=2 * STEPS,
        until=lambda state: state["search"].over,
    )


def stratified_sum(names: Sequence[str], penalty: float, *, efron: bool, start: bool = False) -> FederatedSum:
    """Return Newton's steps with a baseline for each site, whose risk sets stay there; state: ``search``.

    `start`: it is only where another search begins, so every direction has an estimate, of a small ridge if of nothing else.
    """
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
        ridge, nothing = ridge_of(state["frame"], penalty) + start * _START_RIDGE * np.eye(p), np.zeros(0)
        search: Search = state.get("search", Search.begin(p))
        partial = Partial(float(total["log_likelihood"]), total["score"], nothing, nothing, nothing, nothing)
        _check_number(float(total["events"]))
        search = search.after_risk(partial, ridge)
        if search.partial is not None:
            if not start:
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
    why = _SEPARATION if begun else "a term is constant among those at risk"
    check_information(information / max(float(n_events), 1.0), state["frame"], names, why)
