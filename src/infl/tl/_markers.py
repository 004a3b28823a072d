"""Features that mark groups of observations, over all sites, as scanpy finds them in the pooled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from infl._parameters import COLUMN, LAYER, Choice, Flag, Names, Text, Whole
from infl._warn import warn
from infl.data.columns import shortlist
from infl.data.consortium import agreed, alongside
from infl.data.copy import own
from infl.data.labels import agree_on_levels, class_numbers
from infl.data.sites import over_sites
from infl.data.units import log_base, warn_of_units
from infl.errors import DataError, SettingsError
from infl.pp._matrix import kinds, matrices
from infl.sums import State, run_sums
from infl.sums.disclosure import control, refuse_groups_of
from infl.tl._group_sums import Grouped, GroupMoments, group_moments, group_sums
from infl.tl._logistic_sums import coefficients_of, logistic_sum
from infl.tl._rank_sums import rank_sums, rank_test, tied_bins
from infl.tl._ruled_ranks import ruled_ranks

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

METHODS = ("t-test", "t-test_overestim_var", "wilcoxon", "logreg")
CORRECTIONS = ("benjamini-hochberg", "bonferroni")
_TYPES = {"names": "O", "scores": "f4", "pvals": "f8", "pvals_adj": "f8", "logfoldchanges": "f4", "z_bounds": "f4"}


@over_sites(
    between=True,
    ruled=True,
    groupby=COLUMN,
    groups=Names(says="'all', or names of groups, each of them once"),
    reference=Text(says="'rest', or the name of a group"),
    n_genes=Whole(1, none=True),
    rankby_abs=Flag(),
    pts=Flag(),
    method=Choice(METHODS),
    corr_method=Choice(CORRECTIONS),
    tie_correct=Flag(),
    n_bins=Whole(8, 1024),
    layer=LAYER,
)
def rank_genes_groups(
    sites: Mapping[str, AnnData] | AnnData,
    groupby: str,
    *,
    groups: str | Sequence[str] = "all",
    reference: str = "rest",
    n_genes: int | None = None,
    rankby_abs: bool = False,
    pts: bool = False,
    method: Literal["t-test", "t-test_overestim_var", "wilcoxon", "logreg"] = "t-test",
    corr_method: Literal["benjamini-hochberg", "bonferroni"] = "benjamini-hochberg",
    tie_correct: bool = False,
    n_bins: int = 64,
    layer: str | None = None,
    key_added: str = "rank_genes_groups",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> None:
    """Rank the features that mark groups of observations, as :func:`scanpy.tl.rank_genes_groups` does for the pooled data.

    Sites send numbers, sums and squared distances from the mean by group and feature, each once; the tests are computed from
    their totals, alike at all sites. scanpy's plots and :func:`scanpy.get.rank_genes_groups_df` take the result.

    Cells of one patient are no independent observations, so p-values between groups of cells are far too small. They
    rank markers; whether a condition changes a feature is a question for :func:`infl.tl.de`, with
    :func:`infl.pp.pseudobulk` before it.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with logarithms; dense, sparse or backed. A site that did not measure a feature
        (``var["infl_present"]``) has no part in its tests.
    groupby
        Column of ``obs`` with the groups. A site need not have all of them.
    groups
        Groups to test, or ``"all"``. With ``reference="rest"`` the others are part of the rest.
    reference
        ``"rest"``: each group against all other observations; else the group that all are compared to.
    n_genes
        Number of features in the tables (None: all).
    rankby_abs
        Rank by the size of the score.
    pts
        Report the share of observations with a value other than 0, which is one more sum.
    method
        ``"t-test"`` (Welch's); ``"t-test_overestim_var"``, which takes the group's size for that of the rest; ``"wilcoxon"``, by
        numbers of values in bins; or ``"logreg"``, coefficients of a logistic regression of the listed groups on all features, by some
        hundred sums of slopes. All sites have to have measured all features for it.
    corr_method
        How p-values are corrected.
    tie_correct
        Correct the variance of rank sums for ties.
    n_bins
        Bins of each feature's values for ``"wilcoxon"``; zero has one of its own. Values in one bin count as tied.
    layer
        Layer to use instead of ``X``; ``raw`` is never used.
    key_added
        Name of the field in ``uns``.

    Returns
    -------
    None. At every site ``uns["rank_genes_groups"]`` is written, alike everywhere: ``params``, and records with one column per
    group, best feature first: ``names``, ``scores``, ``pvals``, ``pvals_adj``, ``logfoldchanges`` (log2; of exponentials of means of
    logarithms, as scanpy has it); with `pts` the tables ``pts`` and ``pts_rest``; with ``"wilcoxon"`` records ``z_bounds``,
    how far a score may be from the one of all values in their order. A feature that fewer than two
    observations of either side have comes last, with NaN. ``"logreg"`` gives ``names`` and ``scores`` alone; of two groups, as scanpy,
    one column named after the first, where what marks the second is above 0.

    Raises
    ------
    infl.errors.DataError
        Groups are numbers or missing, or one has fewer than two observations.
    infl.errors.SettingsError
        There is no such group.

    Warns
    -----
    infl.errors.InflWarning
        Values are counts, or differ in kind between sites, or labels of two sites look like one group, or ``"logreg"`` did not come
        to a stand.

    Examples
    --------
    >>> import infl, scanpy as sc
    >>> sites = infl.datasets.khan_sites()
    >>> infl.tl.rank_genes_groups(sites, "tumour_class")
    >>> sc.get.rank_genes_groups_df(sites["site_3"], "class_2")["names"][:3].tolist()
    ['clone_1388', 'clone_245', 'clone_544']
    """
    refuse_groups_of(groupby)
    at = matrices(sites, layer, key)
    units = kinds(at)
    levels = agree_on_levels(sites, groupby, "groupby")
    chosen = _chosen(levels, groups, reference, groupby)
    bases = {site: adata.uns.get("log1p", {}).get("base") for site, adata in sites.items()}
    base = log_base(agreed(at, "bases of logarithms", bases))
    warn_of_units(units)
    counts = [site for site, kind in units.items() if kind == "raw counts"]
    if counts:
        warn(
            f"{layer or 'X'} of {counts[0]} has raw counts, and groups are compared by logarithms: call infl.pp.log1p first"
        )
    names = next(iter(at.values())).adata.var_names
    codes = {site: class_numbers(m.adata.obs[groupby], levels, groupby, site) for site, m in at.items()}
    grouped = alongside(at, {site: Grouped(matrix, codes[site], len(levels)) for site, matrix in at.items()})
    shape, ranked, rules = (len(levels), len(names)), method == "wilcoxon", control() is not None
    labels = [f"{groupby}: {level}" for level in levels]
    sums = group_sums(*shape, nonzero=pts or (ranked and not rules), labels=labels)
    state = run_sums(sums + (rank_sums(*shape, n_bins) if ranked and not rules else []), grouped, key, about="markers")
    moments = group_moments(state)
    pairs = {name: _pair(moments, levels, name, reference) for name in chosen}
    check_sizes(pairs, reference)
    if method == "logreg":
        tests = logistic(grouped, moments, levels, {*chosen, reference}, key)
    elif ranked:
        state = (
            ruled_ranks(grouped, state, n_bins, labels, key) if rules else state | {"tied": tied_bins(state["edges"])}
        )
        other = None if reference == "rest" else levels.index(reference)
        tests = {name: wilcoxon(state, levels.index(name), other, tie_correct=tie_correct) for name in pairs}
    else:
        tests = {name: welch(*pair, overestimate=method != "t-test") for name, pair in pairs.items()}
    params = {"groupby": groupby, "reference": reference, "method": method, "use_raw": False, "layer": layer}
    result: dict[str, Any] = {"params": params | {"corr_method": corr_method}}
    if pts:
        result |= _shares(moments, pairs, levels, reference, names)
    result |= _records(pairs, tests, names, base, corr_method, Ranking(n_genes, rankby_abs))
    for adata in sites.values():
        own(adata).uns[key_added] = {name: deepcopy(value) for name, value in result.items()}


Pair = tuple[GroupMoments, GroupMoments]
"""Moments of a group, and of what it is compared to; (n_vars,) each."""
Test = dict[str, np.ndarray]
"""``scores``, ``pvals`` and, if there are any, ``z_bounds``, (n_vars,) each."""


@dataclass(frozen=True)
class Ranking:
    """How many features are listed (None: all), and whether by the size of the score."""

    n: int | None
    by_size: bool

    def order(self, scores: np.ndarray) -> np.ndarray:
        """Positions of the features listed, best first, NaN last."""
        return np.argsort(-(np.abs(scores) if self.by_size else scores), kind="stable")[: self.n]


def _chosen(levels: Sequence[str], groups: Sequence[str], reference: str, groupby: str) -> list[str]:
    """Return the groups to test, after checking that they exist."""
    if len(levels) < 2:
        raise DataError(f"groupby {groupby!r} has one group only, {levels[0]!r}: there is nothing to compare it to")
    names = list(levels) if tuple(groups) == ("all",) else list(groups)
    unknown = [name for name in (*names, reference) if name not in levels and name != "rest"]
    if unknown:
        raise SettingsError(
            f"{groupby!r} has no group {unknown[0]!r} at any site; there are {shortlist(list(levels), shown=6)}"
        )
    chosen = [name for name in names if name != reference]
    if not chosen:
        raise SettingsError(f"groups={names} has no group beside the reference: name another one")
    return chosen


def _pair(moments: GroupMoments, levels: Sequence[str], name: str, reference: str) -> Pair:
    group = levels.index(name)
    return moments.of(group), moments.rest(group) if reference == "rest" else moments.of(levels.index(reference))


def check_sizes(pairs: Mapping[str, Pair], reference: str) -> None:
    """Refuse groups of one observation, which have no variance."""
    other = "the rest of it" if reference == "rest" else repr(reference)
    sizes = [(name, repr(name), pair[0]) for name, pair in pairs.items()]
    sizes += [(name, other, pair[1]) for name, pair in pairs.items()]
    for name, who, moments in sizes:
        if np.isnan(moments.n).any():
            continue  # closed by rules of disclosure
        if (n := int(moments.n.max())) < 2:
            raise DataError(
                f"group {name!r} cannot be tested: {who} has {n} observation{'s' * (n != 1)} at all sites together, and "
                "2 are needed; leave it out with groups=, or join groups"
            )


def welch(group: GroupMoments, other: GroupMoments, *, overestimate: bool) -> Test:
    """Return scores and p-values of Welch's t-test; 0 and 1 where nothing differs, NaN where fewer than two have a value."""
    known = (group.n > 1) & (other.n > 1) & ~np.isnan(group.mean) & ~np.isnan(other.mean)
    n_other = group.n if overestimate else other.n
    with np.errstate(divide="ignore", invalid="ignore"):
        t, p = stats.ttest_ind_from_stats(
            group.mean, np.sqrt(group.var), group.n, other.mean, np.sqrt(other.var), n_other, equal_var=False
        )
    scores, pvals = np.where(np.isnan(t), 0, t), np.where(np.isnan(p), 1, p)
    return {"scores": np.where(known, scores, np.nan), "pvals": np.where(known, pvals, np.nan)}


def wilcoxon(state: State, group: int, other: int | None, *, tie_correct: bool) -> Test:
    """Return scores and p-values of the rank-sum test after the sums for it, and how exact the scores are."""
    found = rank_test(state["bins"], state["tied"], group, other, tie_correct=tie_correct)
    return {"scores": found.scores, "pvals": found.pvals, "z_bounds": found.bounds}


def logistic(
    grouped: Mapping[str, Grouped], moments: GroupMoments, levels: Sequence[str], listed: set[str], key: Keyring | None
) -> dict[str, Test]:
    """Return the coefficients of a logistic regression of the listed groups, in scanpy's columns."""
    names = [level for level in levels if level in listed]
    if len(names) < 2:
        raise SettingsError(f"method='logreg' with groups={names}: name two groups or more, which it tells apart")
    for site, of_site in grouped.items():
        if not of_site.matrix.present.all():
            raise DataError(
                f"{site} did not measure {of_site.matrix.adata.var_names[~of_site.matrix.present][0]!r}, and 'logreg' is of all features "
                "together: harmonise with features='intersection'"
            )
    number = np.array([names.index(level) if level in names else -1 for level in levels])
    at = alongside(
        grouped, {site: replace(one, codes=number[one.codes], k=len(names)) for site, one in grouped.items()}
    )
    n_vars = len(next(iter(grouped.values())).matrix.present)
    spread = np.sqrt(moments.squares.sum(axis=0) / np.maximum(moments.n.sum(axis=0), 1))  # within groups
    scaled = {"centre": moments.mean.mean(axis=0), "spread": np.where(spread > 0, spread, 1.0)}
    state = run_sums([logistic_sum(len(names), n_vars)], at, key, state=scaled, about="markers")
    if not state["descent"].stands:
        warn(
            "rank_genes_groups: coefficients of 'logreg' did not come to a stand; scale the features, or take another method"
        )
    return {name: {"scores": scores} for name, scores in zip(names, coefficients_of(state), strict=False)}


def fold_changes(group: GroupMoments, other: GroupMoments, base: float | None) -> np.ndarray:
    """Return log2 of what the means are logarithms of, (n_vars,), by scanpy's convention."""
    factor = 1.0 if base is None else np.log(base)
    known = (group.n > 0) & (other.n > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = np.log2((np.expm1(group.mean * factor) + 1e-9) / (np.expm1(other.mean * factor) + 1e-9))
    return np.where(known, found, np.nan)


def adjusted(p: np.ndarray, method: str) -> np.ndarray:
    """Return p-values corrected for the number of those that are known; NaN stays NaN.

    Examples
    --------
    >>> adjusted(np.array([0.01, np.nan, 0.03]), "bonferroni").tolist()
    [0.02, nan, 0.06]
    """
    known = ~np.isnan(p)
    found = np.full(len(p), np.nan)
    if known.any():
        n = known.sum()
        found[known] = (
            stats.false_discovery_control(p[known]) if method != "bonferroni" else np.minimum(p[known] * n, 1)
        )
    return found


def _records(
    pairs: Mapping[str, Pair],
    tests: Mapping[str, Test],
    names: pd.Index,
    base: float | None,
    corr_method: str,
    ranking: Ranking,
) -> dict[str, np.recarray]:
    """Return scanpy's records, one column for each group."""
    columns: dict[str, dict[str, Any]] = {}
    for group, test in tests.items():
        order = ranking.order(test["scores"])
        found = test | {"names": names.to_numpy(dtype=object)}
        if "pvals" in test:
            corrected, changes = adjusted(test["pvals"], corr_method), fold_changes(*pairs[group], base)
            found |= {"pvals_adj": corrected, "logfoldchanges": changes}
        for field, values in found.items():
            columns.setdefault(field, {})[group] = values[order]
    return {
        field: pd.DataFrame(of).to_records(index=False, column_dtypes=_TYPES[field]) for field, of in columns.items()
    }


def _shares(
    moments: GroupMoments, pairs: Mapping[str, Pair], levels: Sequence[str], reference: str, names: pd.Index
) -> dict[str, pd.DataFrame]:
    """Return scanpy's tables of shares of observations with a value other than 0."""
    listed = [*pairs] if reference == "rest" else [*pairs, reference]
    found = {"pts": {name: moments.of(levels.index(name)).share for name in listed}}
    if reference == "rest":
        found["pts_rest"] = {name: pair[1].share for name, pair in pairs.items()}
    return {field: pd.DataFrame(shares, index=names.copy()) for field, shares in found.items()}
