"""What a spot's neighbourhood expresses: the share of each feature, averaged over neighbours."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import Sections, averaging
from infl.models.task import SiteData

_IN_MEMORY = 1 << 25  # numbers


class Neighbourhoods:
    """Square roots of each feature's share in a spot, averaged over neighbours that have counts; kept where they are not too many.

    Square roots give counts about the same noise at all levels (Anscombe 1948). A spot with no counts near has the mean of
    its section.

    Parameters
    ----------
    x
        Raw counts; checked by the caller.
    sections
        Coordinates.
    n_neighbors, n_hops
        Of the average.
    """

    def __init__(self, x: FeatureMatrix, sections: Sections, *, n_neighbors: int, n_hops: int) -> None:
        self.graph = sections.graph(n_neighbors)
        counts = sparse.csr_matrix(sparse.vstack([sparse.csr_matrix(x.stored(chunk)) for chunk in x.chunks()]))
        total = np.asarray(counts.sum(1), dtype=float).ravel()
        self._roots = (sparse.diags_array(1 / np.sqrt(np.maximum(total, 1))) @ counts.astype(float).sqrt()).tocsr()
        self._over = _average(averaging(self.graph), n_hops, total > 0).astype(float)
        self._known = np.asarray(self._over.sum(1)).ravel() > 0
        self._section = np.empty(len(total), dtype=np.int64)
        for number, rows in enumerate(sections.rows.values()):
            self._section[rows] = number

    def __len__(self) -> int:
        return len(self._section)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._roots.shape[1]

    @cached_property
    def _means(self) -> np.ndarray:
        """Of each section's spots, (n_sections, n_features)."""
        member = sparse.csr_matrix((self._known.astype(float), (self._section, np.arange(len(self)))))
        share = sparse.diags_array(1 / np.maximum(np.asarray(member.sum(1)).ravel(), 1))
        return (share @ member @ self._over @ self._roots).toarray()

    @cached_property
    def _sizes(self) -> np.ndarray:
        """How far each section's spots are from their mean, all together, (n_sections,)."""
        squares = np.zeros(len(self._means))
        for index in self.chunks():
            squares += np.bincount(self._section[index], (self.within(index) ** 2).sum(1), minlength=len(squares))
        return np.maximum(np.sqrt(squares), 1e-12)

    @cached_property
    def _everything(self) -> np.ndarray | None:
        return self._computed(slice(None)) if len(self) * self.n_features <= _IN_MEMORY else None

    def rows(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return shares (n_rows, n_features)."""
        return self._computed(index) if self._everything is None else self._everything[index]

    def _computed(self, index: np.ndarray | slice) -> np.ndarray:
        found = (self._over[index] @ self._roots).toarray()
        unknown = ~self._known[index]
        found[unknown] = self._means[self._section[index][unknown]]
        return found

    def within(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return shares (n_rows, n_features) as seen from the mean of the section."""
        return self.rows(index) - self._means[self._section[index]]

    def alike(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return shares (n_rows, n_features) as seen from the mean of the section, each of which is of size one as a whole."""
        return self.within(index) / self._sizes[self._section[index], None]

    def chunks(self, size: int = 2048) -> list[np.ndarray]:
        """Return indices that cover all spots in blocks of `size`."""
        return [np.arange(start, min(start + size, len(self))) for start in range(0, len(self), size)]


class Spots(SiteData):
    """A site's spots as what their neighbourhoods express, each seen from the mean of its section.

    Parameters
    ----------
    near
        What that is.
    train, validation
        Indices.
    """

    def __init__(self, near: Neighbourhoods, *, train: np.ndarray, validation: np.ndarray) -> None:
        self.near, self.train, self.validation = near, train, validation

    def batch(self, index: np.ndarray) -> Tensor:
        """Return the rows `index` (n_rows, n_features), float32."""
        return torch.from_numpy(self.near.within(index).astype(np.float32))


def _average(mean: sparse.csr_matrix, n_hops: int, has_counts: np.ndarray) -> sparse.csr_matrix:
    """The mean over neighbours with counts, up to this number of hops away; rows add to 1, or to 0 where nothing is known."""
    over = sparse.identity(mean.shape[0], format="csr", dtype=np.float32)
    for _ in range(n_hops):
        over = mean @ over
    over = (over @ sparse.diags_array(has_counts.astype(np.float32))).tocsr()
    total = np.asarray(over.sum(1)).ravel()
    return (sparse.diags_array(np.where(total > 0, 1 / np.maximum(total, 1e-12), 0)) @ over).tocsr().astype(np.float32)
