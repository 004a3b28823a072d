"""Highly variable features over all sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from infl._parameters import CUTOFF, LAYER, OTHER_COLUMN, Choice, Flag, Real, Whole
from infl._warn import warn
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.data.units import check_units
from infl.pp._hvg_batches import batches_of
from infl.pp._hvg_dispersion import by_dispersion
from infl.pp._hvg_regression import by_regression
from infl.pp._matrix import SiteMatrix, kinds, matrices
from infl.pp._preset import scanpy_default
from infl.pp._variable import Cutoffs

if TYPE_CHECKING:
    from infl.keys import Keyring

Flavor = Literal["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"]
_FLAVORS = ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper")


@over_sites(
    between=True,
    ruled=True,
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

    Returns
    -------
    None, or the table with one row per feature. Written at every site are ``uns["hvg"]`` and in ``var``:
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
    notes = _check_kind(at, layer, flavor) if check_values else []
    batches = batches_of(at, batch_key, key)
    if flavor in ("seurat", "cell_ranger"):
        if n_top_genes is not None and cutoffs != Cutoffs():
            notes.append("n_top_genes is given, so the cutoffs min_disp, max_disp, min_mean and max_mean are not used")
        table = by_dispersion(at, batches, names, flavor, n_bins, cutoffs, n_top_genes)
    else:
        table = by_regression(at, batches, names, flavor, span, n_top_genes or 2000, key)
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


def _check_kind(at: Mapping[str, SiteMatrix], layer: str | None, flavor: str) -> list[str]:
    """Refuse a mixture of kinds; say what is amiss with the one kind that there is."""
    units = kinds(at)
    check_units(units, escape="check_values=False")
    for_counts = flavor.startswith("seurat_v3")
    for site, kind in units.items():
        if kind is not None and for_counts != (kind == "raw counts"):
            wants = "raw counts" if for_counts else "logarithms"
            return [f"flavor {flavor!r} is for {wants}, and {layer or 'X'} of {site} has {kind}"]
    return []
