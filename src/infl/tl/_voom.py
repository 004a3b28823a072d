"""Counts as logarithms with weights, from how the variance of counts follows their mean over all sites.

Law et al. (2014), voom: precision weights unlock linear model analysis tools for RNA-seq read counts. Genome Biology 15:R29.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.shape import Arrays
from infl.tl._linear_sums import Designed, linear_fit, linear_sums, own_level

_SPAN = 0.5
_MILLION = np.log2(1e6)


@dataclass(frozen=True, kw_only=True)
class Counted(Designed):
    """Counts of a site, and the total of each observation, (n_obs,); what is modelled are logarithms of counts per million."""

    library: np.ndarray


def counted(site: Designed) -> Counted:
    """Return a site's counts."""
    library = np.zeros(len(site.design))
    for rows, block in site.matrix.blocks():
        library[rows] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    values = partial(_log_cpm, library)
    return Counted(site.matrix, site.design, site.within, values, library=library)


def voom_sums(p: int, n_vars: int) -> list[FederatedSum]:
    """Return the sums of a linear model with voom's weights; sites are :class:`Counted`."""
    first = linear_sums(p, n_vars, name="models of logarithms of counts")
    last = first[-1]
    curved = replace(last, combine=lambda total, state: _with_curve(last.combine(total, state)))
    return [library_sum(n_vars), *first[:-1], curved, *linear_sums(p, n_vars, weights=_weights, name="weighted models")]


def library_sum(n_vars: int) -> FederatedSum:
    """Return the sum of logarithms of the observations' totals, and of numbers of counts above 0."""

    def seen(site: Counted) -> np.ndarray:
        found = np.zeros(n_vars)
        for _, block in site.matrix.blocks():
            found += np.asarray((block != 0).sum(axis=0)).ravel()
        return found

    def local(site: Counted, state: State) -> Arrays:
        return {"n": len(site.library), "logs": np.log2(site.library + 1).sum(), "seen": seen(site)}

    return FederatedSum(
        name="totals of counts",
        shapes={"n": (), "logs": (), "seen": (n_vars,)},
        local=local,
        combine=lambda total, state: {
            **state,
            "library": float(total["logs"] / total["n"]),
            "seen": np.rint(total["seen"]),
        },
        says="number of observations, sum of the logarithms of their totals; for each feature: number of counts above 0",
        scale={"n": COUNT_SCALE, "logs": FINE_SCALE, "seen": COUNT_SCALE},
        records=lambda site, state: {"n": len(site.library), "logs": len(site.library), "seen": seen(site)},
        sensitivity={"n": 1, "seen": 1},
    )


def _log_cpm(library: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.log2((y + 0.5) / (library[at, None] + 1)) + _MILLION


def _with_curve(state: State) -> State:
    """Return the state with how the root of the standard deviation follows the mean of logarithms of counts."""
    from statsmodels.nonparametric.smoothers_lowess import lowess

    fit = linear_fit(state)
    used = (state["seen"] > 0) & (fit.df > 0)
    x = fit.mean[used] + state["library"] - _MILLION
    y = (fit.squares[used] / fit.df[used]) ** 0.25
    curve = lowess(y, x, frac=_SPAN, it=3, delta=0.01 * np.ptp(x))
    x, first = np.unique(curve[:, 0], return_index=True)
    return {**state, "curve": (x, curve[first, 1]), "unweighted": fit.beta}


def _weights(site: Counted, at: np.ndarray, state: State) -> np.ndarray:
    """Inverse variances of logarithms by what the unweighted model says their counts are, (n, n_vars)."""
    beta = state["unweighted"]
    level = own_level(site, beta, state, None)
    fitted = level + site.design[at] @ beta.T + np.log2(site.library[at, None] + 1) - _MILLION
    return np.interp(fitted, *state["curve"]) ** -4.0
