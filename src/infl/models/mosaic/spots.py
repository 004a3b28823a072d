"""One site's spots, each with some of the modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from infl.models.mosaic.modalities import KINDS
from infl.models.task import SiteData
from infl.sums.standardise import unit_of


@dataclass(frozen=True)
class Measured:
    """One modality of a site.

    Attributes
    ----------
    rows
        Which spots have it ``(n,)``.
    x
        Standardised features ``(n, p)``.
    target
        What is predicted: `x`, or 0 and 1 of accessibility.
    center, scale
        Of the sections, weighted by their spots ``(p,)``: what a value of 0 and of 1 of `x` is.
    near, around
        Means over neighbours with and without the spot itself ``(n, n)``; None without coordinates.
    """

    rows: np.ndarray
    x: np.ndarray
    target: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    near: sparse.csr_matrix | None
    around: sparse.csr_matrix | None

    @classmethod
    def of(
        cls,
        raw: np.ndarray,
        rows: np.ndarray,
        sections: Sequence[np.ndarray],
        *,
        kind: str,
        depth: bool,
        graph: sparse.csr_matrix | None,
    ) -> Measured:
        """Transform raw values (n, p) and standardise them within each section, which is what a batch is."""
        from infl.models.neighbours import averaging

        x = np.empty(raw.shape, dtype=np.float32)
        center, square = np.zeros(raw.shape[1]), np.zeros(raw.shape[1])
        for section in sections:
            own = np.isin(rows, section)
            if not own.any():
                continue
            values = KINDS[kind](raw[own].astype(np.float64), depth)
            mean, variance = values.mean(0), values.var(0)
            x[own] = (values - mean) / unit_of(variance, mean)
            center += own.mean() * mean
            square += own.mean() * variance
        target = (raw > 0).astype(np.float32) if kind == "accessibility" else x
        near = around = None
        if graph is not None:
            own_graph = graph[rows][:, rows]
            near, around = averaging(own_graph), averaging(own_graph, own=0.0)
        return cls(rows, x, target, center, np.sqrt(square), near, around)


@dataclass(frozen=True)
class Part:
    """A modality's share of a batch.

    Attributes
    ----------
    at
        Which of the batch's spots have it ``(n,)``.
    rows
        Their places in `table`.
    table
        The site's modality.
    binary
        Whether 0 and 1 are predicted.
    """

    at: np.ndarray
    rows: np.ndarray
    table: Measured
    binary: bool

    @property
    def alone(self) -> bool:
        """Whether there are no neighbours, and each spot stands for itself."""
        return self.table.near is None

    def near(self) -> Tensor:
        """Return features as means over neighbours and the spot itself ``(n, p)``."""
        return self._mean(self.table.near)

    def around(self) -> Tensor:
        """Return features as means over neighbours ``(n, p)``."""
        return self._mean(self.table.around)

    def target(self) -> Tensor:
        """Return what is predicted ``(n, p)``."""
        return torch.from_numpy(self.table.target[self.rows])

    def _mean(self, operator: sparse.csr_matrix | None) -> Tensor:
        x = self.table.x
        return torch.from_numpy(x[self.rows] if operator is None else operator[self.rows] @ x)


class MosaicSpots(SiteData):
    """A site's spots, each with some of the modalities.

    Parameters
    ----------
    measured
        By number of the modality, those that the site has.
    n_obs
        Number of spots.
    sections
        Spots of each section.
    binary
        For every modality of the panel, whether 0 and 1 are predicted.
    train, validation
        Indices.
    """

    def __init__(
        self,
        measured: Mapping[int, Measured],
        n_obs: int,
        sections: Sequence[np.ndarray],
        binary: Sequence[bool],
        train: np.ndarray,
        validation: np.ndarray,
    ) -> None:
        self.measured, self.n_obs, self.sections, self.binary = measured, n_obs, sections, tuple(binary)
        self.train, self.validation = train, validation
        self._place = {m: _places(table.rows, n_obs) for m, table in measured.items()}

    def batch(self, index: np.ndarray | slice) -> dict[int, Part]:
        """Return each modality's share of the spots `index`."""
        spots = np.arange(self.n_obs)[index]
        parts = {}
        for m, table in self.measured.items():
            place = self._place[m][spots]
            at = np.flatnonzero(place >= 0)
            parts[m] = Part(at, place[at], table, self.binary[m])
        return parts

    def chunks(self, size: int = 2048) -> list[slice]:
        """Return slices that cover all spots."""
        return [slice(start, min(start + size, self.n_obs)) for start in range(0, self.n_obs, size)]


def _places(rows: np.ndarray, n_obs: int) -> np.ndarray:
    """Where in `rows` each of the spots is; −1 where it is not."""
    place = np.full(n_obs, -1)
    place[rows] = np.arange(len(rows))
    return place
