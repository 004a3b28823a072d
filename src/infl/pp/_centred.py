"""Products of centred rows, without subtracting the centre from zeros that are not stored.

With c the centre of features, Σ(x − c)(x − c)ᵀ = Σxxᵀ − c sᵀ − s cᵀ + n c cᵀ, where s = Σx. The difference is as exact as a
sum over x − c where most values of a feature are 0, since each of them is c away from the centre. So features with many
values are centred one by one, as a dense block, and the others as above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

_FILLED = 0.1
"""Share of values that are stored, above which a feature takes less time in a dense block than in a sparse product."""
_IN_MEMORY = 1 << 22  # numbers of a block


@dataclass(frozen=True)
class CentredRows:
    """Some rows minus a centre; 0 for a feature that is left out.

    Attributes
    ----------
    filled
        Features that are centred in a dense block; all of them without a sparse part.
    dense
        Their values minus the centre, (n_rows, n_filled).
    sparse
        Values of the other features, (n_rows, k); no value of a filled feature, or of one that is left out.
    center
        What is to be subtracted from `sparse`, (k,).
    """

    filled: np.ndarray
    dense: np.ndarray
    sparse: sparse.csr_matrix | None
    center: np.ndarray

    @classmethod
    def of(cls, block: Any, center: np.ndarray, used: np.ndarray) -> CentredRows:
        """Return rows of a matrix with `k` features minus `center`, (k,); `used`, (k,), are booleans."""
        if not sparse.issparse(block):
            dense = np.subtract(block, center, dtype=np.float64)
            dense[:, ~used] = 0
            return cls(np.arange(len(center)), dense, None, np.zeros(len(center)))
        is_filled = used & (np.bincount(block.indices, minlength=len(center)) > _FILLED * block.shape[0])
        filled = np.flatnonzero(is_filled)
        dense = block[:, filled].toarray().astype(np.float64, copy=False)
        dense -= center[filled]
        is_sparse = used & ~is_filled
        rest = block.astype(np.float64)  # a copy
        rest.data *= is_sparse[rest.indices]
        rest.eliminate_zeros()
        return cls(filled, dense, rest, np.where(is_sparse, center, 0))

    def times(self, vectors: np.ndarray) -> np.ndarray:
        """Return their products with vectors, (k, m): (n_rows, m)."""
        found = self.dense @ (vectors if self.sparse is None else vectors[self.filled])
        if self.sparse is not None:
            found += self.sparse @ vectors
            found -= self.center @ vectors
        return found

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over rows of features times values, (n_rows, m): (k, m)."""
        of_filled = self.dense.T @ values
        if self.sparse is None:
            return of_filled
        found = self.sparse.T @ values
        found -= np.outer(self.center, values.sum(axis=0))
        found[self.filled] = of_filled
        return found

    def add_products(self, total: np.ndarray) -> None:
        """Add products of the first features with all of them, summed over rows, to `total`, (height, k)."""
        height = len(total)
        if self.sparse is None:
            total += self.dense[:, :height].T @ self.dense
            return
        total += (self.sparse[:, :height].T @ self.sparse).toarray()
        sums, n_rows = np.bincount(self.sparse.indices, self.sparse.data, len(self.center)), self.sparse.shape[0]
        total -= np.stack([self.center[:height], sums[:height]], 1) @ np.stack(
            [sums - n_rows * self.center, self.center]
        )
        with_filled = self.transposed_times(self.dense)  # (k, n_filled)
        first = np.searchsorted(self.filled, height)
        total[:, self.filled] += with_filled[:height]
        total[self.filled[:first]] += with_filled[:, :first].T
        total[np.ix_(self.filled[:first], self.filled)] -= with_filled[self.filled[:first]]  # which came twice


def in_blocks(matrix: Any) -> Iterator[Any]:
    """Parts of the rows of an array or CSR matrix, with a bounded number of values each."""
    n_rows, n_vars = matrix.shape
    of_row = (
        4 * matrix.nnz / max(n_rows, 1) if sparse.issparse(matrix) else n_vars
    )  # and some features in a dense block
    step = max(1, int(_IN_MEMORY // max(1, of_row)))
    if step >= n_rows:
        yield matrix
        return
    for start in range(0, n_rows, step):
        yield matrix[start : start + step]
