"""Raw counts: which table has them, what is refused as no count, and counts made comparable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from infl.errors import DataError
from infl.models.matrix import FeatureMatrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def table_of(adata: AnnData | MuData, modality: str | None, site: str) -> AnnData:
    """Return the modality of a ``MuData`` that has the counts; an ``AnnData`` as it is.

    Raises
    ------
    DataError
        No such modality; the message lists those there are.
    """
    from infl.data.check import tables

    if not hasattr(adata, "mod"):
        return adata
    modalities = tables(adata, site)
    if modality not in modalities:
        raise DataError(
            f"{site} is a MuData: choose modality= one of {', '.join(map(repr, modalities))}, not {modality!r}"
        )
    return modalities[modality]


def check_counts(
    x: FeatureMatrix, names: pd.Index, *, site: str, layer: str | None = None, may_be_empty: bool = False
) -> np.ndarray:
    """Refuse values that are not raw counts, and cells that have none; return which cells have none (n_obs,).

    Parameters
    ----------
    x
        Matrix of the panel's features.
    names
        Of the cells.
    site, layer
        For messages.
    may_be_empty
        Take cells without a count.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> cells = ad.AnnData(np.log1p([[1.0, 0.0], [2.0, 3.0]]))
    >>> check_counts(FeatureMatrix(cells, cells.var_names, site="a"), cells.obs_names, site="a")
    Traceback (most recent call last):
    infl.errors.DataError: a has 0.693 in X, which is no count: raw counts are due, not normalised or logged values; \
pass layer=, the layer with the counts
    """
    if x.some_absent:
        raise DataError(
            f"{site} did not measure {int(x.absent.sum())} of the model's {x.shape[1]:,} features, and 0 would be made up: "
            "fit on features that all sites have"
        )
    empty = np.zeros(x.shape[0], dtype=bool)
    for chunk in x.chunks():
        rows = x.stored(chunk)
        values = rows.data if sparse.issparse(rows) else rows
        wrong = values[(values < 0) | (values != np.rint(values))]
        if wrong.size:
            raise DataError(
                f"{site} has {float(wrong.flat[0]):.3g} in {layer or 'X'}, which is no count: raw counts are due, "
                "not normalised or logged values; pass layer=, the layer with the counts"
            )
        empty[chunk] = np.asarray(rows.sum(1)).ravel() == 0
    if empty.any() and not may_be_empty:
        raise DataError(
            f"{site} has {int(empty.sum())} cells without any count in the {x.shape[1]:,} features of the panel, first "
            f"{names[int(np.argmax(empty))]!r}: leave them out, e.g. with sc.pp.filter_cells(adata, min_counts=1)"
        )
    return empty


def log_normalised(counts: np.ndarray, target_sum: float) -> np.ndarray:
    """Return log1p of counts scaled to a sum.

    Examples
    --------
    >>> log_normalised(np.array([[1.0, 3.0]]), 4.0).round(3)
    array([[0.693, 1.386]])
    """
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * target_sum)
