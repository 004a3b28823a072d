"""What the mosaic reads from a site: its measured modalities, their kinds, and where its spots lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from infl._mudata import without_pull
from infl.data.labels import label_text
from infl.errors import DataError, SettingsError
from infl.models.matrix import FeatureMatrix
from infl.models.mosaic.modalities import check_kind, kind_of
from infl.models.mosaic.spots import Measured, MosaicSpots
from infl.models.task import SITE

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.models.neighbours import Sections

FEWEST_PAIRED = 10
"""Spots with two modalities, over all sites, from which these can be aligned."""
IMPUTED = "infl_imputed"
"""In ``uns`` of modalities that were predicted, which a later fit leaves out."""


@dataclass(frozen=True)
class Reader:
    """Reads sites' objects as the task's options of the same names say (:class:`infl.models.Mosaic`)."""

    layer: str | None
    kinds: Mapping[str, str]
    depth: bool | None
    spatial_key: str | None
    section_key: str | None
    n_neighbors: int
    validation: float

    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return modalities, their kinds and shared features of what sites measured, after checking the sites' data."""
        from infl.data.check import panel_of, units_by_modality
        from infl.data.units import check_units

        self._check_tables(sites)
        units = units_by_modality(sites, self.layer)
        for kinds in units:
            check_units(kinds)
        shared = panel_of(sites, layer=self.layer)
        modalities = shared.modalities or ("",)
        unknown = sorted(set(self.kinds) - set(modalities))
        if unknown:
            raise SettingsError(
                f"kinds= names modality {unknown[0]!r}, which no site has: they have {', '.join(map(repr, modalities))}"
            )
        check_pairs(sites, modalities)
        common = dict(zip(sorted(modalities), units, strict=True))
        panel = {
            "features": list(shared.features),
            "modalities": {
                m: [f.removeprefix(f"{m}:") for f in shared.features if not m or f.startswith(f"{m}:")]
                for m in modalities
            },
            "kinds": {m: kind_of(m, self._units(m, common[m], sites), self.kinds.get(m)) for m in modalities},
            "units": list(shared.units),
            "spatial": self._all_spatial(sites),
        }
        self._check_reading(sites, panel)
        return panel

    def _check_tables(self, sites: Mapping[str, AnnData | MuData]) -> None:
        from infl.data.check import check_object, tables

        for site, adata in sites.items():
            for modality, table in tables(adata).items():
                if 0 in table.shape:
                    what = "observations" if table.n_obs == 0 else "features"
                    raise DataError(
                        f"{site} has no {what} in modality {modality!r}: take it out, del mdata.mod[{modality!r}]"
                    )
            check_object(adata, site, self.layer)

    def _units(self, modality: str, at: Mapping[str, str | None], sites: Mapping[str, AnnData | MuData]) -> str | None:
        """Return what a modality's values are at all sites; a few negative ones are no counts, whatever else they are."""
        from infl.data.check import tables
        from infl.data.units import has_negative

        known = next((units for units in at.values() if units), None)
        if known in (None, "raw counts"):
            for site, adata in sites.items():
                table = tables(adata).get(modality)
                if table is not None and has_negative(table, self.layer):
                    return f"negative values (at {site})"
        return known

    def _all_spatial(self, sites: Mapping[str, AnnData | MuData]) -> bool:
        if self.spatial_key is None:
            return False
        has = {site: coordinates_of(adata, self.spatial_key) is not None for site, adata in sites.items()}
        if any(has.values()) and not all(has.values()):
            without, with_ = (next(s for s, found in has.items() if found is wanted) for wanted in (False, True))
            raise DataError(
                f"{without} has no coordinates in obsm[{self.spatial_key!r}], {with_} has: add them, or set spatial_key=None "
                "to use none"
            )
        return all(has.values())

    def _check_reading(self, sites: Mapping[str, AnnData | MuData], panel: Mapping[str, Any]) -> None:
        from infl.models.neighbours import warn_of_spacings

        found: dict[str, Sections] = {}
        for site, adata in sites.items():
            self.read(adata, panel, site=site, rng=None)
            if panel["spatial"]:
                found[site] = self._sections(adata, site)
        warn_of_spacings(found)

    def _sections(self, adata: AnnData | MuData, site: str) -> Sections:
        from anndata import AnnData

        from infl.models.neighbours import sections_of, site_of

        key = cast(str, self.spatial_key)
        xy = coordinates_of(adata, key)
        spots = AnnData(obs=adata.obs.copy(), obsm={} if xy is None else {key: xy})
        section_key, names = self.section_key, site_of(adata)
        if names is not None:
            section_key, spots.obs[SITE] = section_key if section_key in spots.obs else None, names
        return sections_of(spots, spatial_key=key, section_key=section_key, site=site)

    def read(
        self, adata: AnnData | MuData, panel: Mapping[str, Any], *, site: str, rng: np.random.Generator | None
    ) -> MosaicSpots:
        """Return the spots of what a site measured; each section is standardised by its own moments."""
        from infl.data.check import tables
        from infl.models.neighbours import section_rows

        graph = None
        if panel["spatial"]:
            found = self._sections(adata, site)
            graph, sections = found.graph(self.n_neighbors), list(found.rows.values())
        else:
            sections = list(section_rows(adata, self.section_key, site=site).values())
        depth = self.by_depth(panel)
        measured, has = {}, tables(adata)
        for m, (modality, features) in enumerate(panel["modalities"].items()):
            if modality not in has:
                continue
            table, kind = has[modality], panel["kinds"][modality]
            where = f"{site} ({modality})" if modality else site
            values = FeatureMatrix(table, features, layer=self.layer, site=where).rows(slice(None))
            check_kind(values, kind, modality, where)
            rows = adata.obs_names.get_indexer(table.obs_names)
            measured[m] = Measured.of(values, rows, sections, kind=kind, depth=depth, graph=graph)
        if not measured:
            raise DataError(f"{site} has none of the model's modalities {', '.join(map(repr, panel['modalities']))}")
        order = np.arange(adata.n_obs) if rng is None else rng.permutation(adata.n_obs)
        held = 0 if rng is None else int(self.validation * adata.n_obs)
        binary = [kind == "accessibility" for kind in panel["kinds"].values()]
        return MosaicSpots(measured, adata.n_obs, sections, binary, np.sort(order[held:]), np.sort(order[:held]))

    def by_depth(self, panel: Mapping[str, Any]) -> bool:
        """Whether counts are divided by a spot's total."""
        return not panel["spatial"] if self.depth is None else self.depth

    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out `share` of the spots that have several modalities; a patch of each section, where there are coordinates."""
        from infl.data.check import tables

        number = sum(adata.obs_names.isin(table.obs_names).astype(int) for table in tables(adata).values())
        paired, held = np.flatnonzero(number > 1), np.zeros(adata.n_obs, dtype=bool)
        if not len(paired):
            return held
        xy = None if self.spatial_key is None else coordinates_of(adata, self.spatial_key)
        sections = [paired]
        if self.section_key is not None:
            names = label_text(adata.obs[self.section_key]).to_numpy()[paired]
            sections = [paired[names == name] for name in np.unique(names)]
        for rows in sections:
            n = int(share * len(rows))
            if xy is None:
                held[rng.choice(rows, n, replace=False)] = True
            else:
                middle = xy[rng.choice(rows)]
                held[rows[np.argsort(np.square(xy[rows] - middle).sum(1))[:n]]] = True
        return held


def measured_of(adata: AnnData | MuData, where: str = "the data") -> AnnData | MuData:
    """Return a ``MuData`` without the modalities that a fit has put there."""
    from infl.data.check import tables

    tables(adata, where)  # refuses names that its obs does not know
    mod = getattr(adata, "mod", None)
    if mod is None or not any(IMPUTED in table.uns for table in mod.values()):
        return adata
    import mudata

    with without_pull():
        kept = mudata.MuData({name: table for name, table in mod.items() if IMPUTED not in table.uns})
    kept.obs, kept.obsm = adata.obs.loc[kept.obs_names], {k: v for k, v in adata.obsm.items() if k not in mod}
    return kept


def coordinates_of(adata: AnnData | MuData, key: str) -> np.ndarray | None:
    """Return coordinates of all spots: the object's own, else those of its modalities put together."""
    if key in adata.obsm:
        return np.asarray(adata.obsm[key])
    parts = [table for table in getattr(adata, "mod", {}).values() if key in table.obsm]
    if not parts:
        return None
    xy = np.full((adata.n_obs, parts[0].obsm[key].shape[1]), np.nan)
    for table in parts:
        xy[adata.obs_names.get_indexer(table.obs_names)] = table.obsm[key]
    return xy


def check_pairs(sites: Mapping[str, AnnData | MuData], modalities: Sequence[str]) -> None:
    """Say it when modalities cannot be aligned, since no spots have both, or others by which both are linked.

    The number of spots with both is summed in the clear here, in one process, as all checks of an agreement are.
    """
    from infl.data.check import tables

    group = {m: {m} for m in modalities}
    for i, a in enumerate(modalities):
        for b in modalities[i + 1 :]:
            both = 0
            for adata in sites.values():
                has = tables(adata)
                if a in has and b in has:
                    both += int(has[a].obs_names.isin(has[b].obs_names).sum())
            if both >= FEWEST_PAIRED:
                joined = group[a] | group[b]
                group |= dict.fromkeys(joined, joined)
    first = group[modalities[0]]
    apart = [m for m in modalities if m not in first]
    if apart:
        raise DataError(
            f"modalities {modalities[0]!r} and {apart[0]!r} cannot be aligned: no site has {FEWEST_PAIRED} spots with both, or "
            f"with others that link them; add a site with both, or fit them apart"
        )
