"""Linear models of each feature over all sites: normal equations, then what is left of the values after the fit.

The second pass mends the first: products of residuals with the design say how far the coefficients are off (iterative
refinement), and squares of residuals lose nothing to cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from infl.pp._matrix import SiteMatrix
from infl.sums import COUNT_SCALE, FederatedSum, Scale, State
from infl.sums.shape import Arrays

DEEP_SCALE = Scale(-80, limbs=5)
"""Multiples of 2⁻⁸⁰ up to 2¹³⁸: squares of small residuals beside sums of large values."""
_DENSE = 1 << 22  # values that are made dense in one piece
_ESTIMABLE = 1e-6  # share of a contrast's length that may lie outside what the design determines
_SMALLEST = 1e-10  # eigenvalue of scaled normal equations that is none

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From a block's values, (n, n_vars), and the positions of its rows, (n,), to what is modelled."""
Weights = Callable[[np.ndarray, np.ndarray, State], np.ndarray]
"""From the same and the state to weights, (n, n_vars)."""


@dataclass(frozen=True)
class Designed:
    """A site's matrix, its rows of the design, (n_obs, p), and what is modelled of its values if not they themselves."""

    matrix: SiteMatrix
    design: np.ndarray
    values: Values | None = None

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Positions of some rows, (n,), their values, 0 where there is none, and where there is one, (n, n_vars) each."""
        for rows, whole in self.matrix.blocks():
            n_rows = max(1, _DENSE // max(1, whole.shape[1]))
            for start in range(0, whole.shape[0], n_rows):
                part = whole[start : start + n_rows]
                y = (part.toarray() if sparse.issparse(part) else part).astype(np.float64)
                at = np.arange(rows.start + start, rows.start + start + len(y))
                y = y if self.values is None else self.values(y, at)
                known = np.isfinite(y) & self.matrix.present
                yield at, np.where(known, y, 0), known


def design_sum(p: int) -> FederatedSum:
    """Return the sum that says whether a design determines its coefficients; sites are :class:`Designed`."""

    def local(site: Designed, state: State) -> Arrays:
        x = site.design
        varies = (np.ptp(x, axis=0) > 0).astype(float) if len(x) else np.zeros(p)
        return {"n": len(x), "products": x.T @ x, "varies": varies}

    return FederatedSum(
        name="design",
        shapes={"n": (), "products": (p, p), "varies": (p,)},
        local=local,
        combine=lambda total, state: {**state, "n_obs": int(np.rint(total["n"])), **total},
        says="number of observations, products of all pairs of columns of the design, and at how many sites each column varies",
        scale={"n": COUNT_SCALE, "products": DEEP_SCALE, "varies": COUNT_SCALE},
        records=lambda site, state: {"n": len(site.design), "products": _both(site.design)},
        sensitivity={"n": 1},
    )


def linear_sums(
    p: int, n_vars: int, *, weights: Weights | None = None, name: str = "linear models"
) -> list[FederatedSum]:
    """Return the sums that a linear model of each feature follows from; :func:`linear_fit` reads the state."""
    pairs = p * (p + 1) // 2

    def equations(site: Designed, state: State) -> Arrays:
        found = {
            "n": np.zeros(n_vars),
            "sum": np.zeros(n_vars),
            "xx": np.zeros((pairs, n_vars)),
            "xy": np.zeros((p, n_vars)),
        }
        for at, y, known in site.blocks():
            x, w = site.design[at], known if weights is None else known * weights(y, at, state)
            found["n"] += known.sum(axis=0)
            found["sum"] += y.sum(axis=0)
            found["xx"] += _pairs(x).T @ w.astype(float)
            found["xy"] += x.T @ (w * y)
        return found

    def residuals(site: Designed, state: State) -> Arrays:
        found = {"rr": np.zeros(n_vars), "xr": np.zeros((p, n_vars))}
        for at, y, known in site.blocks():
            x, w = site.design[at], known if weights is None else known * weights(y, at, state)
            left = np.where(known, y - x @ state["beta"].T, 0)
            found["rr"] += (w * left**2).sum(axis=0)
            found["xr"] += x.T @ (w * left)
        return found

    def behind(site: Designed, state: State) -> dict[str, np.ndarray]:
        n, xx, xy = np.zeros(n_vars), np.zeros((pairs, n_vars)), np.zeros((p, n_vars))
        for at, _, known in site.blocks():
            x = (site.design[at] != 0).astype(float)
            n, xx, xy = n + known.sum(axis=0), xx + _pairs(x).T @ known, xy + x.T @ known
        return {"n": n, "sum": n, "xx": xx, "xy": xy, "rr": n, "xr": xy}

    def solved(total: Arrays, state: State) -> State:
        inverse = inverses(total["xx"], p)
        beta = np.einsum("vij,jv->vi", inverse, total["xy"])
        return {
            **state,
            "n": np.rint(total["n"]),
            "sum": total["sum"],
            "xx": total["xx"],
            "inverse": inverse,
            "beta": beta,
        }

    def refined(total: Arrays, state: State) -> State:
        step = np.einsum("vij,jv->vi", state["inverse"], total["xr"])
        left = np.maximum(total["rr"] - (step * total["xr"].T).sum(axis=1), 0)
        return {**state, "beta": state["beta"] + step, "squares": left}

    weighted = "" if weights is None else ", weighted"
    return [
        FederatedSum(
            name=name,
            shapes={"n": (n_vars,), "sum": (n_vars,), "xx": (pairs, n_vars), "xy": (p, n_vars)},
            local=equations,
            combine=solved,
            says=f"for each feature: number and sum of its values, products of columns of the design with each other and with "
            f"the values{weighted}",
            scale={"n": COUNT_SCALE, "sum": DEEP_SCALE, "xx": DEEP_SCALE, "xy": DEEP_SCALE},
            records=lambda site, state: {name: behind(site, state)[name] for name in ("n", "sum", "xx", "xy")},
            sensitivity={"n": 1},
        ),
        FederatedSum(
            name=f"residuals of {name}",
            shapes={"rr": (n_vars,), "xr": (p, n_vars)},
            local=residuals,
            combine=refined,
            says=f"for each feature: squares of what the model leaves of its values, and its products with the design{weighted}",
            scale=DEEP_SCALE,
            records=lambda site, state: {name: behind(site, state)[name] for name in ("rr", "xr")},
        ),
    ]


@dataclass(frozen=True)
class LinearFit:
    """Linear models of all features.

    Attributes
    ----------
    beta
        Coefficients, (n_vars, p).
    inverse
        Generalised inverses of the normal equations, (n_vars, p, p).
    determined
        What of the coefficients the values of a feature determine: projections, (n_vars, p, p).
    squares, df
        Sum of squared residuals, and degrees of freedom left, (n_vars,).
    mean
        Of each feature's values, (n_vars,).
    """

    beta: np.ndarray
    inverse: np.ndarray
    determined: np.ndarray
    squares: np.ndarray
    df: np.ndarray
    mean: np.ndarray

    def estimate(self, contrast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a contrast of the coefficients, and its variance in units of the residuals', NaN where it is not determined."""
        outside = np.abs(self.determined @ contrast - contrast).max(axis=1)
        known = outside <= _ESTIMABLE * np.abs(contrast).max()
        variance = np.einsum("i,vij,j->v", contrast, self.inverse, contrast)
        return np.where(known, self.beta @ contrast, np.nan), np.where(known, variance, np.nan)


def linear_fit(state: State) -> LinearFit:
    """Return the models after the sums for them."""
    inverse, p = state["inverse"], state["beta"].shape[1]
    determined = inverse @ _square(state["xx"], p)
    rank = np.rint(np.trace(determined, axis1=1, axis2=2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = state["sum"] / state["n"]
    return LinearFit(state["beta"], inverse, determined, state["squares"], state["n"] - rank, mean)


def inverses(xx: np.ndarray, p: int) -> np.ndarray:
    """Return generalised inverses of symmetric matrices, (n_vars, p, p), from their lower halves, (pairs, n_vars)."""
    whole = _square(xx, p)
    size = np.sqrt(np.einsum("vii->vi", whole))
    scale = 1 / np.where(size > 0, size, 1)
    values, vectors = np.linalg.eigh(whole * scale[:, :, None] * scale[:, None, :])
    good = values > _SMALLEST
    turned = vectors * scale[:, :, None]
    return (turned * np.where(good, 1 / np.where(good, values, 1), 0)[:, None, :]) @ np.swapaxes(turned, 1, 2)


def _square(xx: np.ndarray, p: int) -> np.ndarray:
    """Whole matrices, (n_vars, p, p)."""
    whole = np.empty((xx.shape[1], p, p))
    i, j = np.tril_indices(p)
    whole[:, i, j] = whole[:, j, i] = xx.T
    return whole


def _pairs(x: np.ndarray) -> np.ndarray:
    """Products of all pairs of columns, (n, pairs)."""
    i, j = np.tril_indices(x.shape[1])
    return x[:, i] * x[:, j]


def _both(x: np.ndarray) -> np.ndarray:
    """Of how many observations each product of two columns is, (p, p)."""
    there: Any = (x != 0).astype(float)
    return there.T @ there
