"""What a spot's neighbourhood expresses: counts averaged over neighbours, each section seen from its own mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import Sections, averaging
from infl.models.task import SiteData

VIEWS = 2
_IN_MEMORY = 1 << 26  # numbers


class Spots(SiteData):
    """A site's spots in two views, side by side: how much of each feature there is, and what share of the spot it is.

    Tissues differ in how much they express as well as in what, and a spot's total says which tissue it is; dividing by it,
    as for cells, would take that away (Bhuva et al. 2024). So one view divides counts by the median total of the
    section, which takes depth of sequencing out, and the other one by the spot's own total. Square roots give counts
    about the same noise at all levels (Anscombe 1948). Both are averaged over neighbours, as often as there are hops,
    and the section's mean is taken off: what is particular to a section or a patient goes with it.

    Spots without counts have what their neighbours have.

    Parameters
    ----------
    x
        Raw counts; checked by the caller.
    sections
        Coordinates.
    n_neighbors, n_hops
        Of the average.
    train, validation
        Indices.

    References
    ----------
    Bhuva et al. (2024), Library size confounds biology in spatial transcriptomics data, Genome Biology 25:99.
    """

    def __init__(
        self,
        x: FeatureMatrix,
        sections: Sections,
        *,
        n_neighbors: int,
        n_hops: int,
        train: np.ndarray,
        validation: np.ndarray,
    ) -> None:
        self.train, self.validation = train, validation
        self.graph = sections.graph(n_neighbors)
        counts = sparse.csr_matrix(sparse.vstack([sparse.csr_matrix(x.stored(chunk)) for chunk in x.chunks()]))
        total = np.asarray(counts.sum(1)).ravel()
        self._roots = counts.sqrt()  # (n_obs, n_features)
        median = np.ones(len(total))
        for rows in sections.rows.values():
            with_counts = total[rows][total[rows] > 0]
            median[rows] = np.median(with_counts) if len(with_counts) else 1.0
        self._factors = [1 / np.sqrt(median), 1 / np.sqrt(np.maximum(total, 1))]  # of each view
        self._mean_over = _average(averaging(self.graph), n_hops, total > 0)
        self._section = np.empty(len(total), dtype=np.int64)
        for number, rows in enumerate(sections.rows.values()):
            self._section[rows] = number

    @cached_property
    def _centres(self) -> np.ndarray:
        """Means of the views in each section, (n_sections, 2 n_features)."""
        n = len(self._section)
        member = sparse.csr_matrix((np.ones(n, np.float32), (self._section, np.arange(n))))
        share = sparse.diags_array(1 / np.maximum(np.asarray((member @ self._mean_over).sum(1)).ravel(), 1e-12))
        return self._views(share @ member @ self._mean_over)

    @cached_property
    def _everything(self) -> np.ndarray | None:
        size = len(self._section) * VIEWS * self._roots.shape[1]
        return self._computed(slice(None)) if size <= _IN_MEMORY else None

    def _views(self, weights: sparse.csr_matrix) -> np.ndarray:
        """Weighted sums of spots, (n_rows, 2 n_features)."""
        return np.hstack([(weights.multiply(f[None]).tocsr() @ self._roots).toarray() for f in self._factors])

    def _computed(self, index: np.ndarray | slice) -> np.ndarray:
        over = self._mean_over[index]
        known = np.asarray(over.sum(1)).ravel() > 0  # else no spot near has counts: the section's mean
        return np.where(known[:, None], self._views(over) - self._centres[self._section[index]], 0).astype(np.float32)

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """Return the two views (n_rows, 2 n_features), float32."""
        return self._computed(index) if self._everything is None else self._everything[index]

    def chunks(self, size: int = 2048) -> list[np.ndarray]:
        """Return indices that cover all spots in blocks of `size`."""
        return [np.arange(start, min(start + size, len(self._section))) for start in range(0, len(self._section), size)]

    def batch(self, index: np.ndarray) -> Tensor:
        """Return the rows `index` as a tensor."""
        return torch.from_numpy(self.rows(index))


def view_names(features: Sequence[str]) -> list[str]:
    """Return names for the columns of the two views."""
    return [*features, *(f"share of {feature}" for feature in features)]


def neighbourhood_shares(x: FeatureMatrix, sections: Sections, *, n_neighbors: int, n_hops: int) -> np.ndarray:
    """Return square roots of each feature's share in a spot, averaged over neighbours that have counts, (n_obs, n_features).

    A spot with no counts near has the mean of its section.

    Parameters
    ----------
    x
        Raw counts; checked by the caller.
    sections
        Coordinates.
    n_neighbors, n_hops
        Of the average.
    """
    counts = sparse.csr_matrix(sparse.vstack([sparse.csr_matrix(x.stored(chunk)) for chunk in x.chunks()]))
    total = np.asarray(counts.sum(1), dtype=float).ravel()
    roots = (sparse.diags_array(1 / np.sqrt(np.maximum(total, 1))) @ counts.astype(float).sqrt()).tocsr()
    over = _average(averaging(sections.graph(n_neighbors)), n_hops, total > 0)
    known = np.asarray(over.sum(1)).ravel() > 0
    found = np.asarray((over.astype(float) @ roots).todense())
    for rows in sections.rows.values():
        if known[rows].any():
            found[rows[~known[rows]]] = found[rows[known[rows]]].mean(0)
    return found


def squares(data: Spots) -> dict[str, np.ndarray]:
    """Return the number of spots, and the sum of squares of each view."""
    total = np.zeros(VIEWS)
    for chunk in data.chunks():
        rows = data.rows(chunk).astype(np.float64)
        total += (rows**2).sum(0).reshape(VIEWS, -1).sum(1)
    return {"n": np.asarray(float(data.graph.shape[0])), "squares": total}


def _average(mean: sparse.csr_matrix, n_hops: int, has_counts: np.ndarray) -> sparse.csr_matrix:
    """The mean over neighbours with counts, up to this number of hops away; rows add to 1, or to 0 where nothing is known."""
    over = sparse.identity(mean.shape[0], format="csr", dtype=np.float32)
    for _ in range(n_hops):
        over = mean @ over
    over = (over @ sparse.diags_array(has_counts.astype(np.float32))).tocsr()
    total = np.asarray(over.sum(1)).ravel()
    return (sparse.diags_array(np.where(total > 0, 1 / np.maximum(total, 1e-12), 0)) @ over).tocsr().astype(np.float32)
