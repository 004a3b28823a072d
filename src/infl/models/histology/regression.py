"""Kernel ridge regression of expression on numbers of colour and texture, exact over sites since all it needs are sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from infl.models.histology.expression import Expression, counts_of
from infl.models.histology.spots import blocks
from infl.sums import FederatedSum, SiteView, State

if TYPE_CHECKING:
    from infl.models.histology.spots import Spots
    from infl.nn.histology import HistologyNet
    from infl.sums.shape import Arrays

N_WAVES = 512
"""Random features of the kernel."""
KERNEL_WIDTH = 0.2
"""γ of exp(−γ |x − y|² / d) for standardised numbers."""


def moments(expression: Expression, *, n_statistics: int, n_features: int) -> FederatedSum:
    """Return the sum that brings statistics and expression to one scale; state: means, scales and ``level`` of counts."""
    p = n_features
    shapes = {"n": (), "beside": (2, n_statistics), "counts": (p,), "relative": (2, p), "absolute": (2, p)}

    def local(site: SiteView[Spots, HistologyNet], state: State) -> Arrays:
        data = site.data
        sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        for index in blocks(data.train):
            parts = {"beside": data.beside[index], "relative": expression.relative(data, index)}
            parts["absolute"] = np.log1p(counts_of(data, index))
            for name, values in parts.items():
                sums[name] += (values.sum(0, dtype=np.float64), (values.astype(np.float64) ** 2).sum(0))
            sums["counts"] += counts_of(data, index).sum(0)
            sums["n"] += len(index)
        return sums

    largest = np.log1p(expression.target_sum)
    return FederatedSum(
        name="moments",
        shapes=shapes,
        local=local,
        combine=_scales,
        says="number of spots, sums and sums of squares of image statistics and of each feature, to bring them to one scale",
        records=lambda site, state: len(site.data.train),
        sensitivity={"n": 1, "relative": max(largest, largest**2)},
    )


def _scales(total: Arrays, state: State) -> State:
    n, found = float(total["n"]), dict(state)
    for name in ("beside", "relative", "absolute"):
        mean = total[name][0] / n
        found[f"{name}_mean"] = mean
        found[f"{name}_scale"] = np.sqrt(np.maximum(total[name][1] / n - mean**2, 1e-6))
    found["level"] = np.log(np.maximum(total["counts"] / n, 1e-3))
    return found


def products(
    expression: Expression, *, n_statistics: int, n_features: int, ridge: float, refit: bool = False
) -> FederatedSum:
    """Return the sum behind the regression; state: ``coefficients`` (n_statistics + N_WAVES, n_features).

    Of training spots, or with `refit` of all that can be trained on, once what was held out has judged.
    """
    d = n_statistics + N_WAVES
    shapes = {"inner": (d, d), "outer": (d, n_features)}

    def local(site: SiteView[Spots, HistologyNet], state: State) -> Arrays:
        data = site.data
        sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        for index in blocks(data.usable if refit else data.train):
            x = expand(data.beside[index], state)
            sums["inner"] += x.T @ x
            sums["outer"] += x.T @ expression.target(data, index, state)
        return sums

    def combine(total: Arrays, state: State) -> State:
        inner = total["inner"] + ridge * np.eye(len(total["inner"]))
        return {**state, "coefficients": np.linalg.solve(inner, total["outer"])}

    return FederatedSum(
        name="refit" if refit else "products",
        shapes=shapes,
        local=local,
        combine=combine,
        says="sums of products of image statistics and features, for a regression that is exact over sites"
        + (", with the records that were held out" if refit else ""),
        records=lambda site, state: len(site.data.usable if refit else site.data.train),
    )


def regress(data: Spots, index: np.ndarray, private: State) -> np.ndarray:
    """Return the regression's standardised prediction of the spots `index` (n, n_features)."""
    return np.concatenate([expand(data.beside[i], private) @ private["coefficients"] for i in blocks(index)])


def expand(beside: np.ndarray, private: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return statistics (n, d), standardised, with random features of a Gaussian kernel beside (n, d + N_WAVES).

    Inner products approximate the mean of a linear and a Gaussian kernel. The waves are public and the same everywhere.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, NeurIPS 2007.
    """
    x = np.clip((beside.astype(np.float64) - private["beside_mean"]) / private["beside_scale"], -5, 5)
    d = x.shape[1]
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(d, N_WAVES)) * np.sqrt(2 * KERNEL_WIDTH / d)
    curved = np.cos(x @ waves + rng.uniform(0, 2 * np.pi, N_WAVES)) * np.sqrt(2 / N_WAVES)
    return np.concatenate([x / np.sqrt(d), curved], 1) * np.sqrt(0.5)
