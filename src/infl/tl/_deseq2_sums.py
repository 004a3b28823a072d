"""Negative binomial models of counts over all sites, by sums: size factors, dispersions, coefficients.

Love, Huber and Anders (2014), Moderated estimation of fold change and dispersion for RNA-seq data with DESeq2. Genome Biology 15:550.
Muzellec et al. (2023), PyDESeq2. Bioinformatics 39:btad547; bounds and starts are theirs.

Where each site has a level of its own, that level never leaves the site: it is the one that fits the site's counts best beside the
coefficients, and what is sent has been cleared of it (the Schur complement of the normal equations).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.shape import Arrays
from infl.tl._linear_sums import Designed, pairs_of, square_of
from infl.tl._roots import FITTED, Search

LEAST_DISPERSION = 1e-8
_SEARCHED_FROM = 1e-6  # a dispersion whose likelihood falls from here on is none
_LEAST_MEAN = 0.5
_RIDGE = 1e-6
_LARGEST = 30.0  # of a coefficient
_AT_ONCE = 1 << 20  # values that are looked at together
_WITHIN_STEPS = 60


def log_sum(n_vars: int) -> FederatedSum:
    """Return the sum that geometric means follow from; sites are :class:`Designed`, state: ``log_mean``, NaN with a zero."""

    def local(site: Designed, state: State) -> Arrays:
        logs, zeros = np.zeros(n_vars), np.zeros(n_vars)
        for _, y, _ in site.blocks():
            logs, zeros = logs + np.log(np.maximum(y, 1)).sum(axis=0), zeros + (y == 0).sum(axis=0)
        return {"n": np.array(len(site.design)), "logs": logs, "zeros": zeros}

    def combine(total: Arrays, state: State) -> State:
        return {**state, "log_mean": np.where(total["zeros"] < 0.5, total["logs"] / total["n"], np.nan)}

    return FederatedSum(
        name="geometric means",
        shapes={"n": (), "logs": (n_vars,), "zeros": (n_vars,)},
        local=local,
        combine=combine,
        says="for each feature: sum of the logarithms of its counts, and number of zeros",
        scale={"n": COUNT_SCALE, "logs": FINE_SCALE, "zeros": COUNT_SCALE},
        records=lambda site, state: {"n": len(site.design), "logs": len(site.design), "zeros": len(site.design)},
        sensitivity={"n": 1, "zeros": 1},
    )


@dataclass(frozen=True)
class Samples:
    """A site's counts, (n, n_vars), its rows of the design, (n, p), and the size factors of its samples, (n,)."""

    y: np.ndarray
    x: np.ndarray
    size: np.ndarray
    within: bool

    def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Some features, and their counts."""
        width = max(1, _AT_ONCE // max(1, len(self.y)))
        for start in range(0, self.y.shape[1], width):
            features = slice(start, start + width)
            yield features, self.y[:, features]

    def means(self, y: np.ndarray, beta: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
        """Means by the model, (n, features), beside coefficients, (features, p)."""
        eta = self.x @ beta.T
        return self.size[:, None] * np.exp(eta + (self._level(y, eta, dispersion) if self.within else 0.0))

    def _level(self, y: np.ndarray, eta: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
        """The site's own level of each feature that fits its counts best."""
        level = (np.log(y / self.size[:, None] + 0.1) - eta).mean(axis=0)
        for _ in range(_WITHIN_STEPS):
            w, z = working(y, self.size[:, None] * np.exp(eta + level), self.size, dispersion)
            new = (w * (z - eta)).sum(axis=0) / w.sum(axis=0)
            change, level = np.abs(new - level).max(initial=0), new
            if change < 1e-10:
                break
        return level


def samples(site: Designed, log_mean: np.ndarray) -> Samples:
    """Return a site's counts with size factors: medians of their ratios to the geometric means, :func:`log_sum`."""
    used = np.isfinite(log_mean)
    y = np.concatenate([y for _, y, _ in site.blocks()])
    size = np.exp(np.median(np.log(y[:, used]) - log_mean[used], axis=1))
    return Samples(y, site.design, size, site.within)


def working(y: np.ndarray, mean: np.ndarray, size: np.ndarray, dispersion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and responses of the next step of iterated least squares, (n, features) each."""
    mean = np.maximum(mean, _LEAST_MEAN)
    return mean / (1 + mean * dispersion), np.log(mean / size[:, None]) + (y - mean) / mean


def moments_sum(p: int, n_vars: int) -> FederatedSum:
    """Return the sum that first dispersions follow from; sites are :class:`Samples`.

    It follows a linear model of normalised counts with the state ``normed``, (n_vars, p), and their ``mean``. State: ``dispersion``.
    """

    def local(site: Samples, state: State) -> Arrays:
        found = {"rough": np.zeros(n_vars), "square": np.zeros(n_vars), "inverse": (1 / site.size).sum()}
        for features, y in site.parts():
            normed = y / site.size[:, None]
            fitted = np.maximum(linear_means(site, normed, state["normed"][features]), 1)
            found["rough"][features] = (((normed - fitted) ** 2 - fitted) / fitted**2).sum(axis=0)
            found["square"][features] = ((normed - state["mean"][features]) ** 2).sum(axis=0)
        return found

    def combine(total: Arrays, state: State) -> State:
        n, mean = state["n_obs"], state["mean"]
        with np.errstate(divide="ignore", invalid="ignore"):
            rough = np.maximum(total["rough"] / (n - state["n_terms"]), 0)
            moments = (total["square"] / (n - 1) - total["inverse"] / n * mean) / mean**2
        first = np.clip(np.minimum(rough, moments), LEAST_DISPERSION, most(state))
        return {**state, "dispersion": np.where(mean > 0, first, 1.0), "beta": state["start"]}

    return FederatedSum(
        name="first dispersions",
        shapes={"rough": (n_vars,), "square": (n_vars,), "inverse": ()},
        local=local,
        combine=combine,
        says="for each feature: squared distances of normalised counts from a linear model, and from their mean; sum of inverse size "
        "factors",
        scale=FINE_SCALE,
        records=lambda site, state: len(site.y),
    )


def linear_means(site: Samples, normed: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """What a linear model says of normalised counts, (n, features), a site's own level included."""
    fitted = site.x @ beta.T
    return fitted + (normed - fitted).mean(axis=0) if site.within else fitted


def most(state: State) -> float:
    """Return the largest dispersion that is looked for."""
    return float(max(10, state["n_obs"]))


def coefficients_sum(p: int, n_vars: int, *, name: str, steps: int = 40) -> FederatedSum:
    """Return the sum of normal equations of iterated least squares; sites are :class:`Samples`.

    State: ``beta``, (n_vars, p), from ``beta`` and ``dispersion``.
    """
    pairs = p * (p + 1) // 2

    def local(site: Samples, state: State) -> Arrays:
        found = {"xx": np.zeros((pairs, n_vars)), "xy": np.zeros((p, n_vars))}
        for features, y in site.parts():
            dispersion = state["dispersion"][features]
            mean = site.means(y, state["beta"][features], dispersion)
            w, z = working(y, mean, site.size, dispersion)
            found["xx"][:, features] = information(site, w)[0]
            xy = site.x.T @ (w * z)
            if site.within:
                xy = xy - site.x.T @ w * (w * z).sum(axis=0) / w.sum(axis=0)
            found["xy"][:, features] = xy
        return found

    def combine(total: Arrays, state: State) -> State:
        whole = square_of(total["xx"], p) + _RIDGE * np.eye(p)
        found = np.linalg.solve(whole, total["xy"].T[:, :, None])[:, :, 0]
        found = np.clip(found, -_LARGEST, _LARGEST)
        return {**state, "beta": found, "changed": float(np.abs(found - state["beta"]).max(initial=0))}

    return FederatedSum(
        name=name,
        shapes={"xx": (pairs, n_vars), "xy": (p, n_vars)},
        local=local,
        combine=combine,
        says="for each feature: products of the columns of the design with each other and with counts, weighted by what the model says of "
        "them",
        scale=FINE_SCALE,
        records=lambda site, state: len(site.y),
        steps=steps,
        until=lambda state: state["changed"] < FITTED,
        called="{name}",
    )


def information(site: Samples, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Products of the design's columns by weights, without the site's own level, (pairs, features), and the weight of that."""
    xx, total = pairs_of(site.x).T @ w, w.sum(axis=0)
    if site.within:
        i, j = np.tril_indices(site.x.shape[1])
        xw = site.x.T @ w
        xx = xx - xw[i] * xw[j] / np.where(total > 0, total, 1)
    return xx, total


def last_sum(p: int, n_vars: int) -> FederatedSum:
    """Return the sum that standard errors follow from; state: ``information``, (n_vars, p, p)."""
    pairs = p * (p + 1) // 2

    def local(site: Samples, state: State) -> Arrays:
        found = np.zeros((pairs, n_vars))
        for features, y in site.parts():
            dispersion = state["dispersion"][features]
            mean = site.means(y, state["beta"][features], dispersion)
            found[:, features] = information(site, mean / (1 + mean * dispersion))[0]
        return {"xx": found}

    return FederatedSum(
        name="information",
        shapes={"xx": (pairs, n_vars)},
        local=local,
        combine=lambda total, state: {**state, "information": square_of(total["xx"], p)},
        says="for each feature: products of the columns of the design with each other, weighted by what the model says of the counts",
        scale=FINE_SCALE,
        records=lambda site, state: len(site.y),
    )


def dispersion_sum(p: int, n_vars: int, *, linear: bool, name: str, steps: int = 45) -> FederatedSum:
    """Return the sum of slopes of the profile likelihood of dispersions, adjusted as Cox and Reid have it.

    Means are those of the coefficients ``mean_beta`` and dispersions ``mean_dispersion``, or with `linear` of ``normed``. With
    ``prior``, (n_vars,), and ``prior_var``, logarithms of dispersions have that prior. State: ``dispersion``.
    """
    pairs = p * (p + 1) // 2

    def local(site: Samples, state: State) -> Arrays:
        found: Arrays = {"slope": np.zeros(n_vars), "xx": np.zeros((pairs, n_vars)), "dxx": np.zeros((pairs, n_vars))}
        for features, y in site.parts():
            alpha = np.exp(state["search"].at[features])
            if linear:
                normed = y / site.size[:, None]
                mean = site.size[:, None] * linear_means(site, normed, state["normed"][features])
                mean = np.maximum(mean, _LEAST_MEAN)
            else:
                mean = site.means(y, state["mean_beta"][features], state["mean_dispersion"][features])
            w = mean / (1 + mean * alpha)
            xx, total = information(site, w)
            dxx, slope = _turned(site, w, alpha), likelihood_slope(y, mean, alpha)
            if site.within:
                slope = slope + 0.5 * alpha * (w**2).sum(axis=0) / np.where(total > 0, total, 1)
            found["slope"][features], found["xx"][:, features], found["dxx"][:, features] = slope, xx, dxx
        return found

    def combine(total: Arrays, state: State) -> State:
        search = state["search"]
        turned = np.linalg.pinv(square_of(total["xx"], p), hermitian=True) @ square_of(total["dxx"], p)
        slope = total["slope"] - 0.5 * np.trace(turned, axis1=1, axis2=2)
        if "prior" in state:
            slope = slope - (search.at - state["prior"]) / state["prior_var"]
        return {**state, "search": search.after(slope)}

    return FederatedSum(
        name=name,
        shapes={"slope": (n_vars,), "xx": (pairs, n_vars), "dxx": (pairs, n_vars)},
        local=local,
        combine=combine,
        says="for each feature: slope of the likelihood of a dispersion, and products of the columns of the design with each other, "
        "weighted by what the model says of the counts",
        scale=FINE_SCALE,
        records=lambda site, state: len(site.y),
        steps=steps,
        until=lambda state: state["search"].ended,
        called="{name}",
    )


def likelihood_slope(y: np.ndarray, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return slopes of log likelihoods of counts by the logarithm of the dispersion, summed over samples.

    Examples
    --------
    >>> y, mean = np.array([[3.0], [9.0]]), np.array([[5.0], [5.0]])
    >>> bool(likelihood_slope(y, mean, np.array([0.01]))[0] > 0 > likelihood_slope(y, mean, np.array([3.0]))[0])
    True
    """
    r = 1 / alpha
    each = special.digamma(y + r) - special.digamma(r) - np.log1p(mean * alpha) + (mean - y) / (r + mean)
    return -r * each.sum(axis=0)


def _turned(site: Samples, w: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Slope of :func:`information` by the logarithm of the dispersion, (pairs, features)."""
    dw = -alpha * w**2
    found = pairs_of(site.x).T @ dw
    if site.within:
        i, j = np.tril_indices(site.x.shape[1])
        total = np.where(w.sum(axis=0) > 0, w.sum(axis=0), 1)
        xw, xdw = site.x.T @ w, site.x.T @ dw
        found = found - (xdw[i] * xw[j] + xw[i] * xdw[j]) / total + xw[i] * xw[j] * dw.sum(axis=0) / total**2
    return found


def search_of(n_vars: int, state: State) -> Search:
    """Return the search for logarithms of dispersions."""
    return Search.between(np.full(n_vars, np.log(_SEARCHED_FROM)), np.full(n_vars, np.log(most(state))))


def dispersions_of(search: Search, state: State) -> np.ndarray:
    """Return the dispersions that were found."""
    found = np.exp(search.found)
    return np.where(search.found <= search.low + 2 * FITTED, LEAST_DISPERSION, np.minimum(found, most(state)))
