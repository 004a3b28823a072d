"""Scores of gene sets for every observation, with control genes chosen by means over all sites, as scanpy has them.

Tirosh et al. (2016), Dissecting the multicellular ecosystem of metastatic melanoma by single-cell RNA-seq. Science 352:189.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from infl._parameters import LAYER, Flag, Key, Names, Whole
from infl._warn import warn
from infl.data.columns import shortlist
from infl.data.consortium import agreed
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.data.units import check_units
from infl.errors import DataError
from infl.pp._matrix import SiteMatrix, copies, kinds, matrices
from infl.pp._moments import known_means

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

GENES = Names(says="names of features, each of them once")
POOL = Names(none=True, says=GENES.says)
N_BINS = Whole(2)


@over_sites(
    between=True,
    gene_list=GENES,
    ctrl_as_ref=Flag(),
    ctrl_size=Whole(1),
    gene_pool=POOL,
    n_bins=N_BINS,
    score_name=Key(),
    layer=LAYER,
)
def score_genes(
    sites: Mapping[str, AnnData] | AnnData,
    gene_list: Sequence[str],
    *,
    ctrl_as_ref: bool = True,
    ctrl_size: int = 50,
    gene_pool: Sequence[str] | None = None,
    n_bins: int = 25,
    score_name: str = "score",
    seed: int = 0,
    copy: bool = False,
    layer: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Score a set of genes in every observation, as :func:`scanpy.tl.score_genes` does in the pooled data.

    The score is the mean of the genes less that of control genes of like means. Control genes are chosen by means over all sites,
    so they are the same at every site, and the same as of the pooled object; scores are then computed at each site.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with logarithms; dense, sparse or backed.
    gene_list
        Genes of the set. Those that are no features, or that a site did not measure (``var["infl_present"]``), are left out, with a
        warning.
    ctrl_as_ref
        Genes of the set take places among the control genes before they are left out, as in scanpy 1.
    ctrl_size
        Number of control genes from each bin of means.
    gene_pool
        Genes that control genes are chosen from (None: all).
    n_bins
        Number of bins of means.
    score_name
        Column of ``obs`` for the scores.
    seed
        Of the choice of control genes; scanpy's ``random_state``.
    layer
        Layer to use instead of ``X``; ``raw`` is never used.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        No gene of the set is a feature of all sites, or there are no control genes for it.

    Warns
    -----
    infl.errors.InflWarning
        Genes are left out.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.tl.score_genes(sites, ["clone_1", "clone_2"], ctrl_size=5, n_bins=10)
    >>> sites["site_1"].obs["score"].dtype
    dtype('float64')
    """
    sites = copies(sites, copy)
    shown = _shown(sites, layer, key)
    choice = Choice(tuple(gene_pool) if gene_pool is not None else None, ctrl_as_ref, ctrl_size, n_bins, seed)
    chosen = _chosen(shown, gene_list, choice)
    scores = {site: _scores(matrix, *chosen) for site, matrix in shown.at.items()}
    for site, adata in sites.items():
        own(adata).obs[score_name] = scores[site]
    return dict(sites) if copy else None


@over_sites(
    between=True, s_genes=GENES, g2m_genes=GENES, ctrl_as_ref=Flag(), gene_pool=POOL, n_bins=N_BINS, layer=LAYER
)
def score_genes_cell_cycle(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    s_genes: Sequence[str],
    g2m_genes: Sequence[str],
    ctrl_as_ref: bool = True,
    gene_pool: Sequence[str] | None = None,
    n_bins: int = 25,
    seed: int = 0,
    copy: bool = False,
    layer: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Score the phases of the cell cycle, as :func:`scanpy.tl.score_genes_cell_cycle` does in the pooled data.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with logarithms; dense, sparse or backed.
    s_genes, g2m_genes
        Genes of the two phases, see :func:`infl.tl.score_genes`.
    ctrl_as_ref, gene_pool, n_bins, seed
        See :func:`infl.tl.score_genes`; the number of control genes per bin is that of the shorter list.
    layer
        Layer to use instead of ``X``; ``raw`` is never used.

    Returns
    -------
    None, or the copies by site name, or that of the one object. ``obs`` gets ``S_score``, ``G2M_score`` and ``phase`` (``"S"``, ``"G2M"``
    or ``"G1"``).

    Raises
    ------
    infl.errors.DataError
        No gene of a list is a feature of all sites, or there are no control genes for it.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> names = sites["site_1"].var_names
    >>> infl.tl.score_genes_cell_cycle(sites, s_genes=names[:9], g2m_genes=names[9:18])
    >>> sorted(sites["site_1"].obs["phase"].unique())
    ['G1', 'G2M', 'S']
    """
    sites = copies(sites, copy)
    shown = _shown(sites, layer, key)
    size = min(len(s_genes), len(g2m_genes))
    choice = Choice(tuple(gene_pool) if gene_pool is not None else None, ctrl_as_ref, size, n_bins, seed)
    lists = {"S_score": _chosen(shown, s_genes, choice), "G2M_score": _chosen(shown, g2m_genes, choice)}
    scores = {
        site: pd.DataFrame({name: _scores(matrix, *chosen) for name, chosen in lists.items()})
        for site, matrix in shown.at.items()
    }
    for site, adata in sites.items():
        of_site = scores[site]
        phase = np.where(of_site["G2M_score"] > of_site["S_score"], "G2M", "S").astype(object)
        phase[(of_site < 0).all(axis=1)] = "G1"
        for name in of_site:
            own(adata).obs[name] = of_site[name].to_numpy()
        adata.obs["phase"] = phase
    return dict(sites) if copy else None


@dataclass(frozen=True)
class Choice:
    """How control genes are chosen: from which (None: all), whether those of the set take places, how many per bin, of how many bins."""

    pool: tuple[str, ...] | None
    keep_places: bool
    size: int
    n_bins: int
    seed: int


@dataclass(frozen=True)
class Shown:
    """Matrices by site, the features that all sites measured, and the means of all features over all sites."""

    at: Mapping[str, SiteMatrix]
    measured: pd.Index
    mean: pd.Series


def _shown(sites: Mapping[str, AnnData], layer: str | None, key: Keyring | None) -> Shown:
    at = matrices(sites, layer, key, masked=True)
    check_units(kinds(at))
    names = next(iter(at.values())).adata.var_names
    missing = agreed(at, "features not measured", {s: [str(n) for n in names[~m.present]] for s, m in at.items()})
    n, mean = known_means(at, key, about="score_genes")
    mean = np.where(n > 0, mean, np.nan)
    lacking = {name for of_site in missing.values() for name in of_site}
    return Shown(at, names[[name not in lacking for name in names]], pd.Series(mean, index=names))


def _chosen(shown: Shown, genes: Sequence[str], choice: Choice) -> tuple[pd.Index, pd.Index]:
    """Return the genes of the set that all sites measured, and their control genes."""
    measured = shown.measured
    listed = pd.Index(genes).intersection(measured)
    left_out = [gene for gene in genes if gene not in measured]
    pool = measured if choice.pool is None else pd.Index(choice.pool).intersection(measured)
    if not len(listed):
        raise DataError(f"no gene of the set is a feature that all sites measured: {shortlist(list(genes))}")
    if not len(pool):
        raise DataError(
            f"no gene of gene_pool is a feature that all sites measured: {shortlist(list(choice.pool or ()))}"
        )
    outside = [gene for gene in listed if gene not in pool]
    if outside:
        raise DataError(f"{outside[0]!r} of the set is not in gene_pool: add the genes of the set to it")
    control = control_genes(shown.mean[pool], listed, choice)
    if not len(control):
        raise DataError(
            f"there are no control genes for {shortlist(list(listed))}: give a larger gene_pool= or fewer n_bins="
            + (", or ctrl_as_ref=False" if choice.keep_places else "")
        )
    if left_out:
        warn(
            f"{len(left_out)} of {len(genes)} genes are no features of all sites and are left out: {shortlist(left_out)}"
        )
    return listed, control


def control_genes(mean: pd.Series, genes: pd.Index, choice: Choice) -> pd.Index:
    """Return genes of like means, `size` of each bin that the set is in, drawn as scanpy draws them.

    Examples
    --------
    >>> mean = pd.Series([1.0, 1.1, 5.0, 5.1], index=["a", "b", "c", "d"])
    >>> control_genes(mean, pd.Index(["c"]), Choice(None, True, 9, 3, 0)).tolist()
    ['b']
    """
    mean = mean[np.isfinite(mean)]
    genes = genes.intersection(mean.index)
    n_items = max(1, int(np.round(len(mean) / (choice.n_bins - 1))))
    bins = mean.rank(method="min") // n_items
    kept = np.zeros(len(bins), dtype=bool) if choice.keep_places else bins.index.isin(genes)
    random = np.random.RandomState(choice.seed)  # the generator that scanpy seeds
    found = pd.Index([], dtype=mean.index.dtype)
    for one in np.unique(bins.loc[genes]):
        of_bin = bins.index[(bins == one).to_numpy() & ~kept]
        if choice.size < len(of_bin):
            of_bin = of_bin.to_series().sample(choice.size, random_state=random).index
        found = found.union(of_bin.difference(genes))
    return found


def _scores(matrix: SiteMatrix, genes: pd.Index, control: pd.Index) -> np.ndarray:
    """Mean of the genes less that of the control genes, (n_obs,); missing values are left out."""
    columns = [matrix.adata.var_names.get_indexer(of) for of in (genes, control)]
    parts = []
    for _, block in matrix.blocks():
        ours, theirs = (_means(block[:, at]) for at in columns)
        parts.append(ours - theirs)
    return np.concatenate(parts)


def _means(part: Any) -> np.ndarray:
    """Means of rows, (n,), without NaN."""
    if sparse.issparse(part):
        part = part.toarray()
    known = ~np.isnan(part)
    with np.errstate(invalid="ignore"):
        return np.where(known, part, 0).sum(axis=1, dtype=np.float64) / known.sum(axis=1)
