"""Sums of a sample's observations, at each site by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from infl._parameters import COLUMN, LAYER, OTHER_COLUMN, Choice, door
from infl.data.columns import obs_column
from infl.data.consortium import Consortium, agreed
from infl.data.labels import label_text
from infl.data.sites import agree_on_arguments, as_sites, marked
from infl.errors import DataError
from infl.pp._matrix import SiteMatrix, kinds, matrices

if TYPE_CHECKING:
    from infl.keys import Keyring


@door(sample_key=COLUMN, groups_key=OTHER_COLUMN, layer=LAYER, mode=Choice(("sum", "mean")))
@marked(
    between=True, ruled=False
)  # rows of the same names may hold other cells, which a register of records cannot see
def pseudobulk(
    sites: Mapping[str, AnnData] | AnnData,
    sample_key: str,
    groups_key: str | None = None,
    *,
    layer: str | None = None,
    mode: Literal["sum", "mean"] = "sum",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | AnnData:
    """Add up the cells of each sample, and of each group in it, as :func:`decoupler.pp.pseudobulk` does.

    Cells of one patient are not independent; patients are. So what changes between patients is tested between their sums,
    by :func:`infl.tl.de`. Nothing of the cells leaves a site. As a step of a study, the samples take the place of the cells for the steps
    that follow.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with raw counts; dense, sparse or backed.
    sample_key
        Column of ``obs`` that names the sample, such as the patient.
    groups_key
        Column of ``obs`` with groups of cells, such as cell types.
    layer
        Layer to use instead of ``X``.
    mode
        ``"sum"`` of counts, or ``"mean"``.
    site_key
        Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.
    key
        Not needed, nothing is summed over sites; taken so that all functions here are called alike.

    Returns
    -------
    A new AnnData for each site, or one for the one object, with a row for each sample and group: ``X``; of ``obs`` the columns
    that are the same in all cells of every row, ``psbulk_cells`` and ``psbulk_counts``; ``layers["psbulk_props"]``, the share of
    cells with a value other than 0.

    Raises
    ------
    infl.errors.DataError
        A column is missing or has gaps, or sums are to be taken of what is no count.

    Examples
    --------
    >>> import anndata as ad, infl, numpy as np, pandas as pd
    >>> obs = pd.DataFrame({"patient": ["a", "a", "b"], "type": ["T", "B", "T"]}, index=["1", "2", "3"])
    >>> bulk = infl.pp.pseudobulk({"s": ad.AnnData(np.array([[1.0, 2], [3, 4], [5, 6]]), obs=obs)}, "patient")["s"]
    >>> bulk.X.tolist(), bulk.obs["psbulk_cells"].tolist()
    ([[4.0, 6.0], [5.0, 6.0]], [2.0, 1.0])
    """
    parts: Mapping[str, AnnData]
    if isinstance(sites, Consortium) and site_key is None:
        asked = {"sample_key": sample_key, "groups_key": groups_key, "layer": layer, "mode": mode}
        agree_on_arguments(pseudobulk, sites, [], asked)
        parts = sites
    else:
        parts = as_sites(sites, site_key)
    at = matrices(parts, layer, key)
    for site, kind in kinds(at).items():
        if mode == "sum" and kind in ("logarithms", "scaled values"):
            raise DataError(
                f"{layer or 'X'} of {site} has {kind}, and sums are for counts: give the layer with the counts, or mode='mean'"
            )
    bulk = {site: _bulk(matrix, sample_key, groups_key, mode) for site, matrix in at.items()}
    agreed(
        at, f"samples added up: {sample_key!r}, {groups_key!r}, {mode}", dict.fromkeys(at)
    )  # by all sites or by none
    if isinstance(sites, Mapping):
        return bulk
    return ad.concat(bulk, merge="same", index_unique="-" if _meet(bulk) else None)


def _meet(bulk: Mapping[str, AnnData]) -> bool:
    """Whether sites have samples of one name."""
    names = [name for one in bulk.values() for name in one.obs_names]
    return len(names) > len(set(names))


def _bulk(matrix: SiteMatrix, sample_key: str, groups_key: str | None, mode: str) -> AnnData:
    adata = matrix.adata
    names = label_text(obs_column(adata, sample_key, where=matrix.site, role="sample_key"))
    if groups_key is not None:
        names = names + "_" + label_text(obs_column(adata, groups_key, where=matrix.site, role="groups_key"))
    codes, labels = pd.factorize(names, sort=True)
    n = np.bincount(codes).astype(float)
    x, seen = np.zeros((len(n), adata.n_vars)), np.zeros((len(n), adata.n_vars))
    for rows, block in matrix.blocks():
        of_rows = codes[rows]
        member = sparse.csr_matrix(
            (np.ones(len(of_rows)), (of_rows, np.arange(len(of_rows)))), shape=(len(n), len(of_rows))
        )
        for total, values in ((x, block), (seen, block != 0)):
            part = member @ values.astype(np.float64)
            total += part.toarray() if sparse.issparse(part) else part
    counts = x.sum(axis=1)
    x = x / n[:, None] if mode == "mean" else x
    obs = _alike(adata.obs, codes, labels).assign(psbulk_cells=n, psbulk_counts=counts)
    return AnnData(x, obs=obs, var=adata.var.copy(), layers={"psbulk_props": seen / n[:, None]})


def _alike(obs: pd.DataFrame, codes: np.ndarray, labels: pd.Index) -> pd.DataFrame:
    """Columns with one value in all cells of each row."""
    first = np.unique(codes, return_index=True)[1]
    groups = {name: pd.factorize(obs[name])[0] for name in obs}
    kept = [name for name, of in groups.items() if np.array_equal(of[first][codes], of)]
    return obs.iloc[first][kept].set_index(pd.Index(labels.astype(str)))
