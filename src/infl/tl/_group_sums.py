"""Means and variances of each feature in each group of observations, over all sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from infl.pp._largest import contributions
from infl.pp._matrix import SiteMatrix
from infl.pp._moments import column_sums, power_of_two
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.cells import Cells, Sizes, small_numbers
from infl.sums.disclosure import persons_of
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    from infl.privacy.rules import DisclosureRules

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

    def sets(self) -> np.ndarray:
        """Which observations each group has, and at last all of them, (k + 1, n_obs)."""
        return np.vstack([self.codes == np.arange(self.k)[:, None], self.codes >= 0])

    def largest(self, rules: DisclosureRules) -> tuple[np.ndarray, np.ndarray]:
        """Largest contribution of one record to each sum of a group, and all of them, (k, n_vars) each."""
        whole = ((np.arange(rows.start, rows.stop), block) for rows, block in self.matrix.blocks())
        parts = ((at, self.codes[at], block) for at, block in whole)
        return contributions(parts, self.k, len(self.matrix.present), persons_of(self.matrix.site, rules))

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
        """Those of the union of all other groups, (n_vars,) each; nothing is subtracted, so small variances stay exact.

        Without groups whose mean is closed by rules of disclosure.
        """
        others = np.arange(len(self.n)) != group
        known = ~np.isnan(self.mean[others])
        n, mean = np.where(known, self.n[others], 0), np.where(known, self.mean[others], 0)
        total = n.sum(axis=0)
        center = (n * mean).sum(axis=0) / np.maximum(total, 1)
        squares = (np.where(known, self.squares[others], 0) + n * (mean - center) ** 2).sum(axis=0)
        nonzero = None if self.nonzero is None else self.nonzero[others].sum(axis=0)
        return GroupMoments(np.where(known.any(axis=0), total, np.nan), center, squares, nonzero)


def group_sums(k: int, n_vars: int, *, nonzero: bool = False, labels: Sequence[str] = ()) -> list[FederatedSum]:
    """Return the sums that moments of groups follow from; sites are :class:`Grouped`, :func:`group_moments` reads the state.

    Parameters
    ----------
    k, n_vars
        Number of groups and features.
    nonzero
        Count values other than 0.
    labels
        What groups are called.
    """
    table = (k, n_vars)
    groups = np.arange(k)[:, None]
    shapes = {"n": table, "sum": table, "size": (n_vars,)} | ({"nonzero": table} if nonzero else {})

    def centre(total: Arrays, state: State) -> State:
        n = np.maximum(total["n"], 1)
        scale = power_of_two(total["size"] / np.maximum(total["n"].sum(axis=0), 1))
        found = {"n": np.rint(total["n"]), "mean": total["sum"] / n, "scale": scale}
        return {**state, **found, "nonzero": total.get("nonzero")}

    def behind(site: Grouped, state: State) -> dict[str, Any]:
        counts = {"nonzero": _nonzero(site)} if nonzero else {}
        return {"n": site.n, "sum": site.n, "size": site.n.sum(axis=0), **counts}

    def sizes(site: Grouped, state: State, rules: DisclosureRules) -> Sizes:
        found = {"sum": site.largest(rules)}
        if nonzero:  # a number tells of fewer than k with a value, or without one
            n = _nonzero(site)
            found["nonzero"] = small_numbers(np.minimum(n, site.n - n), rules)
        return found

    def cells(of: dict[str, Any], **more: Any) -> Cells:
        return group_cells(of, n_vars, labels, parts=k, **more)

    counted = {"nonzero": groups} if nonzero else {}
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
            cells=cells(
                {"n": groups, "sum": groups, "size": k} | counted,
                sizes=sizes,
                dominated=("sum", *counted),
                parted=True,
            ),
        ),
        FederatedSum(
            name="squares of groups",
            shapes={"square": table},
            local=lambda site, state: {"square": _squares(site, state["mean"]) / state["scale"] ** 2},
            combine=lambda total, state: {**state, "squares": np.maximum(total["square"], 0) * state["scale"] ** 2},
            says="for each group and feature: sum of squared distances from the group's mean",
            scale=FINE_SCALE,
            records=lambda site, state: {"square": site.n},
            cells=cells({"square": groups}, closed=lambda state: {"square": np.isnan(state["mean"])}),
        ),
    ]


def group_cells(of: dict[str, Any], n_vars: int, labels: Sequence[str], **more: Any) -> Cells:
    """Return what stands behind numbers by group and feature; `of` has the number of the group by array, `labels` what groups are called."""
    return Cells(
        sets=lambda site, state: site.sets(),
        of=of,
        measured=lambda site: site.matrix.present,
        on_features=tuple(of),
        features=n_vars,
        labels=(*labels, "all groups") if labels else (),
        order=_largest_first,
        partly=True,
        **more,
    )


def _largest_first(sets: np.ndarray) -> list[int]:
    """Order in which groups are tried: the smallest is left out where two cannot be given; and all together at last."""
    return [*np.argsort(-sets[:-1].sum(axis=1), kind="stable").tolist(), len(sets) - 1]


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
