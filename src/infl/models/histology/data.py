"""What the histology model reads from a site: patches, counts where there are any, and which spots lie together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._warn import warn
from infl.errors import DataError
from infl.models.counts import check_counts
from infl.models.histology.patches import Patches, Stain
from infl.models.histology.spots import Spots, not_beside, parts_of, regions, smoother, warn_of_lost
from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import Sections, section_rows, sections_of, warn_of_spacings

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse


@dataclass(frozen=True)
class Reader:
    """Reads sites' tables as the task's options of the same names say (:class:`infl.models.Histology`)."""

    layer: str | None
    patches: str
    spatial_key: str
    section_key: str | None
    context: int
    n_neighbors: int
    stain: Stain
    statistics: bool
    validation: float

    def agree(self, tables: Mapping[str, AnnData]) -> dict[str, Any]:
        """Return shared features and the shape of patches, after checking the sites' data."""
        from infl.data.check import panel_of

        panel: dict[str, Any] = {"features": list(panel_of(tables, layer=self.layer).features)}
        shapes = {site: self.patches_of(table, site).shape for site, table in tables.items()}
        first, *others = shapes
        strangers = [site for site in others if shapes[site] != shapes[first]]
        if strangers:
            raise DataError(
                f"patches of {first} are {shapes[first][0]} × {shapes[first][1]} pixels, those of {strangers[0]} "
                f"{shapes[strangers[0]][0]} × {shapes[strangers[0]][1]}: cut them alike with infl.pp.cut_patches"
            )
        panel["patch"] = list(shapes[first])
        if self.context:
            warn_of_spacings({site: self._sections(table, site) for site, table in tables.items()})
        for site, table in tables.items():
            self._check_spots(table, panel, site)
        return panel

    def _check_spots(self, table: AnnData, panel: Mapping[str, Any], site: str) -> None:
        """Refuse a site that has nothing to train on, and say how many of its spots cannot be trained on."""
        patches, empty = self.patches_of(table, site), self._counts(table, panel, site)[1]
        if (empty | ~patches.present).all():
            raise DataError(f"{site} has no spot with both a patch and counts: leave the site out")
        warn_of_lost(site, int((~patches.present).sum()), int((empty & patches.present).sum()))
        if self.context:
            self._smoother(self._sections(table, site), patches)

    def read(self, table: AnnData, panel: Mapping[str, Any], *, site: str, rng: np.random.Generator | None) -> Spots:
        """Return patches and, when training, counts. Stains and statistics are relative to a section's own."""
        patches = self.patches_of(table, site)
        if list(patches.shape) != list(panel["patch"]):
            raise DataError(
                f"patches of {site} are {patches.shape[0]} × {patches.shape[1]} pixels, the model's {panel['patch'][0]} × "
                f"{panel['patch'][1]}: cut them alike with infl.pp.cut_patches"
            )
        if rng is None:
            self._check_genes(table, panel, site)
        counts, sections = None, None
        train = validation = usable = np.arange(0)
        if rng is not None:
            counts, empty = self._counts(table, panel, site)
            usable = np.flatnonzero(patches.present & ~empty)
        smooth, rows = None, section_rows(table, None, site=site)
        if self.context or self.section_key is not None:
            sections = self._sections(table, site)
            rows = sections.rows
            if self.context:
                smooth = self._smoother(sections, patches)
        region_of = np.arange(patches.n)
        if rng is not None:
            train, validation = self._parts(sections if self.context else None, usable, rng)
            if sections is not None and self.context:
                region_of = parts_of(sections, validation, self.n_neighbors)
        return Spots(
            patches,
            counts,
            sections=rows,
            smooth=smooth,
            with_statistics=self.statistics,
            stain=self.stain,
            train=train,
            validation=validation,
            usable=usable,
            region_of=region_of,
            site=site,
        )

    def _check_genes(self, table: AnnData, panel: Mapping[str, Any], site: str) -> None:
        """Refuse data without a column for what is predicted, and say how much of it has none."""
        lacking = [gene for gene in panel["features"] if gene not in table.var_names]
        if len(lacking) == len(panel["features"]):
            raise DataError(
                f"{site} has none of the model's {len(lacking)} genes, so predictions have no place: give it their names, "
                "var=pandas.DataFrame(index=model.header.panel['features']); it needs no counts"
            )
        if lacking:
            warn(
                f"{site} has no column for {len(lacking)} of the model's {len(panel['features'])} genes, first {lacking[0]!r}: their "
                "predictions are left out"
            )

    def _parts(
        self, sections: Sections | None, usable: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return training and validation spots of those that can be trained on, at least one for training."""
        if sections is None:
            n_held = min(round(self.validation * len(usable)), len(usable) - 1)
            held = np.sort(rng.permutation(usable)[:n_held])
            return np.setdiff1d(usable, held), held
        held = regions(sections, self.validation, rng)
        rest = np.setdiff1d(np.arange(len(sections.coordinates)), held)
        away = not_beside(sections, rest, held, self.n_neighbors)
        train = np.intersect1d(usable, away if len(away) > len(rest) / 2 else rest)
        held = np.intersect1d(usable, held)
        return (train, held) if len(train) else (held, train)

    def patches_of(self, table: AnnData, site: str) -> Patches:
        """Return a table's patches."""
        return Patches(table, key=self.patches, site=site)

    def _sections(self, table: AnnData, site: str) -> Sections:
        return sections_of(table, spatial_key=self.spatial_key, section_key=self.section_key, site=site)

    def _smoother(self, sections: Sections, patches: Patches) -> sparse.csr_matrix:
        return smoother(sections, patches.present, context=self.context, n_neighbors=self.n_neighbors)

    def _counts(self, table: AnnData, panel: Mapping[str, Any], site: str) -> tuple[FeatureMatrix, np.ndarray]:
        """Return counts, and which spots have none."""
        x = FeatureMatrix(table, panel["features"], layer=self.layer, site=site)
        return x, check_counts(x, table.obs_names, site=site, layer=self.layer, may_be_empty=True)
