"""Reading values block by block whatever the storage, and finding those that are not numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from infl._lazy import computed
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


def in_rows(matrix: Any) -> Any:
    """The matrix as an array, or as CSR with each entry stored once and in order; half precision becomes single.

    Nothing that the given matrix holds is altered. scipy adds up repeated entries in place, in the user's own arrays,
    whenever a method needs them so; and what looks at stored entries one by one must not see the parts of a sum.

    Examples
    --------
    >>> matrix = sparse.csr_matrix((np.array([1.0, 2.0]), np.array([0, 0]), np.array([0, 2])), shape=(1, 2))
    >>> in_rows(matrix).data.tolist(), matrix.data.tolist()
    ([3.0], [1.0, 2.0])
    """
    matrix = computed(matrix)
    if matrix.dtype == np.float16:  # which scipy has no sums for, and whose own overflow at 65,504
        matrix = matrix.astype(np.float32)
    if not sparse.issparse(matrix):
        return np.asarray(matrix)
    rows = sparse.csr_matrix(matrix)  # of CSR a new head over the same arrays
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


def blocks(adata: AnnData, layer: str | None) -> Iterator[Any]:
    """Blocks of rows; a sparse matrix in memory comes whole, and only its stored values are looked at."""
    if not (adata.is_view or adata.isbacked):
        matrix = adata.X if layer is None else adata.layers[layer]
        if sparse.issparse(matrix):
            yield matrix
            return
    if adata.is_view and adata.isbacked:  # anndata cannot take a part of it
        adata = adata.to_memory()
    n_rows = max(1, _BLOCK // max(1, adata.n_vars))
    for start in range(0, adata.n_obs, n_rows):
        part = adata[start : start + n_rows]  # reads no more than these rows from disk or from what it is a view of
        block = computed(part.X if layer is None else part.layers[layer])
        yield block if sparse.issparse(block) else np.asarray(block)
