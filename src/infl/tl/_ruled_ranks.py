"""Wilcoxon's rank-sum test under rules of disclosure: bins in which each site has enough values of each group, or none.

All values of a feature are one bin at first. A bin is cut in two where no site objects, which one does that would have 1 to k - 1 values of
a group in either half; where one does, other cuts are tried. Numbers of values are opened at last, of the bins that are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from infl.data.consortium import alongside
from infl.sums import COUNT_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import Cells, Sizes, small_numbers
from infl.sums.disclosure import control
from infl.sums.shape import Arrays
from infl.tl._group_sums import Grouped, group_cells
from infl.tl._rank_sums import counts_between, single, spaced_edges

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.privacy.rules import DisclosureRules

_CUTS = np.array([0.5, 0.25, 0.75, 0.375, 0.625, 0.125, 0.875])
_AT_ZERO = 2  # cuts that are tried first in a bin with 0, so that it gets a bin of its own
_STEPS = 80


@dataclass(frozen=True, kw_only=True)
class Ranked(Grouped):
    """A site's groups with numbers of values below each edge, 0 before the first, (k, n_vars, b + 1).

    `told`: what rules of disclosure know the edges and groups by.
    """

    below: np.ndarray
    told: str

    @classmethod
    def of(cls, site: Grouped, edges: np.ndarray) -> Ranked:
        """Count a site's values."""
        between = counts_between(site, edges, slice(0, len(edges)), by_group=True)
        nothing = np.zeros((*between.shape[:2], 1))
        below = np.concatenate([nothing, between.cumsum(axis=2)], axis=2)
        return cls(site.matrix, site.codes, site.k, below=below, told=f"ranks {digest_of(edges, site.sets())}")

    def inside(self, start: np.ndarray, end: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return numbers of values from one edge to another, of some features, (k, n)."""
        return self.below[:, features, end] - self.below[:, features, start]


@dataclass(frozen=True)
class Bins:
    """Bins of each feature so far, (n_vars, b) each: where one begins, whether it is cut again, and how many cuts were tried.

    `zero`: between which edges 0 is alone, (n_vars,).
    """

    begins: np.ndarray
    open: np.ndarray
    tried: np.ndarray
    zero: np.ndarray

    @classmethod
    def whole(cls, zero: np.ndarray, b: int) -> Bins:
        """One bin for each feature."""
        first = np.zeros((len(zero), b), dtype=bool)
        first[:, 0] = True
        return cls(first, first.copy(), np.zeros(first.shape, dtype=int), zero)

    def ranges(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return feature, beginning and end of bins, (n,) each; `chosen` are true where one of them begins, (n_vars, b)."""
        b = self.begins.shape[1]
        feature, start = np.nonzero(chosen)
        ends = np.hstack([np.where(self.begins, np.arange(b), b)[:, 1:], np.full((len(self.begins), 1), b)])
        return feature, start, np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1][feature, start]

    def cuts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return of each bin that is cut its feature, where it begins, where it is cut, and where it ends, (n,) each."""
        feature, start, end = self.ranges(self.open)
        zero, tried = self.zero[feature], self.tried[feature, start]
        with_zero = (start <= zero) & (zero < end)
        share = _CUTS[np.clip(tried - _AT_ZERO * with_zero, 0, len(_CUTS) - 1)]
        cut = start + np.maximum(1, ((end - start) * share).astype(int))
        cut = np.where(with_zero & (tried == 0), np.where(start < zero, zero, zero + 1), cut)
        cut = np.where(with_zero & (tried == 1) & (zero + 1 < end), zero + 1, cut)
        return feature, start, cut, end

    def after(self, few: np.ndarray) -> Bins:
        """Return the bins after all sites said where a half has few, (n_vars, b) at the beginning of each bin."""
        feature, start, cut, end = self.cuts()
        refused = few[feature, start] > 0.5
        begins, opened, tried = self.begins.copy(), np.zeros_like(self.open), self.tried.copy()
        tried[feature, start] += 1
        most = len(_CUTS) + _AT_ZERO * ((start <= self.zero[feature]) & (self.zero[feature] < end))
        again = refused & (tried[feature, start] < most)
        opened[feature[again], start[again]] = True
        feature, start, cut, end = (of[~refused] for of in (feature, start, cut, end))
        begins[feature, cut] = True
        tried[feature, start] = tried[feature, cut] = 0
        opened[feature, start], opened[feature, cut] = cut - start > 1, end - cut > 1
        return replace(self, begins=begins, open=opened, tried=tried)


def cut_sum(n_vars: int, b: int) -> FederatedSum:
    """Return the steps in which bins are cut; sites are :class:`Ranked`, state: ``bins_of``, :class:`Bins`."""

    def local(site: Ranked, state: State) -> Arrays:
        feature, start, cut, end = state["bins_of"].cuts()
        found, k = np.zeros((n_vars, b)), _k()
        given = (site.n >= k)[:, feature] & ~np.isnan(state["mean"])[:, feature]
        for n in (site.inside(start, cut, feature), site.inside(cut, end, feature)):
            found[feature, start] += (given & (n > 0.5) & (n < k - 0.5)).any(axis=0)
        return {"few": np.minimum(found, 1.0).T}

    return FederatedSum(
        name="bins with few values",
        shapes={"few": (b, n_vars)},
        local=local,
        combine=lambda total, state: {
            **state,
            "bins_of": state["bins_of"].after(np.nan_to_num(total["few"], nan=1.0).T),
        },
        says="for each feature and bin: at how many sites a half of it has fewer values of a group than rules of disclosure allow",
        scale=COUNT_SCALE,
        steps=_STEPS,
        until=lambda state: not state["bins_of"].open.any(),
        cells=Cells(
            sets=lambda site, state: site.sets()[-1:],
            measured=lambda site: site.matrix.present,
            on_features=("few",),
            partly=True,
            bins=lambda site, state: site.told,
        ),
    )


def binned_sum(k: int, n_vars: int, b: int, labels: Sequence[str]) -> FederatedSum:
    """Return the sum of numbers of values by group and bin, at where the bin begins; state: ``bins``, (k, n_vars, b)."""

    def local(site: Ranked, state: State) -> Arrays:
        feature, start, end = state["bins_of"].ranges(state["bins_of"].begins)
        found = np.zeros((k, n_vars, b))
        found[:, feature, start] = site.inside(start, end, feature)
        return {"n": np.moveaxis(found, 2, 1)}

    def sizes(site: Ranked, state: State, rules: DisclosureRules) -> Sizes:
        return {"n": small_numbers(local(site, state)["n"], rules)}

    groups = np.arange(k)[:, None, None]
    return FederatedSum(
        name="ranks in bins with enough",
        shapes={"n": (k, b, n_vars)},
        local=local,
        combine=lambda total, state: {**state, "bins": np.moveaxis(np.rint(total["n"]), 1, 2)},
        says="for each group and feature: number of values in bins in which each site has enough of each group, or none",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"n": 1},
        cells=group_cells(
            {"n": groups},
            n_vars,
            labels,
            sizes=sizes,
            dominated=("n",),
            bins=lambda site, state: f"{site.told} {digest_of(state['bins_of'].begins)}",
            closed=lambda state: {"n": np.isnan(state["mean"])[:, None, :]},
        ),
    )


def ruled_ranks(
    grouped: Mapping[str, Grouped], state: State, n_bins: int, labels: Sequence[str], key: Keyring | None
) -> State:
    """Return the state with ``bins``, (k, n_vars, b), and ``tied``, (n_vars, b): which bins have one value alone."""
    edges = spaced_edges(*_about(state), n_bins)
    zero = (edges < 0).sum(axis=1)
    (k, n_vars), b = state["n"].shape, edges.shape[1] + 1
    sites = {site: Ranked.of(of_site, edges) for site, of_site in grouped.items()}
    state = {**state, "bins_of": Bins.whole(zero, b)}
    sums = [cut_sum(n_vars, b), binned_sum(k, n_vars, b, labels)]
    state = run_sums(sums, alongside(grouped, sites), key, state=state, about="markers")
    begins = state["bins_of"].begins
    alone = begins & np.hstack([begins[:, 1:], np.ones((n_vars, 1), dtype=bool)])
    alone[:, 1:-1] &= single(edges)
    alone[:, [0, -1]] = False
    return {**state, "tied": alone}


def _about(state: State) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature over the groups that are open, (n_vars,) each."""
    known = ~np.isnan(state["mean"])
    n, mean = np.where(known, state["n"], 0), np.where(known, state["mean"], 0)
    count = np.maximum(n.sum(axis=0), 1)
    centre = (n * mean).sum(axis=0) / count
    squares = np.nan_to_num(state["squares"]) + n * (mean - centre) ** 2
    spread = np.sqrt(squares.sum(axis=0) / count)
    return centre, np.where(spread > 0, spread, 1.0)


def digest_of(*arrays: np.ndarray) -> str:
    """Return a digest of arrays."""
    digest = sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _k() -> int:
    rules = control()
    return 1 if rules is None else rules.rules.k
