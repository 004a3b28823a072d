"""Linear models of every feature over all sites, and what ComBat makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from infl.pp._frame import frame_sums
from infl.pp._matrix import SiteMatrix
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.cells import Cells, Sizes, designed
from infl.sums.features import judged
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    from infl.privacy.rules import DisclosureRules

_STANDS = 1e-4  # ComBat's own, in scanpy too: relative change of means and variances


@dataclass(frozen=True)
class Modelled:
    """A site's matrix, its design (n_obs, p), and the number of each observation's batch, (n_obs,)."""

    matrix: SiteMatrix
    x: np.ndarray
    batch: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The matrix, (n_obs, n_vars), in float64."""
        raw = self.matrix.raw
        return np.asarray(raw.toarray() if sparse.issparse(raw) else raw, dtype=np.float64)

    @property
    def design(self) -> np.ndarray:
        """The same as `x`."""
        return self.x

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All values in one part; none is missing."""
        values = self.values
        yield np.arange(len(values)), values, np.ones(values.shape, dtype=bool)


def model_sums(names: Sequence[str], n_vars: int) -> list[FederatedSum]:
    """Return the sums that each feature's coefficients follow from; sites are :class:`Modelled`.

    State: ``coefficients``, (p, n_vars).
    """
    p = len(names)

    def sizes(site: Modelled, state: State, rules: DisclosureRules) -> Sizes:
        return {"aim": judged(site, state, rules)["n"]}

    def combine(total: Arrays, state: State) -> State:
        frame = state["frame"]
        return {**state, "coefficients": frame.back @ (total["aim"] / max(state["n_obs"], 1))}

    return [
        *frame_sums(names, shifted=False),
        FederatedSum(
            name="features",
            shapes={"aim": (p, n_vars)},
            local=lambda site, state: {"aim": state["frame"].rows(site.x).T @ site.values},
            combine=combine,
            says="for each feature: products of its values with each column of the design, summed over records",
            scale=FINE_SCALE,
            records=lambda site, _: len(site.x),
            cells=designed(
                lambda site: site.x,
                p,
                features=n_vars,
                on_features=("aim",),
                sizes=sizes,
                dominated=("aim",),
                partly=True,
                together=True,
            ),
        ),
    ]


def residual_sum(levels: Sequence[str], n_vars: int, p: int) -> FederatedSum:
    """Return the sum of squares that a model leaves in each batch; state: ``n`` (batches,), ``squares`` (batches, n_vars)."""
    n_batches = len(levels)
    numbers = np.arange(n_batches)

    def local(site: Modelled, state: State) -> Arrays:
        left = (site.values - site.x @ state["coefficients"]) ** 2
        member = np.eye(n_batches)[site.batch]
        return {"n": member.sum(axis=0), "squares": member.T @ np.nan_to_num(left)}

    def records(site: Modelled, state: State) -> Arrays:
        n = np.bincount(site.batch, minlength=n_batches).astype(float)
        return {"n": n, "squares": n[:, None]}

    return FederatedSum(
        name="residuals",
        shapes={"n": (n_batches,), "squares": (n_batches, n_vars)},
        local=local,
        combine=lambda total, state: {**state, **total},
        says="for each batch: number of records, and for each feature what the model leaves of its squares",
        scale={"n": COUNT_SCALE, "squares": FINE_SCALE},
        records=records,
        sensitivity={"n": 1},
        cells=Cells(
            sets=lambda site, state: np.vstack([site.batch >= 0, site.batch == numbers[:, None]]),
            of={"n": 1 + numbers, "squares": 1 + numbers[:, None]},
            on_features=("squares",),
            features=n_vars,
            parameters=p,
            labels=("all batches", *levels),
            closed=lambda state: {"squares": np.isnan(state["coefficients"][:n_batches])},
            partly=True,
            together=True,
        ),
    )


@dataclass(frozen=True)
class Shifts:
    """ComBat's batch effects: mean and variance of each feature in each batch, (batches, n_vars), and the pooled (n_vars,) ones."""

    mean: np.ndarray
    variance: np.ndarray
    grand: np.ndarray
    pooled: np.ndarray


def shifts_of(effects: np.ndarray, n: np.ndarray, squares: np.ndarray) -> Shifts:
    """Return ComBat's estimates from batch means (batches, n_vars), numbers (batches,) and residual squares (batches, n_vars)."""
    grand = n @ effects / n.sum()
    pooled = squares.sum(axis=0) / n.sum()
    varies = pooled > 0
    unit = np.where(varies, pooled, 1.0)
    mean, variance = (effects - grand) / np.sqrt(unit), squares / unit / (n - 1)[:, None]
    found = [_shrunk(mean[b][varies], variance[b][varies], n[b]) for b in range(len(n))]
    means, variances = np.zeros_like(mean), np.ones_like(variance)
    for b, (centre, spread) in enumerate(found):
        means[b, varies], variances[b, varies] = centre, spread
    return Shifts(means, variances, grand, unit)


def _shrunk(mean: np.ndarray, variance: np.ndarray, n: float) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances drawn to those of all features (parametric empirical Bayes of Johnson, Li and Rabinovic 2007)."""
    centre, spread = mean.mean(), mean.var()
    m, s2 = variance.mean(), variance.var(ddof=1)
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    g, d, change = mean, variance, 1.0
    while change > _STANDS:
        new = (spread * n * mean + d * centre) / (spread * n + d)
        left = (n - 1) * variance + n * (mean - new) ** 2
        newer = (0.5 * left + rate) / (n / 2 + shape - 1)
        change = max(_change(new, g), _change(newer, d))
        g, d = new, newer
    return g, d


def _change(new: np.ndarray, old: np.ndarray) -> float:
    """Return the largest relative change: infinite from 0, as where a feature is constant in a batch, and none from 0 to 0."""
    unknown = np.where(new == old, 0.0, np.inf)
    return float(np.divide(np.abs(new - old), old, out=unknown, where=old != 0).max())
