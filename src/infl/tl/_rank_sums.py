"""Wilcoxon's rank-sum test over sites, from numbers of values in bins.

Values between the same two edges count as tied. Edges come in two steps: evenly spaced ones about each feature's mean, then, from how
many values lie between those, ones with about as many values between any two. Zero has a bin of its own. What the order
within bins could change at most is reported beside each score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from infl.sums import COUNT_SCALE, FederatedSum, State
from infl.sums.shape import Arrays
from infl.tl._group_sums import Grouped

_COARSE = 64  # edges of the first step
_WIDTHS = 4.0  # standard deviations to both sides of the mean that they cover
_AT_ONCE = 1 << 22  # numbers in one sum
_ZERO = np.array([np.nextafter(0.0, -1.0), 0.0])  # between these two lies 0 alone


@dataclass(frozen=True)
class RankTest:
    """Scores, p-values, and how far a score may be from the one of all values, (n_vars,) each."""

    scores: np.ndarray
    pvals: np.ndarray
    bounds: np.ndarray


def rank_sums(k: int, n_vars: int, n_bins: int) -> list[FederatedSum]:
    """Return the sums of numbers of values in bins; sites are :class:`Grouped`.

    They begin with the state of :func:`infl.tl._group_sums.group_sums` with numbers of values other than 0. State: ``bins``,
    (k, n_vars, n_bins + 3), and ``edges``, (n_vars, n_bins + 2).
    """
    width = max(1, min(n_vars, _AT_ONCE // (k * (n_bins + 3))))
    steps = -(-n_vars // width)

    def coarse(site: Grouped, state: State) -> Arrays:
        edges = coarse_edges(state)
        return {"n": counts_between(site, edges, slice(0, n_vars), by_group=False)[0]}

    def fine(site: Grouped, state: State) -> Arrays:
        start = len(state["counted"]) * width
        found = np.zeros((k, width, n_bins + 3))
        counts = counts_between(site, state["edges"], slice(start, start + width), by_group=True)
        found[:, : counts.shape[1]] = counts
        return {"n": found}

    def placed(total: Arrays, state: State) -> State:
        return {**state, "edges": fine_edges(coarse_edges(state), np.rint(total["n"]), n_bins), "counted": []}

    def finish(total: Arrays, state: State) -> State:
        return {**state, "bins": np.concatenate([*state["counted"], np.rint(total["n"])], axis=1)[:, :n_vars]}

    return [
        FederatedSum(
            name="values between edges",
            shapes={"n": (n_vars, _COARSE + 3)},
            local=coarse,
            combine=placed,
            says="for each feature: number of values between edges about its mean",
            scale=COUNT_SCALE,
            records=coarse,
            sensitivity={"n": 1},
        ),
        FederatedSum(
            name="ranks",
            shapes={"n": (k, width, n_bins + 3)},
            local=fine,
            combine=lambda total, state: {**state, "counted": [*state["counted"], np.rint(total["n"])]},
            finish=finish,
            says="for each group and feature: number of values between edges that cut all values into about equal parts",
            scale=COUNT_SCALE,
            records=fine,
            sensitivity={"n": 1},
            steps=steps,
        ),
    ]


def coarse_edges(state: State) -> np.ndarray:
    """Edges about the mean of each feature's values other than 0, and around 0, (n_vars, _COARSE + 2), from its moments."""
    n, mean = state["n"], state["mean"]
    count = np.maximum(state["nonzero"].sum(axis=0), 1)
    center = (n * mean).sum(axis=0) / count
    second = (state["squares"] + n * mean**2).sum(axis=0) / count
    spread = np.sqrt(np.maximum(second - center**2, 1e-12 * second))
    return spaced_edges(center, spread, _COARSE)


def spaced_edges(center: np.ndarray, spread: np.ndarray, n: int) -> np.ndarray:
    """Edges evenly spaced about each feature's mean, and around 0, (n_vars, n + 2), from means and standard deviations."""
    return _with_zero(center[:, None] + spread[:, None] * np.linspace(-_WIDTHS, _WIDTHS, n))


def fine_edges(edges: np.ndarray, counts: np.ndarray, n_bins: int) -> np.ndarray:
    """Edges between which about as many values lie, and around 0, (n_vars, n_bins + 2), from numbers between coarse ones."""
    found = np.empty((len(edges), n_bins))
    shares = np.arange(1, n_bins + 1) / (n_bins + 1)
    for v, (at, n) in enumerate(zip(edges, counts, strict=True)):
        n = n.copy()
        n[1:-1][single(at)] = 0  # zeros need no more edges
        reach = at[-1] - at[0]
        ends = np.concatenate([[at[0] - reach], at, [at[-1] + reach]])
        below = np.concatenate([[0], np.cumsum(n)])
        found[v] = np.interp(shares * below[-1], below, ends) if below[-1] else np.linspace(ends[0], ends[-1], n_bins)
    return _with_zero(found)


def single(edges: np.ndarray) -> np.ndarray:
    """Between which neighbouring edges one value fits alone, so that what lies there is tied."""
    return np.nextafter(edges[..., :-1], np.inf) >= edges[..., 1:]


def tied_bins(edges: np.ndarray) -> np.ndarray:
    """Return in which bins one value is alone, (n_vars, b)."""
    found = np.zeros((len(edges), edges.shape[1] + 1), dtype=bool)
    found[:, 1:-1] = single(edges)
    return found


def rank_test(bins: np.ndarray, tied: np.ndarray, group: int, other: int | None, *, tie_correct: bool) -> RankTest:
    """Test a group against another one, or None: against all others.

    Parameters
    ----------
    bins
        Numbers of values, (k, n_vars, b); NaN where rules of disclosure have closed a group, which is no part of the others.
    tied
        In which bins all values are equal, (n_vars, b).
    group, other
        Numbers of the groups.
    tie_correct
        Whether the variance is corrected for ties.
    """
    own = bins[group]
    rest = np.nansum(bins, axis=0) - own if other is None else bins[other]
    both = own + rest
    n, m, total = own.sum(axis=1), rest.sum(axis=1), both.sum(axis=1)
    middle = np.cumsum(both, axis=1) - (both - 1) / 2  # mean rank in each bin
    above = (own * middle).sum(axis=1) - n * (total + 1) / 2
    unknown = np.where(tied, 0, own * rest / 2).sum(axis=1)
    cubes = both**3 - both
    least, most = (np.where(tied, cubes, 0).sum(axis=1), cubes.sum(axis=1)) if tie_correct else (0.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = n * m * (total + 1) / 12
        high, low = (np.sqrt(variance * (1 - ties / (total**3 - total))) for ties in (least, most))
        z = above / low  # what is in one bin counts as tied
        bounds = np.maximum(unknown / low, np.abs(z) - np.maximum(np.abs(above) - unknown, 0) / high)
    in_one_bin = ((both > 0).sum(axis=1) == 1) & ((both > 0) & ~tied).any(axis=1)  # whose order is not known at all
    known = (n > 0) & (m > 0) & ~in_one_bin
    z = np.where(known, np.where(np.isnan(z), 0, z), np.nan)
    return RankTest(z, 2 * stats.norm.sf(np.abs(z)), np.where(known & np.isnan(bounds), 0, bounds))


def _with_zero(edges: np.ndarray) -> np.ndarray:
    return np.sort(np.hstack([edges, np.tile(_ZERO, (len(edges), 1))]), axis=1)


def counts_between(site: Grouped, edges: np.ndarray, columns: slice, *, by_group: bool) -> np.ndarray:
    """Numbers of values between edges, of some features: (k or 1, columns, edges + 1)."""
    edges, present = edges[columns], site.matrix.present[columns]
    k, b = site.k if by_group else 1, edges.shape[1] + 1
    found = np.zeros((k, len(edges), b))
    for codes, values, n_zero in _columns(site, columns, by_group):
        for v in np.flatnonzero(present):
            where, x = values[v]
            found[:, v] += np.bincount(codes[where] * b + np.searchsorted(edges[v], x), minlength=k * b).reshape(k, b)
            found[:, v, np.searchsorted(edges[v], 0.0)] += n_zero[:, v]
    return found


def _columns(
    site: Grouped, columns: slice, by_group: bool
) -> Iterator[tuple[np.ndarray, list[tuple[np.ndarray | slice, np.ndarray]], np.ndarray]]:
    """Of each block: groups of its rows; rows and values of each feature; how many values are left out, which are 0."""
    for codes, block in site.blocks():
        codes = codes if by_group else np.zeros_like(codes)
        n = np.bincount(codes, minlength=site.k if by_group else 1).astype(float)[:, None]
        part = block[:, columns].astype(np.float64)
        if sparse.issparse(part):
            part = part.tocsc()
            ranges = [slice(*pair) for pair in zip(part.indptr[:-1], part.indptr[1:], strict=True)]
            stored = np.stack([np.bincount(codes[part.indices[r]], minlength=len(n)) for r in ranges], axis=1)
            yield codes, [(part.indices[r], part.data[r]) for r in ranges], n - stored
        else:
            yield codes, [(slice(None), x) for x in part.T], np.zeros((len(n), part.shape[1]))
