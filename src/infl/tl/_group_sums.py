"""Means and variances of each feature in each group of observations, over all sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from infl.pp._matrix import SiteMatrix
from infl.pp._moments import column_sums, power_of_two
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.shape import Arrays

_STORED = 1 << 22  # values of a sparse matrix that are looked at in one piece


@dataclass(frozen=True)
class Grouped:
    """A site's matrix, and the number of each observation's group among `k`, (n_obs,)."""

    matrix: SiteMatrix
    codes: np.ndarray
    k: int

    @property
    def n(self) -> np.ndarray:
        """Number of observations of each group, 0 for features that were not measured. ``(k, n_vars)``"""
        return np.outer(np.bincount(self.codes, minlength=self.k), self.matrix.present).astype(float)

    def blocks(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Groups of some observations, (n,), and their values, (n, n_vars)."""
        block: Any
        for rows, block in self.matrix.blocks():
            codes = self.codes[rows]
            n_rows = len(codes)
            if sparse.issparse(block):
                n_rows = max(1, n_rows * _STORED // max(block.nnz, _STORED))
            for start in range(0, len(codes), n_rows):
                yield codes[start : start + n_rows], block[start : start + n_rows]

    def added(self, codes: np.ndarray, block: Any, values: np.ndarray) -> np.ndarray:
        """Sums by group, (k, n_vars), of what became of a block's values: all of them, or a sparse block's stored ones."""
        n_vars = block.shape[1]
        if sparse.issparse(block):
            cell = np.repeat(codes, np.diff(block.indptr)).astype(np.int64) * n_vars + block.indices
            return np.bincount(cell, weights=values, minlength=self.k * n_vars).reshape(self.k, n_vars)
        member = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(self.k, len(codes)))
        return member @ values.astype(np.float64, copy=False)


@dataclass(frozen=True)
class GroupMoments:
    """Over all sites, (k, n_vars) each: numbers of observations, means, squared distances from them, values other than 0.

    Examples
    --------
    >>> found = GroupMoments(np.array([[1.0], [1], [2]]), np.array([[1.0], [3], [5]]), np.array([[0.0], [0], [2]]))
    >>> rest = found.rest(2)
    >>> rest.n.tolist(), rest.mean.tolist(), rest.squares.tolist()
    ([2.0], [2.0], [2.0])
    """

    n: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    nonzero: np.ndarray | None = None

    @property
    def var(self) -> np.ndarray:
        """Unbiased variance, NaN for fewer than two observations."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.n > 1, self.squares / (self.n - 1), np.nan)

    @property
    def share(self) -> np.ndarray | None:
        """Share of observations with a value other than 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return None if self.nonzero is None else self.nonzero / self.n

    def of(self, group: int) -> GroupMoments:
        """One group's, (n_vars,) each."""
        nonzero = None if self.nonzero is None else self.nonzero[group]
        return GroupMoments(self.n[group], self.mean[group], self.squares[group], nonzero)

    def rest(self, group: int) -> GroupMoments:
        """Those of the union of all other groups, (n_vars,) each; nothing is subtracted, so small variances stay exact."""
        others = np.arange(len(self.n)) != group
        n, mean = self.n[others], self.mean[others]
        total = n.sum(axis=0)
        center = (n * mean).sum(axis=0) / np.maximum(total, 1)
        squares = (self.squares[others] + n * (mean - center) ** 2).sum(axis=0)
        nonzero = None if self.nonzero is None else self.nonzero[others].sum(axis=0)
        return GroupMoments(total, center, squares, nonzero)


def group_sums(k: int, n_vars: int, *, nonzero: bool = False) -> list[FederatedSum]:
    """Return the sums that moments of groups follow from; sites are :class:`Grouped`, :func:`group_moments` reads the state."""
    table = (k, n_vars)
    shapes = {"n": table, "sum": table, "size": (n_vars,)} | ({"nonzero": table} if nonzero else {})

    def centre(total: Arrays, state: State) -> State:
        n = np.maximum(total["n"], 1)
        scale = power_of_two(total["size"] / np.maximum(total["n"].sum(axis=0), 1))
        found = {"n": np.rint(total["n"]), "mean": total["sum"] / n, "scale": scale}
        return {**state, **found, "nonzero": total.get("nonzero")}

    def behind(site: Grouped, state: State) -> dict[str, Any]:
        counts = {"nonzero": _nonzero(site)} if nonzero else {}
        return {"n": site.n, "sum": site.n, "size": site.n.sum(axis=0), **counts}

    return [
        FederatedSum(
            name="groups",
            shapes=shapes,
            local=lambda site, state: _first(site, nonzero),
            combine=centre,
            says="for each group and feature: number of observations, sum of values"
            + (", number of values other than 0" if nonzero else "")
            + "; for each feature: sum of the sizes of its values",
            scale={"n": COUNT_SCALE, "sum": FINE_SCALE, "size": FINE_SCALE}
            | ({"nonzero": COUNT_SCALE} if nonzero else {}),
            records=behind,
            sensitivity={"n": 1} | ({"nonzero": 1} if nonzero else {}),
        ),
        FederatedSum(
            name="squares of groups",
            shapes={"square": table},
            local=lambda site, state: {"square": _squares(site, state["mean"]) / state["scale"] ** 2},
            combine=lambda total, state: {**state, "squares": np.maximum(total["square"], 0) * state["scale"] ** 2},
            says="for each group and feature: sum of squared distances from the group's mean",
            scale=FINE_SCALE,
            records=lambda site, state: {"square": site.n},
        ),
    ]


def group_moments(state: State) -> GroupMoments:
    """Return the moments after the sums for them."""
    return GroupMoments(state["n"], state["mean"], state["squares"], state["nonzero"])


def _first(site: Grouped, nonzero: bool) -> Arrays:
    """Numbers, Σx and numbers of values other than 0, (k, n_vars) each, and Σ|x|, (n_vars,)."""
    present = site.matrix.present
    sums, sizes = np.zeros((site.k, len(present))), np.zeros(len(present))
    for codes, block in site.blocks():
        sums += site.added(codes, block, block.data if sparse.issparse(block) else block)
        sizes += column_sums(abs(block))
    found = {"n": site.n, "sum": sums * present, "size": sizes * present}
    return found | ({"nonzero": _nonzero(site)} if nonzero else {})


def _nonzero(site: Grouped) -> np.ndarray:
    counts = np.zeros(site.n.shape)
    for codes, block in site.blocks():
        values = block.data if sparse.issparse(block) else block
        counts += site.added(codes, block, (values != 0).astype(np.float64))
    return counts * site.matrix.present


def _squares(site: Grouped, center: np.ndarray) -> np.ndarray:
    """Σ(x − center)², (k, n_vars)."""
    squares = np.zeros(center.shape)
    stored = np.zeros(center.shape)
    for codes, block in site.blocks():
        if sparse.issparse(block):
            at = np.repeat(codes, np.diff(block.indptr)), block.indices
            squares += site.added(codes, block, (block.data - center[at]) ** 2)
            stored += site.added(codes, block, np.ones(block.nnz))
        else:
            squares += site.added(codes, block, (block - center[codes]) ** 2)
            stored += np.bincount(codes, minlength=site.k)[:, None]
    squares += (site.n - stored) * center**2
    return np.where(site.matrix.present, squares, 0)
