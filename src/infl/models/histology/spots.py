"""Spots with stained tissue and counts, as the histology model reads them from a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from infl._warn import warn
from infl.models.histology.patches import (
    BLOCK,
    N_STATISTICS,
    Patches,
    Stain,
    stain_transform,
    statistics,
    warn_of_colours,
)
from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import averaging
from infl.models.task import SiteData

if TYPE_CHECKING:
    from infl.models.neighbours import Sections


ENOUGH = 20
"""Patches of a section that tell its colours; a few may be of anything."""
REGIONS, REGION = 3, 5
"""How many regions of a section are held out at most, and how many spots each has at least."""


class SpotBatch(NamedTuple):
    """What the network takes of some spots."""

    images: Tensor  # (n, 3, h, w), stains made alike
    beside: Tensor  # (n, n_statistics)
    counts: Tensor  # (n, n_features)


class Spots(SiteData):
    """One site's spots with their patches, read in batches.

    Parameters
    ----------
    patches
        Of all spots.
    counts
        Raw counts (None: to predict).
    sections
        Which spots belong together.
    smooth
        Operator (n_obs, n_obs) that averages over a spot's neighbourhood, or None.
    with_statistics
        Whether statistics go beside the image.
    stain
        How stains are made alike.
    train, validation, usable
        Indices; `usable` are all that can be trained on, also those that lie beside `validation`.
    region_of
        Which part of tissue each spot was held out with (n_obs,), as a number.
    site
        For messages.

    Attributes
    ----------
    rows
        Spots that have a patch.
    beside
        Statistics (n_obs, n_statistics): of the patch, the same relative to its section, and both averaged over neighbours.
    """

    def __init__(
        self,
        patches: Patches,
        counts: FeatureMatrix | None,
        *,
        sections: dict[str, np.ndarray],
        smooth: sparse.csr_matrix | None,
        with_statistics: bool,
        stain: Stain,
        train: np.ndarray,
        validation: np.ndarray,
        usable: np.ndarray,
        region_of: np.ndarray,
        site: str,
    ) -> None:
        self.patches, self.counts, self.sections = patches, counts, sections
        self.train, self.validation, self.usable, self.region_of = train, validation, usable, region_of
        self.rows = np.flatnonzero(patches.present)
        self.section_of = np.zeros(patches.n, dtype=int)
        own = np.zeros((patches.n, N_STATISTICS), dtype=np.float32)
        for at, density in patches.blocks(self.rows):
            own[self.rows[at]] = statistics(density)
        self.stains, relative = [], np.zeros_like(own)
        for number, (name, spots) in enumerate(sections.items()):
            seen = spots[patches.present[spots]]
            self.section_of[spots] = number
            if not len(seen):
                self.stains.append(lambda density: density)
                continue
            if len(seen) >= ENOUGH:
                warn_of_colours(own[seen, :3].mean(0), f"section {name!r} of {site}" if name else site)
            self.stains.append(stain_transform(patches, seen, stain))
            relative[seen] = (own[seen] - own[seen].mean(0)) / np.maximum(own[seen].std(0), 1e-6)
        both = np.concatenate([own, relative], 1)
        around = [] if smooth is None else [smooth @ both]
        self.beside = np.concatenate([both, *around], 1) if with_statistics else both[:, :0]

    def images(self, index: np.ndarray) -> Tensor:
        """Return the patches `index` as images (n, 3, h, w), stains made alike."""
        density = self.patches.density(index)
        for number in np.unique(self.section_of[index]):
            own = self.section_of[index] == number
            density[own] = self.stains[number](density[own])
        return torch.from_numpy(np.ascontiguousarray(density.transpose(0, 3, 1, 2)))

    def batch(self, index: np.ndarray) -> SpotBatch:
        """Return images, statistics and counts of the spots `index`."""
        assert self.counts is not None
        return SpotBatch(
            self.images(index), torch.from_numpy(self.beside[index]), torch.from_numpy(self.counts.rows(index))
        )

    def within_sections(self, index: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the positions in `index` of each section's spots."""
        for number in np.unique(self.section_of[index]):
            yield np.flatnonzero(self.section_of[index] == number)


def blocks(index: np.ndarray) -> list[np.ndarray]:
    """Cut indices into parts that are looked at together."""
    return np.array_split(index, max(1, -(-len(index) // BLOCK)))


def regions(sections: Sections, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return spots to hold out: in each section this share of them, those around a few that are drawn.

    Neighbours look alike, so a spot amid training spots is hardly held out; and one region would be one kind of tissue. Only
    places decide, so that what a spot is like changes nothing for the others.
    """
    held = [np.arange(0)]
    for left in sections.rows.values():
        size = min(round(share * len(left)), len(left) - 1)
        centres = sections.coordinates[rng.permutation(left)[: min(REGIONS, max(1, size // REGION))]]
        for number, centre in enumerate(centres):
            distance = np.linalg.norm(sections.coordinates[left] - centre, axis=1)
            part = (size + number) // len(centres)  # parts add to the size
            held.append(left[np.argsort(distance, kind="stable")[:part]])
            left = np.setdiff1d(left, held[-1])
    return np.sort(np.concatenate(held))


def parts_of(sections: Sections, spots: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Return the number (n_obs,) of the connected part of `spots` that each is in; others are parts of their own."""
    inside = sparse.diags_array(np.isin(np.arange(len(sections.coordinates)), spots).astype(float))
    return connected_components((inside @ sections.graph(n_neighbors) @ inside).tocsr(), directed=False)[1]


def not_beside(sections: Sections, spots: np.ndarray, others: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Return those of `spots` that are not neighbours of any of `others`."""
    return spots[sections.graph(n_neighbors)[spots][:, others].getnnz(axis=1) == 0]


def smoother(sections: Sections, present: np.ndarray, *, context: int, n_neighbors: int) -> sparse.csr_matrix:
    """Return the operator (n_obs, n_obs) that averages over spots up to `context` steps away that have a patch."""
    graph = sections.graph(n_neighbors)
    keep = sparse.diags_array(present.astype(np.float32))
    step = averaging((keep @ graph @ keep).tocsr())
    whole = step
    for _ in range(context - 1):
        whole = whole @ step
    return whole


def warn_of_lost(site: str, missing: int, empty: int) -> None:
    """Say how many spots cannot be trained on."""
    parts = [f"{missing} spots without a patch"] * bool(missing) + [f"{empty} spots without a count"] * bool(empty)
    if parts:
        warn(f"{site} has {' and '.join(parts)}: they are not trained on")
