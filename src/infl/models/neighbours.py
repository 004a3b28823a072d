"""Which spots of a tissue section lie side by side: the graph that spatial models average and train over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from infl._warn import warn
from infl.data.columns import missing_values
from infl.data.labels import label_text
from infl.errors import DataError
from infl.models.task import SITE

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

REACH = 1.5
"""The nearest spot is no neighbour if it is farther than this many median distances to the last neighbour: it lies beyond a tear."""
UNITS = 3.0
"""Spacings that differ by more than this factor raise a warning."""


@dataclass(frozen=True)
class Sections:
    """Where a site's spots lie, section by section. Coordinates of different sections have nothing to do with each other.

    Attributes
    ----------
    rows
        Indices of the spots of each section, by its name.
    coordinates
        (n_obs, 2) or (n_obs, 3), in any unit: distances are compared within a section only.
    site
        For messages.
    """

    rows: dict[str, np.ndarray]
    coordinates: np.ndarray
    site: str

    def spacings(self) -> dict[str, float]:
        """Return the median distance between a spot and the one nearest to it, for each section of two spots or more."""
        return {name: _spacing(self.coordinates[rows]) for name, rows in self.rows.items() if len(rows) > 1}

    def graph(self, n_neighbors: int = 8, *, reach: float = REACH) -> sparse.csr_matrix:
        """Return a symmetric adjacency (n_obs, n_obs) of 0 and 1, without itself: nearest spots in the same section.

        Parameters
        ----------
        n_neighbors
            Nearest spots of each; 8 is a square of 3 × 3 spots without its middle, 6 are those around a hexagon.
        reach
            Largest distance of a neighbour, in median distances of the last of `n_neighbors` (``inf``: none).

        Raises
        ------
        DataError
            A section has too few spots.
        """
        heads, tails = [], []
        if not self.rows:
            raise DataError(f"{self.site} has no spots: leave it out")
        for name, rows in self.rows.items():
            if len(rows) <= n_neighbors:
                raise DataError(
                    f"{_where(self.site, name)} has {len(rows)} spots, too few for n_neighbors={n_neighbors}: "
                    "lower n_neighbors, or leave the section out"
                )
            own = self.coordinates[rows]
            distances, nearest = NearestNeighbors(n_neighbors=n_neighbors).fit(own).kneighbors()
            near = distances <= reach * np.median(distances[:, -1])
            heads.append(rows[np.nonzero(near)[0]])
            tails.append(rows[nearest[near]])
        n = len(self.coordinates)
        i, j = np.concatenate(heads), np.concatenate(tails)
        one_way = sparse.csr_matrix((np.ones(len(i), dtype=np.float32), (i, j)), shape=(n, n))
        return one_way.maximum(one_way.T).tocsr()


def sections_of(
    adata: AnnData | MuData, *, spatial_key: str = "spatial", section_key: str | None = None, site: str
) -> Sections:
    """Read and check the coordinates of a site's spots.

    Parameters
    ----------
    adata
        Not altered.
    spatial_key
        Key of ``obsm`` with the coordinates, as scanpy and squidpy have it.
    section_key
        Column of ``obs`` with the section of each spot (None: the site has one).
    site
        For messages.

    Raises
    ------
    DataError
        Coordinates are missing, not numbers, or the same for two spots of a section; or a spot has no section.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> spots = anndata.AnnData(np.ones((9, 1)), obsm={"spatial": np.indices((3, 3)).reshape(2, 9).T})
    >>> sections = sections_of(spots, site="a")
    >>> sections.spacings(), sections.graph(n_neighbors=4).shape
    ({'': 1.0}, (9, 9))
    """
    if spatial_key not in adata.obsm:
        has = ", ".join(map(repr, list(adata.obsm)[:6])) or "none"
        raise DataError(f"{site} has no coordinates in obsm[{spatial_key!r}]: set spatial_key= (obsm has {has})")
    xy = np.asarray(adata.obsm[spatial_key])
    if xy.ndim != 2 or xy.shape[1] not in (2, 3) or not np.issubdtype(xy.dtype, np.number):
        raise DataError(
            f"obsm[{spatial_key!r}] of {site} has shape {xy.shape} and type {xy.dtype}: coordinates are two or three "
            "numbers a spot"
        )
    xy = xy.astype(np.float64)
    lost = ~np.isfinite(xy).all(1)
    if lost.any():
        raise DataError(
            f"{int(lost.sum())} spots of {site} have no coordinates in obsm[{spatial_key!r}], first "
            f"{adata.obs_names[int(lost.argmax())]!r}: leave them out"
        )
    rows = section_rows(adata, section_key, site=site)
    for name, own in rows.items():
        _, first, count = np.unique(xy[own], axis=0, return_index=True, return_counts=True)
        if (count > 1).any():
            spot = adata.obs_names[own[first[int(count.argmax())]]]
            more = "are there several sections? set section_key=" if section_key is None else "leave out all but one"
            raise DataError(f"{_where(site, name)} has {int(count.max())} spots at the coordinates of {spot!r}: {more}")
    return Sections(rows, xy, site)


def averaging(graph: sparse.csr_matrix, *, own: float = 1.0) -> sparse.csr_matrix:
    """Return the operator (n_obs, n_obs) that takes the mean over a spot, with weight `own`, and its neighbours.

    Rows add to 1. Applied h times it looks h spots far.

    Examples
    --------
    >>> averaging(sparse.csr_matrix([[0, 1], [1, 0]])).toarray()
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    whole = (graph + own * sparse.identity(graph.shape[0], format="csr")).astype(np.float32)
    return (
        (sparse.diags_array(1 / np.maximum(np.asarray(whole.sum(1)).ravel(), 1e-12)) @ whole).tocsr().astype(np.float32)
    )


def warn_of_spacings(sites: Mapping[str, Sections]) -> None:
    """Say it when sections have coordinates in units that are not alike (micrometres, pixels, rows and columns).

    Nothing is computed from distances between units, so it is a warning: the same number of neighbours spans more tissue
    where spots lie further apart.
    """
    found = {(site, name): s for site, own in sites.items() for name, s in own.spacings().items()}
    if not found:
        return
    (least, low), (most, high) = (chosen(found.items(), key=lambda item: item[1]) for chosen in (min, max))
    if high > UNITS * low:
        warn(
            f"sections seem to be in different units: spots lie {low:.3g} apart in {_where(*least)} "
            f"and {high:.3g} in {_where(*most)}; neighbours are found within each, so they may stay"
        )


def site_of(adata: AnnData | MuData) -> np.ndarray | None:
    """Site of each spot of an object that several sites were put together in; None for any other."""
    if SITE in adata.obs:
        return adata.obs[SITE].astype(str).to_numpy().astype(object)
    parts = [table.obs[SITE] for table in getattr(adata, "mod", {}).values() if SITE in table.obs]
    if not parts:
        return None
    site = pd.concat(parts).astype(str)
    return site[~site.index.duplicated()].reindex(adata.obs_names).to_numpy().astype(object)


def section_rows(adata: AnnData | MuData, section_key: str | None, *, site: str) -> dict[str, np.ndarray]:
    """Indices of each section's spots; sections of sites that were put together stay apart, whatever they are called.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> spots = anndata.AnnData(np.ones((3, 1)), obs={"section": ["s1"] * 3, SITE: ["a", "b", "b"]})
    >>> {name: rows.tolist() for name, rows in section_rows(spots, "section", site="all").items()}
    {'a/s1': [0], 'b/s1': [1, 2]}
    """
    sites = site_of(adata)
    if sites is not None and len(set(sites)) == 1:
        sites = None
    if section_key is None:
        if sites is None:
            return {"": np.arange(adata.n_obs)}
        return {name: np.flatnonzero(sites == name) for name in dict.fromkeys(sites)}
    if section_key not in adata.obs:
        has = ", ".join(map(repr, list(adata.obs)[:6])) or "none"
        raise DataError(
            f"{site} has no obs column {section_key!r} with the sections: add it, or fit with another section_key= (it has {has})"
        )
    column = adata.obs[section_key]
    missing = missing_values(column)
    if missing.any():
        spot = adata.obs_names[int(missing.argmax())]
        raise DataError(f"{int(missing.sum())} spots of {site} have no section in obs[{section_key!r}], first {spot!r}")
    names = label_text(column).to_numpy(dtype=object)
    if sites is not None:
        names = sites + "/" + names
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}


def _where(site: str, section: str) -> str:
    return f"section {section!r} of {site}" if section else site


def _spacing(coordinates: np.ndarray) -> float:
    distances, _ = NearestNeighbors(n_neighbors=1).fit(coordinates).kneighbors()
    return float(np.median(distances))
