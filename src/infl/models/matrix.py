"""Reading rows of an AnnData's matrix in a panel's order: dense, sparse, integer, view or on disk alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from infl.data.values import in_rows
from infl.errors import DataError
from infl.models.disk import Blocks, on_disk

if TYPE_CHECKING:
    from anndata import AnnData


class FeatureMatrix:
    """Rows of ``adata.X`` (or a layer) with the panel's features as columns, as float32, read on demand.

    What was not measured is NaN: features that ``var["infl_present"]`` marks as absent and, with `masked`, those that the
    object does not have. Data in memory are put in the panel's order once; sparse data stay sparse; data on disk stay there.

    Parameters
    ----------
    adata
        Not altered.
    features
        Names of the columns to read, in this order.
    layer
        Which layer (None: ``X``).
    site
        For messages.
    masked
        Take data without some of the features.
    beside
        Columns that come after the features (n_obs, n_columns).

    Examples
    --------
    >>> import infl
    >>> adata = infl.datasets.khan()
    >>> FeatureMatrix(adata, adata.var_names[:3], site="site_1").rows(slice(0, 2)).shape
    (2, 3)
    """

    def __init__(
        self,
        adata: AnnData,
        features: Sequence[str],
        *,
        layer: str | None = None,
        site: str,
        masked: bool = False,
        beside: np.ndarray | None = None,
    ) -> None:
        from infl.data.check import check_layer, check_unique, measured

        wanted = pd.Index(list(features))
        names, has = adata.var_names, measured(adata)
        if not names.is_unique:
            check_unique(names[names.isin(wanted)], "feature names", site)
        check_layer(adata, layer, site)
        position = names.get_indexer_for(wanted)
        self.absent = ~wanted.isin(has)
        if self.absent.all():
            raise DataError(f"{site} has none of the model's {len(features)} features, first {features[0]!r}")
        if (position < 0).any() and not masked:
            missing = wanted[position < 0]
            raise DataError(
                f"{site} lacks {len(missing)} of {len(features)} features, first {missing[0]!r}: it must have all that the "
                "model was fitted on"
            )
        matrix = adata.X if layer is None else adata.layers[layer]
        self.columns = position
        self.in_order = np.array_equal(position, np.arange(adata.n_vars))
        self._disk = Blocks(matrix, adata.n_obs) if on_disk(matrix) else None
        if self._disk is None:
            matrix = in_rows(matrix)
            if not self.in_order:
                matrix = matrix[:, position]
            matrix = matrix.astype(np.float32, copy=False)
        self.matrix = matrix
        self.some_absent = bool(self.absent.any())
        self.beside = None if beside is None else beside.astype(np.float32)
        if beside is not None:
            self.absent = np.concatenate([self.absent, np.isnan(beside).all(0)])
        self.shape = (adata.n_obs, len(self.absent))

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """Return the rows `index` as a dense float32 array (n_rows, n_features)."""
        disk = self._disk
        if disk is not None and isinstance(index, np.ndarray) and disk.expects(index):
            rows = disk.dense(index)
            rows = rows if self.in_order else rows[:, self.columns]
        else:
            rows = self.stored(index)
            rows = rows.toarray() if sparse.issparse(rows) else rows
        if self.some_absent:
            rows = rows.copy()
            rows[:, self.absent[: rows.shape[1]]] = np.nan
        return rows if self.beside is None else np.concatenate([rows, self.beside[index]], 1)

    def stored(self, index: np.ndarray | slice) -> Any:
        """Return the rows `index` in float32 as they are stored, sparse or dense; what is absent is not masked."""
        if self._disk is None:
            return self.matrix[index]
        rows = self._disk.read(index)
        return (rows if self.in_order else rows[:, self.columns]).astype(np.float32, copy=False)

    def order(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return `rows` in a random order for an epoch; data on disk are shuffled by blocks, and read ahead."""
        return rng.permutation(rows) if self._disk is None else self._disk.shuffled(rows, rng)

    def chunks(self, size: int = 2048) -> list[slice]:
        """Return slices that cover all rows in blocks of `size`; one without rows, where there are none."""
        return [slice(start, start + size) for start in range(0, max(self.shape[0], 1), size)]
