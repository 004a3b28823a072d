"""Generalised linear models by reweighted least squares: each step is a sum of normal equations over sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from infl.pp._frame import Frame
from infl.pp._moments import power_of_two
from infl.sums import FINE_SCALE, FederatedSum, State
from infl.sums.cells import Sizes, baselines, designed, everyone, small_numbers, supports
from infl.sums.shape import Arrays
from infl.tl._regression import check_information

if TYPE_CHECKING:
    from infl.privacy.rules import DisclosureRules

STEPS = 60
_STANDS = 1e-10  # change of coefficients in the frame, relative to their size, below which they stand
_LEAST = 1e-140  # whose square is a number
_CERTAIN = float(np.finfo(float).eps)  # how near a probability comes to 0 and 1, as statsmodels has it


@dataclass(frozen=True)
class Response:
    """A site's design (n, p), response (n,) and what is added to the linear predictor (n,)."""

    x: np.ndarray
    y: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Family:
    """A distribution with its link.

    Parameters
    ----------
    start
        Mean to begin with, from the response.
    link, mean
        Linear predictor of a mean, and the reverse.
    slope
        Derivative of the link.
    deviance
        Of each record, from response and mean.
    variance
        Of a record, from its mean.
    free_scale
        Whether the scale is estimated.
    """

    start: Callable[[np.ndarray], np.ndarray]
    link: Callable[[np.ndarray], np.ndarray]
    mean: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    variance: Callable[[np.ndarray], np.ndarray]
    deviance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    free_scale: bool = False


def family_of(name: str, alpha: float) -> Family:
    """Return a family by name; `alpha` is the dispersion of the negative binomial one: variance m + α m²."""
    if name == "gaussian":
        return Family(
            start=lambda y: y,
            link=lambda m: m,
            mean=lambda e: e,
            slope=np.ones_like,
            variance=np.ones_like,
            deviance=lambda y, m: (y - m) ** 2,
            free_scale=True,
        )
    if name == "binomial":
        return Family(
            start=lambda y: (y + 0.5) / 2,
            link=special.logit,
            mean=lambda e: np.clip(special.expit(e), _CERTAIN, 1 - _CERTAIN),
            slope=lambda m: 1 / np.maximum(m * (1 - m), _LEAST),
            variance=lambda m: np.maximum(m * (1 - m), _LEAST),
            deviance=lambda y, m: -2 * (special.xlogy(y, m) + special.xlog1py(1 - y, -m)),
        )
    if name == "poisson":
        alpha = 0.0
    return Family(
        start=lambda y: y + 0.5,
        link=np.log,
        mean=lambda e: np.exp(np.minimum(e, 300)),
        slope=lambda m: 1 / np.maximum(m, _LEAST),
        variance=lambda m: np.maximum(m + alpha * m**2, _LEAST),
        deviance=lambda y, m: _count_deviance(y, np.maximum(m, _LEAST), alpha),
    )


def _count_deviance(y: np.ndarray, m: np.ndarray, alpha: float) -> np.ndarray:
    """Return the deviance of counts, Poisson's at α = 0."""
    with np.errstate(divide="ignore"):
        first = special.xlogy(y, y / m)
    if alpha == 0:
        return 2 * (first - (y - m))
    return 2 * (first - (y + 1 / alpha) * np.log((1 + alpha * y) / (1 + alpha * m)))


def width_sum() -> FederatedSum:
    """Return the sum that the unit of a real response follows from; state: ``unit``, a power of two."""
    return FederatedSum(
        name="response",
        shapes={"size": ()},
        local=lambda site, _: {"size": np.abs(site.y).sum()},
        combine=lambda total, state: {**state, "unit": float(power_of_two(total["size"] / max(state["n_obs"], 1)))},
        says="sum of the sizes of the response",
        scale=FINE_SCALE,
        records=lambda site, _: len(site.y),
        cells=everyone(
            lambda site: len(site.y),
            sizes=lambda site, state, rules: {"size": (np.abs(site.y).max(initial=0), np.abs(site.y).sum())},
            dominated=("size",),
        ),
    )


def steps_sum(names: Sequence[str], family: Family, *, bounded: bool) -> FederatedSum:
    """Return the steps of reweighted least squares; sites are :class:`Response`, and `bounded` says whether weights have a bound.

    State: ``found`` and ``information`` in the frame, ``deviance``, ``pearson``, ``n_steps`` and ``stands``.
    """
    p = len(names)

    def sizes(site: Response, state: State, rules: DisclosureRules) -> Sizes:
        """Of outcomes of two kinds, neither is of fewer than k in any group of the design."""
        left, overlap = baselines(site.x)
        sets = np.vstack([supports(site.x), left[~overlap]])
        told = sets[:, site.y > 0].sum(axis=1), sets[:, site.y <= 0].sum(axis=1)
        fewest = min((int(n) for kind in told for n in kind if n), default=0)
        return {"aim": small_numbers(np.full(p, fewest), rules)}

    outcomes: dict[str, Any] = {"sizes": sizes, "dominated": ("aim",)} if bounded else {}

    def local(site: Response, state: State) -> Arrays:
        q, y = state["frame"].rows(site.x), site.y / state["unit"]
        if "found" in state:
            predictor = q @ state["found"] + site.offset
            m = family.mean(predictor)
        else:
            m = family.start(y)
            predictor = family.link(m)
        slope, variance = family.slope(m), family.variance(m)
        w = 1 / (slope**2 * variance)
        aim = predictor - site.offset + (y - m) * slope
        return {
            "information": (q * w[:, None]).T @ q,
            "aim": q.T @ (w * aim),
            "deviance": family.deviance(y, m).sum(),
            "pearson": ((y - m) ** 2 / variance).sum(),
        }

    def combine(total: Arrays, state: State) -> State:
        frame: Frame = state["frame"]
        n = max(state["n_obs"], 1)
        size = 1.0 if bounded else np.trace(total["information"]) / n / p
        check_information(
            total["information"] / n / max(size, _LEAST),
            frame,
            names,
            "outcomes are all alike, or a term tells them apart without error (separation)",
        )
        found = np.linalg.solve(total["information"], total["aim"])
        before = state.get("found")
        moved = np.inf if before is None else np.abs(found - before).max() / (1 + np.abs(found).max())
        return {
            **state,
            "found": found,
            "information": total["information"],
            "deviance": float(total["deviance"]),
            "pearson": float(total["pearson"]),
            "n_steps": state.get("n_steps", 0) + 1,
            "stands": moved < _STANDS,
        }

    return FederatedSum(
        name="normal equations",
        shapes={"information": (p, p), "aim": (p,), "deviance": (), "pearson": ()},
        local=local,
        combine=combine,
        says="products of columns of the design with each other and with the response, weighted; and how well the model fits",
        scale=FINE_SCALE,
        records=lambda site, _: len(site.y),
        cells=designed(lambda site: site.x, p, **outcomes),
        steps=STEPS,
        until=lambda state: state["stands"],
    )
