"""Finding values that are not numbers, without copying or densifying the matrix that holds them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from infl.errors import DataError

_BLOCK = 1 << 22  # entries read at a time


def count_non_finite(adata: AnnData, layer: str | None, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Count NaN and infinite values of each feature.

    Parameters
    ----------
    adata
        In memory, a view or backed.
    layer
        Layer to look at; None for ``X``.
    where
        Name of the object in messages.

    Returns
    -------
    Two arrays ``(n_vars,)``: numbers of NaN, numbers of infinite values.
    """
    nan, infinite = np.zeros(adata.n_vars, dtype=np.int64), np.zeros(adata.n_vars, dtype=np.int64)
    for block in blocks(adata, layer):
        if block.dtype.kind in "bui":
            break  # whole numbers are finite, and a matrix has one type
        if block.dtype.kind != "f":
            raise DataError(
                f"{layer or 'X'} of {where} holds {block.dtype} values, not numbers; convert it with .astype('float32')"
            )
        values = block.data if sparse.issparse(block) else block
        wrong = ~np.isfinite(values)
        if not wrong.any():
            continue
        columns = block.tocoo().col[wrong] if sparse.issparse(block) else np.nonzero(wrong)[1]
        is_nan = np.isnan(values[wrong])
        nan += np.bincount(columns[is_nan], minlength=adata.n_vars)
        infinite += np.bincount(columns[~is_nan], minlength=adata.n_vars)
    return nan, infinite


def blocks(adata: AnnData, layer: str | None) -> Iterator[Any]:
    """Blocks of rows; of a sparse matrix in memory the whole, of which only the stored values are looked at."""
    if not (adata.is_view or adata.isbacked):
        matrix = adata.X if layer is None else adata.layers[layer]
        if sparse.issparse(matrix):
            yield matrix
            return
    if adata.is_view and adata.isbacked:  # of which anndata cannot take a part
        adata = adata.to_memory()
    n_rows = max(1, _BLOCK // max(1, adata.n_vars))
    for start in range(0, adata.n_obs, n_rows):
        part = adata[start : start + n_rows]  # reads no more than these rows from disk or from what it is a view of
        block = part.X if layer is None else part.layers[layer]
        yield block if sparse.issparse(block) else np.asarray(block)
