"""What sites have, to look at before anything is fitted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from infl._html import notebook, table
from infl._parameters import LAYER, Flag, Names, Several, Whole
from infl.data.columns import known_truths, shortlist
from infl.data.consortium import alongside
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.data.units import units_of
from infl.errors import DataError
from infl.pp._matrix import SiteMatrix, matrices
from infl.pp._moments import Rows, column_sums, whole_numbers
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import Sizes, everyone, small_numbers

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.privacy.rules import DisclosureRules

_TOP = (50, 100, 200, 500)
_DOUBLE = ("log1p_n_", "pct_counts_in_top_")  # metrics that scanpy gives in float64 whatever the values' type
_PERCENT = np.arange(0, 101, 5.0)
_COUNTS = np.concatenate([[-np.inf, 0], np.outer(10.0 ** np.arange(12), [1, 2, 5]).ravel(), [np.inf]])
"""Edges of bins, fixed in advance: they follow from no data."""


@dataclass(frozen=True, repr=False)
class QCSummary:
    """Quality of the data of all sites.

    Attributes
    ----------
    sites
        One row per site: ``n_obs``, ``n_features`` that were measured, ``n_constant`` of these, ``units`` (counts,
        logarithms, scaled values), ``pct_zeros``, and the mean of each metric over its observations.
    features
        One row per feature, over all sites: the columns that :func:`scanpy.pp.calculate_qc_metrics` writes to ``var``.
    histograms
        For each metric of observations, one row per site and one column per bin: numbers of observations, rounded.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.qc_summary(sites).sites["n_obs"].tolist()
    [16, 17, 16, 17, 17]
    """

    sites: pd.DataFrame
    features: pd.DataFrame
    histograms: Mapping[str, pd.DataFrame]

    def __repr__(self) -> str:
        return f"QCSummary of {len(self.sites)} sites, {len(self.features)} features\n{self.sites.T.to_string()}"

    def _repr_html_(self) -> str:
        rows = [
            (metric, *(f"{v:.4g}" if isinstance(v, float) else v for v in values))
            for metric, values in self.sites.items()
        ]
        names = list(map(str, self.sites.index))
        return notebook(table(["metric", *names], rows, f"infl QC of {len(self.features)} features", numbers=names))


@over_sites(
    between=True,
    ruled=True,
    qc_vars=Names(empty=True, says="names of columns of var, each of them once"),
    percent_top=Several(Whole(1), none=True),
    layer=LAYER,
    log1p=Flag(),
    round_to=Whole(1),
)
def qc_summary(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    qc_vars: str | Sequence[str] = (),
    percent_top: Sequence[int] | None = _TOP,
    layer: str | None = None,
    log1p: bool = True,
    inplace: bool = False,
    round_to: int = 10,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> QCSummary:
    """Summarise the quality of all sites' data, as :func:`scanpy.pp.calculate_qc_metrics` does for pooled data.

    Figures of features are sums over sites. Those of observations stay at their site; what it shows of them are means
    and histograms with fixed bins, whose numbers are rounded, so that they identify no observation.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; dense, sparse or backed.
    qc_vars
        Columns of ``var`` with truth values, such as mitochondrial genes; a missing one counts as False.
    percent_top
        Ranks for the share of the most abundant features; those beyond the number of features are left out.
    log1p
        Add logarithms of the metrics, as in scanpy.
    inplace
        Write scanpy's columns to ``obs`` and ``var`` of every site too.
    round_to
        Numbers in histograms are rounded to multiples of this, and a site of fewer observations shows no means.
    key
        Key ring: with it, and three sites or more, sums over sites are sealed.

    Returns
    -------
    The summary, which notebooks show as a table.

    Raises
    ------
    infl.errors.DataError
        A column of `qc_vars` is missing at a site.

    Examples
    --------
    >>> import infl
    >>> summary = infl.pp.qc_summary(infl.datasets.khan_sites())
    >>> summary.sites.loc["site_2", "units"]
    'scaled values'
    """
    qc_vars = list(qc_vars)
    at = matrices(sites, layer, key)
    names = next(iter(sites.values())).var_names
    for site, adata in sites.items():
        for column in qc_vars:
            if column not in adata.var or known_truths(adata.var[column]) is None:
                is_there = "has no truth values" if column in adata.var else "is missing"
                raise DataError(f"qc_vars {column!r} {is_there} in var of {site}; it has {shortlist(list(adata.var))}")
    top = tuple(n for n in percent_top or () if n <= len(names)) or None
    found = {site: _observations(matrix, qc_vars, top, log1p) for site, matrix in at.items()}
    parts = alongside(at, {site: FeatureShare(matrix) for site, matrix in at.items()})
    features = _features(run_sums([feature_sum(len(names))], parts, key), names, log1p)
    table = pd.DataFrame(
        {site: _row(at[site], found[site], parts[site].sums, round_to) for site in at}
    ).T.infer_objects()
    summary = QCSummary(table, features, _histograms(found, round_to))
    if inplace:
        for site, adata in sites.items():
            own(adata).obs[found[site].columns] = found[site]
            adata.var[features.columns] = features
    return summary


def _observations(matrix: SiteMatrix, qc_vars: list[str], top: tuple[int, ...] | None, log1p: bool) -> pd.DataFrame:
    """Metrics of a site's observations, by scanpy, block by block.

    Sums are of float64, so that they do not depend on how a matrix is stored, and take the type that scanpy gives them.
    """
    truths = {name: known_truths(matrix.adata.var[name]) for name in qc_vars}
    var = pd.DataFrame({name: t[0] for name, t in truths.items() if t is not None}, index=matrix.adata.var_names)
    parts = []
    for rows, block in matrix.blocks():
        single = block.dtype == np.float32
        values = block.astype(np.float64) if single else block.copy()  # scanpy removes stored zeros in place
        piece = AnnData(values, obs=pd.DataFrame(index=matrix.adata.obs_names[rows]), var=var)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # logarithms of negative sums, shares of nothing
            metrics, _ = sc.pp.calculate_qc_metrics(piece, qc_vars=qc_vars, percent_top=top, log1p=log1p)
        if single:
            own_type = [c for c in metrics if metrics[c].dtype == np.float64 and not c.startswith(_DOUBLE)]
            metrics[own_type] = metrics[own_type].astype(np.float32)
        parts.append(metrics)
    return pd.concat(parts)


@dataclass(frozen=True)
class FeatureShare:
    """What a site adds to scanpy's figures of features, which it needs itself, too."""

    matrix: SiteMatrix

    @cached_property
    def sums(self) -> dict[str, np.ndarray]:
        """Number of observations, of those in which a feature is not 0, and Σx; (n_vars,) each."""
        return feature_share(self.matrix)


def feature_sum(n_vars: int) -> FederatedSum:
    """Return the sum that scanpy's figures of features follow from; sites are :class:`FeatureShare`."""

    def judged(share: FeatureShare, state: State, rules: DisclosureRules) -> Sizes:
        n, cells = share.sums["n"], share.sums["cells"]
        return {"sum": Rows(share.matrix).largest(rules), "cells": small_numbers(np.minimum(cells, n - cells), rules)}

    return FederatedSum(
        name="quality of features",
        shapes=dict.fromkeys(("n", "cells", "sum"), (n_vars,)),
        local=lambda share, state: share.sums,
        combine=lambda total, state: {**state, **total},
        says="for each feature: number of observations, of those in which it is not 0, and sum of its values",
        scale={"n": COUNT_SCALE, "cells": COUNT_SCALE, "sum": FINE_SCALE},
        records=lambda share, state: {"n": share.sums["n"], "cells": share.sums["cells"], "sum": share.sums["n"]},
        sensitivity={"n": 1, "cells": 1},
        cells=everyone(
            lambda share: share.matrix.n_obs,
            measured=lambda share: share.matrix.present,
            on_features=("n", "cells", "sum"),
            features=n_vars,
            sizes=judged,
            dominated=("cells", "sum"),
            partly=True,
        ),
    )


def feature_share(matrix: SiteMatrix) -> dict[str, np.ndarray]:
    """Σx, number of observations, and of those in which it is not 0; (n_vars,) each."""
    n_vars = len(matrix.present)
    sums, cells = np.zeros(n_vars), np.zeros(n_vars)
    for _, block in matrix.blocks():
        sums += column_sums(block)
        cells += column_sums((block != 0).astype(np.float64))
    n = np.where(matrix.present, matrix.n_obs, 0).astype(float)
    return {"n": n, "cells": cells * matrix.present, "sum": sums * matrix.present}


def _features(total: Mapping[str, np.ndarray], names: pd.Index, log1p: bool) -> pd.DataFrame:
    n = np.maximum(total["n"], 1)
    cells = whole_numbers(total["cells"])
    columns = {"n_cells_by_counts": cells, "mean_counts": total["sum"] / n}
    with np.errstate(invalid="ignore", divide="ignore"):
        if log1p:
            columns["log1p_mean_counts"] = np.log1p(columns["mean_counts"])
        columns["pct_dropout_by_counts"] = (1 - cells / n) * 100
        columns["total_counts"] = total["sum"]
        if log1p:
            columns["log1p_total_counts"] = np.log1p(columns["total_counts"])
    return pd.DataFrame(columns, index=names)


def _row(
    matrix: SiteMatrix, metrics: pd.DataFrame, sums: Mapping[str, np.ndarray], round_to: int
) -> dict[str, float | int | str | None]:
    """A site's row of the table."""
    n_features = int(matrix.present.sum())
    enough = matrix.n_obs >= round_to
    shown = metrics[_shown(metrics)]
    return {
        "n_obs": matrix.n_obs,
        "n_features": n_features,
        "n_constant": int((_constant(matrix) & matrix.present).sum()),
        "units": units_of(matrix.adata, matrix.layer) or "unclear",
        "pct_zeros": 100 * (1 - sums["cells"].sum() / max(1, matrix.n_obs * n_features)),
    } | {name: float(shown[name].mean()) if enough else np.nan for name in shown}


def _constant(matrix: SiteMatrix) -> np.ndarray:
    """Which features have one value in all observations, (n_vars,)."""
    low, high = np.full(len(matrix.present), np.inf), np.full(len(matrix.present), -np.inf)
    for _, block in matrix.blocks():
        smallest, largest = block.min(axis=0), block.max(axis=0)
        if sparse.issparse(block):
            smallest, largest = smallest.toarray().ravel(), largest.toarray().ravel()
        low, high = np.minimum(low, smallest), np.maximum(high, largest)
    return low == high


def _shown(metrics: pd.DataFrame) -> list[str]:
    return [name for name in metrics if not name.startswith("log1p_")]


def _histograms(found: Mapping[str, pd.DataFrame], round_to: int) -> dict[str, pd.DataFrame]:
    """Rounded numbers of observations by metric, site and bin; bins that are empty on the outside are left out."""
    tables = {}
    for name in _shown(next(iter(found.values()))):
        edges = _PERCENT if name.startswith("pct_") else _COUNTS
        bins = pd.IntervalIndex.from_breaks(edges, closed="left")
        rows = {}
        for site, metrics in found.items():
            values = metrics[name].dropna().to_numpy()
            if name.startswith("pct_"):
                values = np.clip(values, 0, 99.999)  # 100 belongs to the last bin
            exact = np.bincount(np.clip(np.searchsorted(edges, values, "right") - 1, 0, None), minlength=len(bins))
            rows[site] = np.rint(exact / round_to).astype(np.int64) * round_to
        table = pd.DataFrame.from_dict(rows, orient="index", columns=bins)
        seen = np.flatnonzero(table.to_numpy().any(axis=0))
        tables[name] = table.iloc[:, seen[0] : seen[-1] + 1] if len(seen) else table.iloc[:, :0]
    return tables
