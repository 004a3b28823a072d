"""What the spatial model reads from a site: counts of spots and where these lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.models.counts import check_counts, log_normalised
from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import Sections, sections_of
from infl.models.spatial.neighbourhoods import Neighbourhoods, Spots

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Reader:
    """Reads sites' tables as the task's options of the same names say (:class:`infl.models.Spatial`)."""

    layer: str | None
    spatial_key: str
    section_key: str | None
    n_neighbors: int
    n_hops: int
    validation: float

    def read(self, table: AnnData, panel: Mapping[str, Any], *, site: str, rng: np.random.Generator | None) -> Spots:
        """Return what neighbourhoods express, and which spots judge a fit."""
        x = FeatureMatrix(table, panel["features"], layer=self.layer, site=site)
        check_counts(x, table.obs_names, site=site, layer=self.layer, may_be_empty=True)
        train, validation = np.arange(table.n_obs), np.arange(0)
        if rng is not None:
            train, validation = np.split(rng.permutation(train), [table.n_obs - round(self.validation * table.n_obs)])
        near = Neighbourhoods(x, self.sections(table, site), n_neighbors=self.n_neighbors, n_hops=self.n_hops)
        return Spots(near, train=np.sort(train), validation=np.sort(validation))

    def sections(self, table: AnnData, site: str) -> Sections:
        """Return where a table's spots lie, section by section."""
        return sections_of(table, spatial_key=self.spatial_key, section_key=self.section_key, site=site)

    def log_counts(self, table: AnnData, panel: Mapping[str, Any]) -> np.ndarray:
        """Return log-normalised counts of all spots (n_obs, n_features), without coordinates."""
        counts = FeatureMatrix(table, panel["features"], layer=self.layer, site="the data").rows(slice(None))
        return log_normalised(counts, 1e4)
