"""Highly variable features over all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from packaging.version import Version
from scipy import sparse

from infl._parameters import CUTOFF, LAYER, OTHER_COLUMN, Choice, Flag, Real, Whole
from infl._warn import warn
from infl.data.columns import obs_column
from infl.data.copy import own
from infl.data.labels import label_text
from infl.data.sites import over_sites
from infl.data.units import check_units
from infl.data.values import in_rows
from infl.errors import DataError
from infl.pp._matrix import SiteMatrix, kinds, matrices
from infl.pp._median import federated_median
from infl.pp._moments import Rows, Transform, federated_moments
from infl.pp._preset import scanpy_default
from infl.pp._variable import Cutoffs, at_least_nth, dispersions, expected_std
from infl.sums import COUNT, FINE, FederatedSum, State, run_sums

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.sums.shape import Arrays, Records

Flavor = Literal["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"]
_FLAVORS = ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper")
_SITE = "site"
_DISPERSIONS = ["means", "dispersions", "dispersions_norm", "highly_variable"]
_LARGEST_LOG = 44.0  # whose square is a float32 still, when it is taken back


@over_sites(
    layer=LAYER,
    n_top_genes=Whole(1, none=True),
    min_disp=CUTOFF,
    max_disp=CUTOFF,
    min_mean=CUTOFF,
    max_mean=CUTOFF,
    span=Real(0, 1, open="low"),
    n_bins=Whole(1),
    flavor=Choice(_FLAVORS, none=True),
    subset=Flag(),
    batch_key=OTHER_COLUMN,
    check_values=Flag(),
)
def highly_variable_genes(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    layer: str | None = None,
    n_top_genes: int | None = None,
    min_disp: float = 0.5,
    max_disp: float = np.inf,
    min_mean: float = 0.0125,
    max_mean: float = 3,
    span: float = 0.3,
    n_bins: int = 20,
    flavor: Flavor | None = None,
    subset: bool = False,
    inplace: bool = True,
    batch_key: str | None = None,
    check_values: bool = True,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame | None:
    """Mark the features that :func:`scanpy.pp.highly_variable_genes` marks in the pooled data.

    Sites send sums of values and of squares. With ``flavor="seurat_v3"`` the local regression is made from these by all
    alike, and a third sum is of values clipped by it; sums of counts are whole numbers and lose nothing to the seal, so
    that even ties fall as they do in scanpy.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; dense, sparse or backed. A site that did not measure a feature
        (``var["infl_present"]``) has no part in its figures.
    layer
        Layer to use instead of ``X``.
    n_top_genes
        Number of features to mark; the cutoffs are not used then. With ``"seurat_v3"``, None is 2,000.
    min_disp, max_disp, min_mean, max_mean
        Cutoffs of normalised dispersion and mean.
    span
        Share of the features that each point of the local regression sees (``"seurat_v3"``).
    n_bins
        Bins of the mean (``"seurat"``).
    flavor
        Unless given ``"seurat"``, and ``"seurat_v3_paper"`` under scanpy's preset ``ScanpyV2Preview``.
        ``"seurat"`` and ``"cell_ranger"`` expect logarithms, ``"seurat_v3"`` and ``"seurat_v3_paper"`` raw counts, and
        the extra ``infl[hvg]``.
    subset
        Keep the marked features only, at every site.
    inplace
        Write to ``var``, else return a table.
    batch_key
        Mark features within batches and merge: a column of ``obs`` at all sites, or ``"site"``, which needs no column:
        each site then is a batch, keeps its moments to itself, and what is summed are marks, dispersions and numbers of
        ranks below bounds. Of a batch by column, all sites learn the moments, even where a single site has it.
        With scanpy 1.12 and ``"seurat_v3"``, batches that span several sites are marked by exact moments; scanpy's own
        marks differ there by its rounding, which the regression magnifies.
    check_values
        Check that all sites have one kind of values, and the one that the flavour expects.
    site_key
        Of one object in place of the dict: the column of ``obs`` that says which site a row belongs to.
    key
        Key ring: with it, and three sites or more, what leaves a site is sealed.

    Returns
    -------
    None, or the table with one row a feature. Written at every site are ``uns["hvg"]`` and in ``var``:
    ``highly_variable``, ``means``, and ``dispersions``, ``dispersions_norm`` or ``variances``, ``variances_norm``,
    ``highly_variable_rank``; with batches ``highly_variable_nbatches`` and ``highly_variable_intersection``.

    Raises
    ------
    infl.errors.DataError
        Sites have values of different kinds, or logarithms to different bases; the regression fails.

    Warns
    -----
    infl.errors.InflWarning
        Values are not what the flavour expects; cutoffs are given beside `n_top_genes`.

    References
    ----------
    Satija et al. (2015), Nature Biotechnology 33:495. Zheng et al. (2017), Nature Communications 8:14049.
    Stuart et al. (2019), Cell 177:1888.

    Examples
    --------
    >>> import infl, scanpy as sc
    >>> pooled = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sites = infl.pp.split_sites(pooled, 3)
    >>> infl.pp.highly_variable_genes(sites, n_top_genes=100)
    >>> int(sites["site_2"].var["highly_variable"].sum())
    100
    """
    if flavor is None:
        flavor = scanpy_default("highly_variable_genes", "flavor", "seurat")
    cutoffs = Cutoffs(min_disp, max_disp, min_mean, max_mean)
    at = matrices(sites, layer, key, rewrite=subset)
    names = next(iter(at.values())).adata.var_names
    notes = _check_kind(at, flavor) if check_values else []
    batches = _batches(at, batch_key, key)
    if flavor in ("seurat", "cell_ranger"):
        if n_top_genes is not None and cutoffs != Cutoffs():
            notes.append("n_top_genes is given, so the cutoffs min_disp, max_disp, min_mean and max_mean are not used")
        table = _by_dispersion(at, batches, names, flavor, n_bins, cutoffs, n_top_genes)
    else:
        table = _by_regression(at, batches, names, flavor, span, n_top_genes or 2000, key)
    for note in notes:
        warn(note)
    if not inplace:
        return table.loc[table["highly_variable"]] if subset else table
    table = table.drop(columns="mean_bin", errors="ignore")
    for matrix in at.values():
        adata = own(matrix.adata)
        adata.uns["hvg"] = {"flavor": flavor}
        for column in table.columns:
            values = table[column].to_numpy()
            adata.var[column] = values.astype(np.float32) if column == "dispersions_norm" else values
        if subset:
            adata._inplace_subset_var(table["highly_variable"].to_numpy())
    return None


@dataclass(frozen=True)
class _Batches:
    """Who belongs to which batch, and who gets to see a batch's sums.

    Attributes
    ----------
    members
        For each batch, the sites that have a part in it and which of their observations (None: all); one batch without
        a name where there are none.
    inner
        Key ring for sums within a batch.
    outer
        Key ring for sums over batches; None where all sites know each batch's figures already.
    """

    members: dict[str, dict[str, np.ndarray | None]]
    inner: Keyring | None
    outer: Keyring | None
    named: bool = True


def _batches(at: Mapping[str, SiteMatrix], batch_key: str | None, key: Keyring | None) -> _Batches:
    if batch_key is None:
        return _Batches({"all sites": dict.fromkeys(at)}, key, None, named=False)
    if batch_key == _SITE and not any(_SITE in matrix.adata.obs for matrix in at.values()):
        return _Batches({site: {site: None} for site in at}, None, key)
    columns = {
        site: label_text(obs_column(matrix.adata, batch_key, where=site, role="batch_key"))
        for site, matrix in at.items()
    }
    found = sorted({name for column in columns.values() for name in column.unique()})
    members: dict[str, dict[str, np.ndarray | None]] = {
        name: {site: (column == name).to_numpy() for site, column in columns.items()} for name in found
    }
    return _Batches(members, key, None)


def _moments(
    at: Mapping[str, SiteMatrix], batches: _Batches, batch: str, transform: Transform | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of observations, means and variances of a batch, (n_vars,) each."""
    members = batches.members[batch]
    rows = {site: mask for site, mask in members.items() if mask is not None}
    found = federated_moments(
        {site: at[site] for site in members},
        batches.inner,
        transform=transform,
        rows=rows or None,
        purpose="variable features",
        textbook=True,
    )
    return found.n, found.mean, found.var


def _of_one_site(
    at: Mapping[str, SiteMatrix], members: Mapping[str, np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Moments of a batch that one site has to itself, rounded as the installed scanpy rounds them; else None.

    The regression of ``"seurat_v3"`` cuts features with one mean apart by their last digit, and moves visibly
    where another digit is there. scanpy 1.12 goes through the rows of each batch by Welford's algorithm.
    """
    import scanpy

    sites = [site for site, mask in members.items() if mask is None or mask.any()]
    if len(sites) != 1 or at[sites[0]].adata.isbacked or Version(version("scanpy")) < Version("1.12rc1"):
        return None
    matrix, mask = at[sites[0]], members[sites[0]]
    values = in_rows(matrix.raw if mask is None else matrix.raw[np.flatnonzero(mask)])
    rows = pd.DataFrame({"batch": "all"}, index=[str(row) for row in range(values.shape[0])])
    found = scanpy.get.aggregate(AnnData(values, obs=rows), "batch", ["mean", "var"])
    mean, var = (np.where(matrix.present, np.nan_to_num(found.layers[name][0]), 0) for name in ("mean", "var"))
    return np.where(matrix.present, float(len(rows)), 0), mean, var


# -- dispersion-based flavours ------------------------------------------------------------------------------------------


def _by_dispersion(
    at: Mapping[str, SiteMatrix],
    batches: _Batches,
    names: pd.Index,
    flavor: Any,
    n_bins: int,
    cutoffs: Cutoffs,
    n_top: int | None,
) -> pd.DataFrame:
    """The table of ``"seurat"`` and ``"cell_ranger"``."""
    transform = _expm1(at) if flavor == "seurat" else None
    tables = {}
    for batch in batches.members:
        n, mean, var = _moments(at, batches, batch, transform)
        # within batches, features that are never seen there are left out, as in scanpy
        used = (mean != 0) | (var != 0) if batches.named else np.ones(len(mean), dtype=bool)
        table = dispersions(mean[used], var[used], flavor, n_bins)
        norm = table["dispersions_norm"].to_numpy()
        table["highly_variable"] = (
            cutoffs.hold(table["means"].to_numpy(), np.nan_to_num(norm)) if n_top is None else at_least_nth(norm, n_top)
        )
        table.index = names[used]
        if not batches.named:
            return table
        table = table.drop(columns="mean_bin").astype(float).reindex(names)
        table.loc[~used, :] = 0
        table.loc[n == 0, :] = np.nan  # not measured, which is not the same as never seen
        tables[batch] = table
    return _merged_dispersions(tables, names, cutoffs, n_top, batches.outer)


def _merged_dispersions(
    tables: Mapping[str, pd.DataFrame], names: pd.Index, cutoffs: Cutoffs, n_top: int | None, key: Keyring | None
) -> pd.DataFrame:
    """Means over batches, and the features that most batches mark."""
    values = {batch: table[_DISPERSIONS].to_numpy() for batch, table in tables.items()}
    total = run_sums([dispersions_of_batches(len(names))], values, key)
    n = total["n"] + total["up"] + total["down"]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(n > 0, total["sum"] / np.maximum(n, 1), np.nan)
        mean = mean + np.where(total["up"] > 0, np.inf, 0) + np.where(total["down"] > 0, -np.inf, 0)
    table = pd.DataFrame(mean, index=names, columns=_DISPERSIONS).sort_index()
    marks = pd.Series(np.rint(total["sum"][:, 3]).astype(np.int64), index=names).loc[table.index]
    table["highly_variable_nbatches"] = marks
    table["highly_variable_intersection"] = marks == len(tables)
    if n_top is None:
        table["dispersions_norm"] = table["dispersions_norm"].fillna(0)
        table["highly_variable"] = cutoffs.hold(table["means"].to_numpy(), table["dispersions_norm"].to_numpy())
        return table.loc[names]
    table = table.sort_values(["highly_variable_nbatches", "dispersions_norm"], ascending=False, na_position="last")
    table["highly_variable"] = np.arange(len(table)) < n_top
    return table.loc[names]


def dispersions_of_batches(n_vars: int) -> FederatedSum:
    """Return the sum of the batches' tables (n_vars, 4): what is finite, how many are, and how many are infinite.

    It is over batches: each is known to one site, or to all of them.
    """

    def local(values: np.ndarray, state: State) -> Arrays:
        finite = np.isfinite(values)
        return {
            "sum": np.where(finite, values, 0),
            "n": finite.astype(float),
            "up": (values == np.inf).astype(float),
            "down": (values == -np.inf).astype(float),
        }

    return FederatedSum(
        name="dispersions of batches",
        shapes=dict.fromkeys(("sum", "n", "up", "down"), (n_vars, len(_DISPERSIONS))),
        local=local,
        combine=lambda total, state: total,
        says="for each feature: sums over batches of its mean and dispersion in them, and in how many it is variable",
        scale={"sum": FINE, "n": COUNT, "up": COUNT, "down": COUNT},
    )


def _expm1(at: Mapping[str, SiteMatrix]) -> Transform:
    """From logarithms back to what they are of."""
    bases = {site: matrix.adata.uns.get("log1p", {}).get("base") for site, matrix in at.items()}
    first = next(iter(bases))
    for site, base in bases.items():
        if base != bases[first]:
            raise DataError(
                f"uns['log1p']['base'] is {bases[first]} at {first} and {base} at {site}: take logarithms to one base"
            )
    factor = None if bases[first] is None else float(np.log(bases[first]))
    for site, matrix in at.items():
        largest = max((block.max() for _, block in matrix.blocks() if 0 not in block.shape), default=0)
        if largest * (factor or 1) > _LARGEST_LOG:
            raise DataError(
                f"{matrix.layer or 'X'} of {site} has {largest:g}, too large for a logarithm: flavor 'seurat' is for what "
                "infl.pp.log1p gives, 'seurat_v3' for counts"
            )

    def transform(block: Any) -> Any:
        block = block if factor is None else block * factor
        return block.expm1() if sparse.issparse(block) else np.expm1(block)

    return transform


# -- flavours with a regression of variances ----------------------------------------------------------------------------


def _by_regression(
    at: Mapping[str, SiteMatrix],
    batches: _Batches,
    names: pd.Index,
    flavor: Any,
    span: float,
    n_top: int,
    key: Keyring | None,
) -> pd.DataFrame:
    """The table of ``"seurat_v3"`` and ``"seurat_v3_paper"``."""
    ranks, variances = {}, {}
    for batch, members in batches.members.items():
        n, mean, var = (batches.named and _of_one_site(at, members)) or _moments(at, batches, batch, None)
        std = expected_std(mean, var, span, batch)
        clip = std * np.sqrt(n) + mean
        rows = {site: Rows(at[site], chosen) for site, chosen in members.items()}
        total = run_sums([clipped_sum(len(names))], rows, batches.inner, state={"clip": clip})
        clipped = total["sum"] + total["above"] * clip
        squares = total["square"] + total["above"] * clip**2
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = (1 / ((n - 1) * np.square(std))) * ((n * np.square(mean)) + squares - 2 * clipped * mean)
        norm = np.where(n > 1, norm, np.nan)
        rank = np.argsort(np.argsort(-norm[None], axis=1), axis=1)[0].astype(np.float32)
        rank[(rank >= n_top) | np.isnan(norm)] = np.nan
        ranks[batch], variances[batch] = rank[None], norm

    marked = {batch: (ranks[batch][0], variances[batch]) for batch in ranks}
    total = run_sums([marks_of_batches(len(names))], marked, batches.outer)
    whole = federated_moments(at, key, purpose="variable features", textbook=True) if batches.named else None
    table = pd.DataFrame(index=names)
    table["means"] = mean if whole is None else whole.mean
    table["variances"] = var if whole is None else whole.var
    if batches.named:
        table["highly_variable_nbatches"] = np.rint(total["n"]).astype(np.int64)
        table["highly_variable_rank"] = federated_median(ranks, batches.outer, purpose="ranks", of_records=False)
        table["variances_norm"] = total["sum"] / np.maximum(total["of"], 1)
    else:
        table["highly_variable_rank"], table["variances_norm"] = rank, norm
    order = {"highly_variable_rank": True} | ({"highly_variable_nbatches": False} if batches.named else {})
    keys = list(order) if flavor == "seurat_v3" else list(order)[::-1]
    first = table.sort_values(keys, ascending=[order[k] for k in keys], na_position="last").index[:n_top]
    table["highly_variable"] = table.index.isin(first)
    return table


def clipped_sum(n_vars: int) -> FederatedSum:
    """Return the sum of values up to a bound, ``clip`` of the state, of their squares, and of how many are above it.

    Sums of counts stay whole numbers by that, where sums of clipped values would not.
    """

    def local(site: Rows, state: State) -> Arrays:
        clip = state["clip"]
        sums = {name: np.zeros(n_vars) for name in ("sum", "square", "above")}
        for block in site.blocks():
            column = block.indices if sparse.issparse(block) else np.tile(np.arange(n_vars), block.shape[0])
            values = (block.data if sparse.issparse(block) else block.ravel()).astype(np.float64)
            above = values > clip[column]
            below = np.where(above, 0, values)
            for name, weights in (("sum", below), ("square", below**2), ("above", above.astype(float))):
                sums[name] += np.bincount(column, weights=weights, minlength=n_vars)
        return {name: np.where(site.matrix.present, value, 0) for name, value in sums.items()}

    def records(site: Rows, state: State) -> Records:
        above = local(site, state)["above"]
        return {"above": above, "sum": site.n - above, "square": site.n - above}

    return FederatedSum(
        name="clipped sums",
        shapes=dict.fromkeys(("sum", "square", "above"), (n_vars,)),
        local=local,
        combine=lambda total, state: {**state, **total},
        says="for each feature: sums and sums of squares of values up to a bound, and how many are above it",
        scale={"sum": FINE, "square": FINE, "above": COUNT},
        records=records,
        sensitivity={"above": 1},
    )


def marks_of_batches(n_vars: int) -> FederatedSum:
    """Return the sum over batches of how many mark a feature as variable, and of its normalised variances in them."""

    def local(batch: tuple[np.ndarray, np.ndarray], state: State) -> Arrays:
        ranks, variances = batch
        return {
            "n": (~np.isnan(ranks)).astype(float),
            "sum": np.nan_to_num(variances),
            "of": (~np.isnan(variances)).astype(float),
        }

    return FederatedSum(
        name="marks of batches",
        shapes=dict.fromkeys(("n", "sum", "of"), (n_vars,)),
        local=local,
        combine=lambda total, state: total,
        says="for each feature: in how many batches it is variable, and sum of its normalised variances in them",
        scale={"n": COUNT, "sum": FINE, "of": COUNT},
    )


# -- checks -------------------------------------------------------------------------------------------------------------


def _check_kind(at: Mapping[str, SiteMatrix], flavor: str) -> list[str]:
    """Refuse a mixture of kinds; say what is amiss with the one kind that there is."""
    units = kinds(at)
    check_units(units, escape="check_values=False")
    for_counts = flavor.startswith("seurat_v3")
    for site, kind in units.items():
        if kind is not None and for_counts != (kind == "raw counts"):
            wants = "raw counts" if for_counts else "logarithms"
            return [f"flavor {flavor!r} is for {wants}, and {at[site].layer or 'X'} of {site} has {kind}"]
    return []
