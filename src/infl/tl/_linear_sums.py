"""Linear models of each feature over all sites: normal equations, then what is left of the values after the fit.

Where each site has a level of its own, every site takes its own means off the design and the values. The coefficients are those
of a model with an effect of each site, and no site's own sums leave it.

The second pass mends the first: products of residuals with the design say how far the coefficients are off (iterative
refinement), and squares of residuals lose nothing to cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from infl.pp._matrix import SiteMatrix
from infl.sums import COUNT_SCALE, FederatedSum, Scale, State
from infl.sums.cells import Cells, baselines, designed, supports
from infl.sums.features import judged
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    pass

DEEP_SCALE = Scale(-80, limbs=5)
"""Multiples of 2⁻⁸⁰ up to 2¹³⁸: squares of small residuals beside sums of large values."""
_DENSE = 1 << 22  # values that are made dense in one piece
_ESTIMABLE = 1e-6  # share of a contrast's length that may lie outside what the design determines
_SMALLEST = 1e-10  # eigenvalue of scaled normal equations that is none
_CONSTANT = 1e-12  # share of a column's squares that its own mean leaves of it, up to which it is constant

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From a block's values, (n, n_vars), and the positions of its rows, (n,), to what is modelled."""
Weights = Callable[[Any, np.ndarray, State], np.ndarray]
"""From a site, positions of rows and the state to weights, (n, n_vars)."""


@dataclass(frozen=True)
class Designed:
    """A site's matrix, its rows of the design, (n_obs, p), and what is modelled of its values if not they themselves.

    `within`: the site's own means are taken off.
    """

    matrix: SiteMatrix
    design: np.ndarray
    within: bool = False
    values: Values | None = None

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Positions of some rows, (n,), their values, 0 where there is none, and where there is one, (n, n_vars) each."""
        whole: Any
        for rows, whole in self.matrix.blocks():
            n_rows = max(1, _DENSE // max(1, whole.shape[1]))
            for start in range(0, whole.shape[0], n_rows):
                part = whole[start : start + n_rows]
                y = (part.toarray() if sparse.issparse(part) else part).astype(np.float64, copy=False)
                at = np.arange(rows.start + start, rows.start + start + len(y))
                y = y if self.values is None else self.values(y, at)
                known = np.isfinite(y) & self.matrix.present
                yield at, y if known.all() else np.where(known, y, 0), known


def design_sum(p: int) -> FederatedSum:
    """Return the sum that says whether a design determines its coefficients; sites are :class:`Designed`."""

    def local(site: Designed, state: State) -> Arrays:
        x = site.design
        varies = np.ptp(x, axis=0) > 0
        if site.within:
            x = np.where(varies, x - x.mean(axis=0), 0)
        return {"n": len(x), "products": x.T @ x, "varies": varies.astype(float)}

    return FederatedSum(
        name="design",
        shapes={"n": (), "products": (p, p), "varies": (p,)},
        local=local,
        combine=lambda total, state: {**state, "n_obs": int(np.rint(total["n"])), **total},
        says="number of observations, products of all pairs of columns of the design, and at how many sites each column varies",
        scale={"n": COUNT_SCALE, "products": DEEP_SCALE, "varies": COUNT_SCALE},
        records=lambda site, state: {
            "n": len(site.design),
            "products": square_of(pairs_of(_told(site)).sum(axis=0)[:, None], p)[0],
        },
        sensitivity={"n": 1},
        cells=designed(lambda site: site.design, p),
    )


def linear_sums(
    p: int, n_vars: int, *, weights: Weights | None = None, name: str = "linear models"
) -> list[FederatedSum]:
    """Return the sums that a linear model of each feature follows from; :func:`linear_fit` reads the state."""
    pairs = p * (p + 1) // 2
    weighted = "" if weights is None else ", weighted"

    def behind(*names: str) -> Callable[[Designed, State], dict[str, np.ndarray]]:
        return lambda site, state: {name: found for name, found in _behind(site, p).items() if name in names}

    def cells(*names: str, **more: Any) -> Cells | None:
        on_features = {
            "measured": lambda site: site.matrix.present,
            "on_features": names,
            "features": n_vars,
            "held": _held,
        }
        of_all: dict[str, Any] = on_features | {"partly": True, "together": True, **more}
        return designed(lambda site: site.design, p, **of_all) if weights is None else None

    def solved(total: Arrays, state: State) -> State:
        total = {name: np.nan_to_num(value) for name, value in total.items()}  # what is closed has no values
        inverse = inverses(total["xx"], p)
        beta = np.einsum("vij,jv->vi", inverse, total["xy"])
        counted = {"n": np.rint(total["n"]), "levels": np.rint(total["levels"])}
        return {**state, **counted, "sum": total["sum"], "xx": total["xx"], "inverse": inverse, "beta": beta}

    def refined(total: Arrays, state: State) -> State:
        total = {name: np.nan_to_num(value) for name, value in total.items()}
        step = np.einsum("vij,jv->vi", state["inverse"], total["xr"])
        left = np.maximum(total["rr"] - (step * total["xr"].T).sum(axis=1), 0)
        return {**state, "beta": state["beta"] + step, "squares": left}

    return [
        FederatedSum(
            name=name,
            shapes={"n": (n_vars,), "levels": (n_vars,), "sum": (n_vars,), "xx": (pairs, n_vars), "xy": (p, n_vars)},
            local=lambda site, state: _equations(site, state, weights),
            combine=solved,
            says="for each feature: number and sum of its values, at how many sites there are any, products of columns of the design "
            f"with each other and with the values{weighted}",
            scale={"n": COUNT_SCALE, "levels": COUNT_SCALE, "sum": DEEP_SCALE, "xx": DEEP_SCALE, "xy": DEEP_SCALE},
            records=behind("n", "sum", "xx", "xy"),
            sensitivity={"n": 1, "levels": 1},
            cells=cells(
                "n", "levels", "sum", "xx", "xy", sizes=judged, dominated=("n",), linked=("levels", "sum", "xx", "xy")
            ),
        ),
        FederatedSum(
            name=f"residuals of {name}",
            shapes={"rr": (n_vars,), "xr": (p, n_vars)},
            local=lambda site, state: _residuals(site, state, weights, p),
            combine=refined,
            says=f"for each feature: squares of what the model leaves of its values, and its products with the design{weighted}",
            scale=DEEP_SCALE,
            records=behind("rr", "xr"),
            cells=cells("rr", "xr", closed=lambda state: dict.fromkeys(("rr", "xr"), state["n"] < 0.5)),
        ),
    ]


def _held(site: Designed) -> np.ndarray:
    """Of how many observations each group of the design has a value, first levels too, by feature, (n_groups, n_vars)."""
    sets = np.vstack([supports(site.design), baselines(site.design)[0]])
    found = np.zeros((len(sets), len(site.matrix.present)))
    for at, _, there in site.blocks():
        found += sets[:, at] @ there.astype(float)
    return found


def own_level(site: Designed, beta: np.ndarray, state: State, weights: Weights | None) -> np.ndarray:
    """The site's own level of each feature beside coefficients (n_vars, p): 0 where the design has it, (n_vars,)."""
    n_vars = len(site.matrix.present)
    w_, y_, x_ = np.zeros(n_vars), np.zeros(n_vars), np.zeros((site.design.shape[1], n_vars))
    for at, y, known in site.blocks() if site.within else ():
        w = _weights_of(site, at, known, state, weights)
        w_, y_ = w_ + (len(y) if w is None else w.sum(axis=0)), y_ + _times(w, y).sum(axis=0)
        x_ = x_ + _weighted(site.design[at], w)
    return (y_ - (x_ * beta.T).sum(axis=0)) / np.where(w_ > 0, w_, 1)


def _weights_of(
    site: Designed, at: np.ndarray, known: np.ndarray, state: State, weights: Weights | None
) -> np.ndarray | None:
    """Weights of some rows' values, (n, n_vars), 0 where there is none; None where all are 1, which saves most of the work."""
    if weights is None:
        return None if known.all() else known.astype(float)
    return known * weights(site, at, state)


def _weighted(x: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    """Sums of columns of the design, (p, n_vars), or (p, 1) where they are the same for all features."""
    return x.sum(axis=0)[:, None] if w is None else x.T @ w


def _times(w: np.ndarray | None, y: np.ndarray) -> np.ndarray:
    return y if w is None else w * y


def _equations(site: Designed, state: State, weights: Weights | None) -> Arrays:
    """Normal equations of a site, its own means taken off where they are levels of the model."""
    p, n_vars = site.design.shape[1], len(site.matrix.present)
    n, total, w_, y_ = np.zeros((4, n_vars))
    x_, xy, xx = np.zeros((p, n_vars)), np.zeros((p, n_vars)), np.zeros((p * (p + 1) // 2, n_vars))
    for at, y, known in site.blocks():
        x, w = site.design[at], _weights_of(site, at, known, state, weights)
        wy = _times(w, y)
        n, total = n + (len(y) if w is None else known.sum(axis=0)), total + y.sum(axis=0)
        w_, y_ = w_ + (len(y) if w is None else w.sum(axis=0)), y_ + wy.sum(axis=0)
        x_, xx, xy = x_ + _weighted(x, w), xx + _weighted(pairs_of(x), w), xy + x.T @ wy
    found = {"n": n, "sum": total, "levels": np.zeros(n_vars), "xx": xx, "xy": xy}
    if site.within:
        w_ = np.where(w_ > 0, w_, 1)
        i, j = np.tril_indices(p)
        xx, xy = xx - x_[i] * x_[j] / w_, xy - x_ * y_ / w_
        constant = xx[i == j] <= _CONSTANT * found["xx"][i == j]  # but for rounding; (p, n_vars)
        xx, xy = np.where(constant[i] | constant[j], 0, xx), np.where(constant, 0, xy)
        found |= {"levels": (n > 0).astype(float), "xx": xx, "xy": xy}
    return found


def _residuals(site: Designed, state: State, weights: Weights | None, p: int) -> Arrays:
    """Squares of residuals and their products with the design."""
    found = {"rr": np.zeros(len(site.matrix.present)), "xr": np.zeros((p, len(site.matrix.present)))}
    level = own_level(site, state["beta"], state, weights)
    for at, y, known in site.blocks():
        x, w = site.design[at], _weights_of(site, at, known, state, weights)
        left = y - x @ state["beta"].T
        left -= level
        wl = _times(w, left)
        found["rr"] += np.einsum("ij,ij->j", wl, left)
        found["xr"] += x.T @ wl
    return found


def _behind(site: Designed, p: int) -> dict[str, np.ndarray]:
    """Of how many records each number of the equations is."""
    n_vars = len(site.matrix.present)
    n, xx, xy = np.zeros(n_vars), np.zeros((p * (p + 1) // 2, n_vars)), np.zeros((p, n_vars))
    for at, _, known in site.blocks():
        told = _told(site)[at]
        n, xx, xy = n + known.sum(axis=0), xx + pairs_of(told).T @ known, xy + told.T @ known
    return {"n": n, "sum": n, "xx": xx, "xy": xy, "rr": n, "xr": xy}


def _told(site: Designed) -> np.ndarray:
    """Which records a column of the design tells of, (n_obs, p): those with a value other than 0.

    Within a site, members and others of a group tell of each other, so those count who are fewer.
    """
    told = (site.design != 0).astype(float)
    if site.within:
        more = np.isin(site.design, (0, 1)).all(axis=0) & (told.mean(axis=0) > 0.5)
        told = np.where(more, 1 - told, told)
    return told


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
    determined = inverse @ square_of(state["xx"], p)
    rank = np.rint(np.trace(determined, axis1=1, axis2=2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = state["sum"] / state["n"]
    return LinearFit(state["beta"], inverse, determined, state["squares"], state["n"] - rank - state["levels"], mean)


def inverses(xx: np.ndarray, p: int) -> np.ndarray:
    """Return generalised inverses of symmetric matrices, (n_vars, p, p), from their lower halves, (pairs, n_vars)."""
    whole = square_of(xx, p)
    size = np.sqrt(np.einsum("vii->vi", whole))
    scale = 1 / np.where(size > 0, size, 1)
    values, vectors = np.linalg.eigh(whole * scale[:, :, None] * scale[:, None, :])
    good = values > _SMALLEST
    turned = vectors * scale[:, :, None]
    return (turned * np.where(good, 1 / np.where(good, values, 1), 0)[:, None, :]) @ np.swapaxes(turned, 1, 2)


def square_of(xx: np.ndarray, p: int) -> np.ndarray:
    """Whole matrices, (n_vars, p, p)."""
    whole = np.empty((xx.shape[1], p, p))
    i, j = np.tril_indices(p)
    whole[:, i, j] = whole[:, j, i] = xx.T
    return whole


def pairs_of(x: np.ndarray) -> np.ndarray:
    """Products of all pairs of columns, (n, pairs)."""
    i, j = np.tril_indices(x.shape[1])
    return x[:, i] * x[:, j]
