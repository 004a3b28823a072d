"""Mosaic integration: sites that measured different modalities, one latent, one naming of domains, what is missing imputed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from infl._mudata import without_pull
from infl._parameters import LAYER, OTHER_COLUMN, SHARE, Choice, Flag, Kind, Options, Real, Text, Whole
from infl.data.labels import label_text
from infl.errors import DataError, SettingsError
from infl.models.labelled import has_numbers
from infl.models.matrix import FeatureMatrix
from infl.models.modalities import Measured, MosaicSpots, Part, check_kind, kind_of
from infl.models.task import SITE, Predictor, Step, Sums, Task
from infl.nn.mosaic import MosaicNet
from infl.sums import FederatedSum, SiteView, State
from infl.sums.alignment import Alignment
from infl.sums.mixture import FEWEST, named
from infl.sums.shape import Records

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.models.neighbours import Sections

FEWEST_PAIRED = 10
"""Spots with two modalities, over all sites, from which these can be aligned."""
IMPUTED = "infl_imputed"
"""In ``uns`` of modalities that were predicted, which a later fit leaves out."""


@dataclass(frozen=True)
class Mosaic(Task):
    """Integrate sections or cells of sites that measured different modalities.

    Each modality has an encoder into a latent and a decoder out of it. A spot's features are predicted from the latent of
    its *neighbours*, which tells what is shared between them from noise; and each modality from the latent of the others,
    where a spot has several, which aligns them. No cell leaves its site: encoders and decoders are averaged, and sums align
    the sections and find the domains (:mod:`infl.sums.alignment`). One modality everywhere is horizontal integration.

    Parameters
    ----------
    n_domains
        How many domains to name, alike at all sites (None: none; :func:`infl.tl.cluster` can cluster the latent later).
    layer
        Layer to read of every modality (None: ``X``).
    kinds
        What a modality's values are: ``"counts"``, ``"clr"`` (counts of proteins), ``"accessibility"`` or ``"values"``
        (as they are). Where a modality is not named: counts are ``"clr"`` when it is called ``adt``, ``protein`` or the
        like, ``"accessibility"`` when ``atac`` or ``peaks``, else ``"counts"``; what is no count is ``"values"``.
    depth
        Divide counts by a spot's total. None: unless there are coordinates; then depth that neighbours do not share is
        noise to the model already, and a total that is higher in one domain than in another is not lost.
    spatial_key
        Key of ``obsm`` with coordinates. Where no site has them, or with None, cells stand for themselves.
    section_key
        Column of ``obs`` with the sections of a site that has several.
    n_neighbors
        Nearest spots of each.
    n_latent, width
        Size of the latent, and of the encoders' hidden layer (0: linear encoders).
    align
        Weight of the distance between the latents of a spot's modalities.
    masked
        Without coordinates: share of the features that an encoder does not see while it is trained.
    impute
        ``"missing"``: modalities that spots lack; ``"all"``: also those that they have, from their other ones.
    validation
        Share of each site's spots that judges rounds and is not predicted in training.

    References
    ----------
    Mosaic integration of spatial sections, with contrastive learning instead: Yan et al., SpaMosaic, 2024. Prediction from
    neighbours as a way to leave noise out: Batson and Royer, Noise2Self, ICML 2019.

    Examples
    --------
    >>> import infl
    >>> task = infl.models.Mosaic()
    >>> task.name, task.impute
    ('mosaic', 'missing')
    """

    name: ClassVar[str] = "mosaic"
    headline: ClassVar[str] = "pearson"

    n_domains: int | None = None
    layer: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    depth: bool | None = None
    spatial_key: str | None = "spatial"
    section_key: str | None = None
    n_neighbors: int = 8
    n_latent: int = 8
    width: int = 64
    align: float = 1.0
    masked: float = 0.3
    impute: str = "missing"
    validation: float = 0.1
    lr: float = 5e-3
    weight_decay: float = 1e-3
    batch_size: int = 32

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "n_domains": Whole(2, none=True),
        "layer": LAYER,
        "kinds": Options(),
        "depth": Flag(none=True),
        "spatial_key": Text(none=True, says="the name of an array in obsm"),
        "section_key": OTHER_COLUMN,
        "n_neighbors": Whole(1),
        "n_latent": Whole(1),
        "width": Whole(0),
        "align": Real(0),
        "masked": SHARE,
        "impute": Choice(("missing", "all")),
        "validation": SHARE,
    }

    @property
    def alignment(self) -> Alignment:
        """The sums that align latents and find domains."""
        return Alignment(self.n_latent, self.n_domains)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return modalities, their kinds and shared features, after checking the sites' data."""
        from infl.data.check import check_object, check_site_names, panel_of, tables, units_by_modality
        from infl.data.units import check_units
        from infl.models.neighbours import warn_of_spacings

        check_site_names(sites)
        measured = {site: _measured(adata, site) for site, adata in sites.items()}
        for site, adata in measured.items():
            for modality, table in tables(adata).items():
                if 0 in table.shape:
                    what = "observations" if table.n_obs == 0 else "features"
                    raise DataError(
                        f"{site} has no {what} in modality {modality!r}: take it out, del mdata.mod[{modality!r}]"
                    )
            check_object(adata, site, self.layer)
        units = units_by_modality(measured, self.layer)
        for kinds in units:
            check_units(kinds)
        shared = panel_of(measured, layer=self.layer)
        modalities = shared.modalities or ("",)
        unknown = sorted(set(self.kinds) - set(modalities))
        if unknown:
            raise SettingsError(
                f"kinds= names modality {unknown[0]!r}, which no site has: they have {', '.join(map(repr, modalities))}"
            )
        _check_pairs(measured, modalities)
        common = dict(zip(sorted(modalities), units, strict=True))
        panel = {
            "features": list(shared.features),
            "modalities": {
                m: [f.removeprefix(f"{m}:") for f in shared.features if not m or f.startswith(f"{m}:")]
                for m in modalities
            },
            "kinds": {m: kind_of(m, self._units(m, common[m], measured), self.kinds.get(m)) for m in modalities},
            "units": list(shared.units),
            "spatial": self._all_spatial(measured),
        }
        found: dict[str, Sections] = {}
        for site, adata in measured.items():
            self.read(adata, panel, site=site)
            if panel["spatial"]:
                found[site] = self._sections(adata, site)
        warn_of_spacings(found)
        n_obs = sum(adata.n_obs for adata in measured.values())
        if self.n_domains is not None and self.n_domains * FEWEST > n_obs:
            most = n_obs // FEWEST
            raise SettingsError(f"n_domains={self.n_domains} for {n_obs} spots: give fewer, at most {most}")
        return panel

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
        has = {site: _coordinates(adata, self.spatial_key) is not None for site, adata in sites.items()}
        if any(has.values()) and not all(has.values()):
            without, with_ = (next(s for s, found in has.items() if found is wanted) for wanted in (False, True))
            raise DataError(
                f"{without} has no coordinates in obsm[{self.spatial_key!r}], {with_} has: add them, or set spatial_key=None "
                "to use none"
            )
        return all(has.values())

    def _sections(self, adata: AnnData | MuData, site: str) -> Sections:
        from anndata import AnnData

        from infl.models.neighbours import sections_of, site_of

        key = cast(str, self.spatial_key)
        xy = _coordinates(adata, key)
        spots = AnnData(obs=adata.obs.copy(), obsm={} if xy is None else {key: xy})
        section_key, names = self.section_key, site_of(adata)
        if names is not None:
            section_key, spots.obs[SITE] = section_key if section_key in spots.obs else None, names
        return sections_of(spots, spatial_key=key, section_key=section_key, site=site)

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> MosaicSpots:
        """Read the modalities that a site has; each section is standardised by its own moments."""
        from infl.data.check import tables
        from infl.models.neighbours import section_rows

        adata = _measured(adata, site)
        graph = None
        if panel["spatial"]:
            found = self._sections(adata, site)
            graph, sections = found.graph(self.n_neighbors), list(found.rows.values())
        else:
            sections = list(section_rows(adata, self.section_key, site=site).values())
        depth = self._by_depth(panel)
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

    def _by_depth(self, panel: Mapping[str, Any]) -> bool:
        """Whether counts are divided by a spot's total."""
        return not panel["spatial"] if self.depth is None else self.depth

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Modalities."""
        return {"modality": [*panel["modalities"]]}

    def held(self, data: MosaicSpots, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Modalities that a site measured."""
        return {"modality": has_numbers(np.array([*data.measured]), len(panel["modalities"]))}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sum of features' moments, to tell what is imputed in the units of what was measured."""
        shapes: dict[str, tuple[int, ...]] = {"n": (len(panel["modalities"]),)}
        for m, features in enumerate(panel["modalities"].values()):
            shapes |= {f"center_{m}": (len(features),), f"square_{m}": (len(features),)}

        def local(site: SiteView, state: State) -> Sums:
            sums = {name: np.zeros(shape) for name, shape in shapes.items()}
            for m, table in site.data.measured.items():
                n = len(table.rows)
                sums["n"][m] = n
                sums[f"center_{m}"], sums[f"square_{m}"] = n * table.center, n * table.scale**2
            return sums

        def combine(total: Sums, state: State) -> State:
            found = dict(state)
            for m, n in enumerate(total["n"]):
                found[f"center_{m}"] = total[f"center_{m}"] / max(n, 1)
                found[f"scale_{m}"] = np.sqrt(np.maximum(total[f"square_{m}"] / max(n, 1), 0))
            return found

        def records(site: SiteView, state: State) -> Records:
            n = local(site, state)["n"]
            return {"n": n} | {f"{what}_{m}": n[m] for m in range(len(n)) for what in ("center", "square")}

        moments = FederatedSum(
            name="moments",
            shapes=shapes,
            local=local,
            combine=combine,
            says="for each modality: number of records, and sums and sums of squares of each feature, to bring features "
            "to one scale",
            records=records,
            sensitivity={"n": 1},
        )
        return (moments,)

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return what aligns the sections and finds the domains."""

        def sections_of(site: SiteView, state: State) -> list[np.ndarray]:
            z = fused(cast(MosaicNet, site.module), site.data)
            return [z[section] for section in site.data.sections]

        return self.alignment.sums(sections_of)

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> MosaicNet:
        """Return a fresh :class:`infl.nn.mosaic.MosaicNet`."""
        return MosaicNet([len(f) for f in panel["modalities"].values()], self.n_latent, self.width)

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Features are columns of the encoders' first layers and rows of the decoders."""
        units: dict[str, dict[int, Sequence[str]]] = {}
        for m, features in enumerate(panel["modalities"].values()):
            units[f"encoders.{m}.0.weight"] = {1: features}
            units |= {f"decoders.{m}.{kind}": {0: features} for kind in ("weight", "bias")}
        return units

    def loss(self, module: nn.Module, batch: dict[int, Part], step: Step) -> Tensor:
        """Return the errors of all predictions, each a mean over spots and features, and the distance of latents."""
        return torch.stack([term for _, _, _, term in self._errors(cast(MosaicNet, module), batch)]).sum()

    def _errors(self, net: MosaicNet, batch: Mapping[int, Part]) -> Iterator[tuple[int, int, int, Tensor]]:
        """Yield source, target, number of spots and error of each prediction that a batch allows."""
        targets = {m: part.target() for m, part in batch.items()}
        latents = {m: net.encode(part.near(), m) for m, part in batch.items()} if len(batch) > 1 else {}
        for m, part in batch.items():
            if not len(part.at):
                continue
            around = part.around()
            if part.alone and net.training:
                around = nn.functional.dropout(around, self.masked)
            yield m, m, len(part.at), _error(net.decode(net.encode(around, m), m), targets[m], part.binary)
            for o, other in batch.items():
                _, here, there = np.intersect1d(part.at, other.at, assume_unique=True, return_indices=True)
                if o != m and len(here):
                    apart = (latents[m][here] - latents[o][there]).square().mean()
                    error = _error(net.decode(latents[m][here], o), targets[o][there], other.binary)
                    yield m, o, len(here), error + self.align / 2 * apart

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Numbers and summed errors of predictions, from which modality (rows) to which (columns)."""
        m = len(panel["modalities"])
        return {"n": (m, m), "error": (m, m)}

    @torch.no_grad()
    def evaluate(self, module: nn.Module, data: MosaicSpots, index: np.ndarray) -> Sums:
        """Return sums over the spots `index`."""
        m = len(cast(MosaicNet, module).encoders)
        sums = {"n": np.zeros((m, m)), "error": np.zeros((m, m))}
        for start in range(0, len(index), 2048):
            for source, to, n, error in self._errors(cast(MosaicNet, module), data.batch(index[start : start + 2048])):
                sums["n"][source, to] += n
                sums["error"][source, to] += n * float(error)
        return sums

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the mean errors: all (``loss``), from neighbours (``denoising``) and between modalities (``imputation``)."""
        known = sums["n"] > 0
        error = np.where(known, sums["error"] / np.maximum(sums["n"], 1), 0.0)
        own = np.eye(len(known), dtype=bool)
        parts = {"denoising": known & own, "imputation": known & ~own}
        means = {name: float(error[of].mean()) if of.any() else float("nan") for name, of in parts.items()}
        return {"loss": float(error.sum()) if known.any() else float("nan"), **means}

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: nn.Module, data: MosaicSpots, private: Sums) -> dict[str, np.ndarray]:
        """Return each spot's latent, domain and imputed modalities.

        Without private arrays (no key) there are no axes and no domains, and features are in units of their deviation.
        """
        net, alignment = cast(MosaicNet, module), self.alignment
        latent = fused(net, data)
        outputs: dict[str, np.ndarray] = {}
        if "latent_axes" in private:
            aligned = np.empty((data.n_obs, alignment.n_axes))
            for section in data.sections:
                aligned[section] = alignment.aligned(latent[section], private)
            latent = aligned
            if self.n_domains is not None:
                outputs["domain"] = alignment.label(latent, private)
        outputs["latent"] = latent.astype(np.float32)
        for to, binary in enumerate(data.binary):
            values = imputed(net, data, to)
            if to in data.measured and self.impute == "missing":
                values[data.measured[to].rows] = np.nan
            if not binary and f"center_{to}" in private:
                values = values * private[f"scale_{to}"] + private[f"center_{to}"]
            if np.isfinite(values).any():
                outputs[f"imputed_{to}"] = values.astype(np.float32)
        return outputs

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write domain, latent, and what was imputed as modalities ``"infl_<modality>"`` of a ``MuData``."""
        from anndata import AnnData

        new = {}
        for m, (modality, features) in enumerate(panel["modalities"].items()):
            values = outputs.get(f"imputed_{m}")
            if values is None:
                continue
            known = np.isfinite(values).all(1)
            names = pd.DataFrame(index=adata.obs_names[known])
            table = AnnData(values[known], obs=names, var=pd.DataFrame(index=pd.Index(features, dtype=str)))
            facts = {"modality": modality, "kind": panel["kinds"][modality], "depth": self._by_depth(panel)}
            table.uns[IMPUTED] = facts
            new[f"{key_added}_{modality}"] = table
        if self.n_domains is not None:
            codes = outputs.get("domain", np.full(adata.n_obs, -1))
            adata.obs[f"{key_added}_domain"] = named(codes, self.n_domains, adata.obs_names)
        self.embed(adata, outputs, key_added=key_added)
        if new:
            mdata = cast("MuData", adata)
            with without_pull(), warnings.catch_warnings():
                # predicted features are called as measured ones
                warnings.filterwarnings("ignore", "var_names are not unique")
                for name, table in new.items():
                    mdata.mod[name] = table
                mdata.update()

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]``."""
        adata.obsm[f"X_{key_added}"] = outputs["latent"]

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out `share` of the spots that have several modalities; a patch of each section, where there are coordinates."""
        from infl.data.check import tables

        adata = _measured(adata)
        number = sum(adata.obs_names.isin(table.obs_names).astype(int) for table in tables(adata).values())
        paired, held = np.flatnonzero(number > 1), np.zeros(adata.n_obs, dtype=bool)
        if not len(paired):
            return held
        xy = None if self.spatial_key is None else _coordinates(adata, self.spatial_key)
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

    def judged(self, module: nn.Module, data: MosaicSpots, private: Sums) -> dict[str, np.ndarray]:
        """Return every modality as the others tell it, ``predicted_<number>`` (n_obs, n_features); NaN without another."""
        net = cast(MosaicNet, module)
        return {f"predicted_{m}": imputed(net, data, m) for m in range(len(data.binary))}

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the correlation of each modality that was told from the others with what was measured, mean over features.

        It is that within each site: between sites a batch effect is no error of a prediction.
        """
        from infl.models.neighbours import site_of

        data = self.read(adata, panel, site="the data")
        site = site_of(adata)
        site = np.full(adata.n_obs, "") if site is None else site
        found: dict[str, list[float]] = {m: [] for m in panel["modalities"]}
        for m, modality in enumerate(panel["modalities"]):
            if m not in data.measured:
                continue
            rows, target = data.measured[m].rows, data.measured[m].target
            predicted = outputs[f"predicted_{m}"][rows]
            known = np.isfinite(predicted).all(1)
            for name in np.unique(site[rows[known]]):
                own = known & (site[rows] == name)
                if own.sum() > 2:
                    found[modality].append(float(np.mean(_correlations(predicted[own], target[own]))))
        means = {m: float(np.mean(values)) if values else float("nan") for m, values in found.items()}
        known_means = [value for value in means.values() if not np.isnan(value)]
        overall = float(np.mean(known_means)) if known_means else float("nan")
        return {"pearson": overall, **{f"pearson_{m}" if m else "pearson_values": v for m, v in means.items()}}

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Ridge regression of each modality on a spot's others, on all sites' spots that have both."""
        from sklearn.linear_model import RidgeCV

        data = self.read(train, panel, site="all sites")
        models: dict[tuple[int, int], Any] = {}
        for source, given in data.measured.items():
            for to, wanted in data.measured.items():
                _, here, there = np.intersect1d(given.rows, wanted.rows, return_indices=True)
                if source != to and len(here) >= FEWEST_PAIRED:
                    models[source, to] = RidgeCV(np.logspace(-1, 6, 15)).fit(given.x[here], wanted.target[there])

        def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            new = self.read(adata, panel, site="the data")
            outputs = {}
            for to, features in enumerate(panel["modalities"].values()):
                total, number = np.zeros((new.n_obs, len(features))), np.zeros((new.n_obs, 1))
                for source, given in new.measured.items():
                    if (source, to) in models:
                        total[given.rows] += models[source, to].predict(given.x)
                        number[given.rows] += 1
                outputs[f"predicted_{to}"] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
            return outputs

        return predict


@torch.no_grad()
def fused(net: MosaicNet, data: MosaicSpots) -> np.ndarray:
    """Return the latent of each spot (n_obs, n_latent): the mean over the modalities that it has."""
    return _mean_latent(net, data, tuple(data.measured))


@torch.no_grad()
def imputed(net: MosaicNet, data: MosaicSpots, to: int) -> np.ndarray:
    """Return a modality as the others tell it (n_obs, n_features); NaN for spots that have no other."""
    z = torch.from_numpy(_mean_latent(net, data, tuple(m for m in data.measured if m != to)).astype(np.float32))
    values = net.decode(z, to)
    return (torch.sigmoid(values) if data.binary[to] else values).numpy().astype(np.float64)


def _mean_latent(net: MosaicNet, data: MosaicSpots, modalities: Sequence[int]) -> np.ndarray:
    total = np.zeros((data.n_obs, net.n_latent))
    number = np.zeros((data.n_obs, 1))
    for chunk in data.chunks():
        for m, part in data.batch(chunk).items():
            if m in modalities:
                rows = np.arange(chunk.start, chunk.stop)[part.at]
                total[rows] += net.encode(part.near(), m).numpy()
                number[rows] += 1
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each column of two matrices (n, p) → (p,); 0 where one is constant."""
    a, b = (x - x.mean(0) for x in (a.astype(np.float64), b.astype(np.float64)))
    size = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    return np.where(size > 0, (a * b).sum(0) / np.where(size > 0, size, 1), 0.0)


def _error(predicted: Tensor, target: Tensor, binary: bool) -> Tensor:
    if binary:
        return nn.functional.binary_cross_entropy_with_logits(predicted, target)
    return (predicted - target).square().mean()


def _measured(adata: AnnData | MuData, where: str = "the data") -> AnnData | MuData:
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


def _coordinates(adata: AnnData | MuData, key: str) -> np.ndarray | None:
    """Coordinates of all spots: the object's own, else those of its modalities put together."""
    if key in adata.obsm:
        return np.asarray(adata.obsm[key])
    parts = [table for table in getattr(adata, "mod", {}).values() if key in table.obsm]
    if not parts:
        return None
    xy = np.full((adata.n_obs, parts[0].obsm[key].shape[1]), np.nan)
    for table in parts:
        xy[adata.obs_names.get_indexer(table.obs_names)] = table.obsm[key]
    return xy


def _check_pairs(sites: Mapping[str, AnnData | MuData], modalities: Sequence[str]) -> None:
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
