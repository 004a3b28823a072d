"""Mosaic integration: sites that measured different modalities, one latent, one naming of domains, what is missing imputed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._mudata import without_pull
from infl._parameters import LAYER, OTHER_COLUMN, SHARE, Choice, Flag, Kind, Options, Real, Text, Whole
from infl.errors import SettingsError
from infl.models.labelled import has_numbers
from infl.models.mosaic.data import IMPUTED, Reader, measured_of
from infl.models.mosaic.latent import aligned_and_named, fused, imputed, missing_modalities
from infl.models.mosaic.moments import moments
from infl.models.mosaic.scoring import (
    correlations_within_sites,
    error_sums,
    mean_errors,
    prediction_errors,
    ridge_between_modalities,
)
from infl.models.mosaic.spots import MosaicSpots, Part
from infl.models.task import Predictor, Step, Sums, Task
from infl.nn.mosaic import MosaicNet
from infl.sums import FederatedSum, SiteView, State
from infl.sums.alignment import Alignment
from infl.sums.mixture import FEWEST, named

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Mosaic(Task[MosaicSpots, MosaicNet]):
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

    @property
    def reader(self) -> Reader:
        """What reads a site's object."""
        return self.options_for(Reader)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return modalities, their kinds and shared features, after checking the sites' data."""
        from infl.data.check import check_site_names

        check_site_names(sites)
        measured = {site: measured_of(adata, site) for site, adata in sites.items()}
        panel = self.reader.agree(measured)
        n_obs = sum(adata.n_obs for adata in measured.values())
        if self.n_domains is not None and self.n_domains * FEWEST > n_obs:
            most = n_obs // FEWEST
            raise SettingsError(f"n_domains={self.n_domains} for {n_obs} spots: give fewer, at most {most}")
        return panel

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
        return self.reader.read(measured_of(adata, site), panel, site=site, rng=rng)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Modalities."""
        return {"modality": [*panel["modalities"]]}

    def held(self, data: MosaicSpots, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Modalities that a site measured."""
        return {"modality": has_numbers(np.array([*data.measured]), len(panel["modalities"]))}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sum of features' moments, to tell what is imputed in the units of what was measured."""
        return (moments([len(features) for features in panel["modalities"].values()]),)

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return what aligns the sections and finds the domains."""

        def sections_of(site: SiteView[MosaicSpots, MosaicNet], state: State) -> list[np.ndarray]:
            z = fused(site.module, site.data)
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

    def loss(self, module: MosaicNet, batch: dict[int, Part], step: Step) -> Tensor:
        """Return the errors of all predictions, each a mean over spots and features, and the distance of latents."""
        return torch.stack([term for _, _, _, term in self._errors(module, batch)]).sum()

    def _errors(self, module: MosaicNet, batch: dict[int, Part]) -> Iterator[tuple[int, int, int, Tensor]]:
        return prediction_errors(module, batch, align=self.align, masked=self.masked)

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Numbers and summed errors of predictions, from which modality (rows) to which (columns)."""
        m = len(panel["modalities"])
        return {"n": (m, m), "error": (m, m)}

    def evaluate(self, module: MosaicNet, data: MosaicSpots, index: np.ndarray) -> Sums:
        """Return sums over the spots `index`."""
        return error_sums(module, data, index, align=self.align, masked=self.masked)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the mean errors: all (``loss``), from neighbours (``denoising``) and between modalities (``imputation``)."""
        return mean_errors(sums)

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: MosaicNet, data: MosaicSpots, private: Sums) -> dict[str, np.ndarray]:
        """Return each spot's latent, domain and imputed modalities.

        Without private arrays (no key) there are no axes and no domains, and features are in units of their deviation.
        """
        outputs = {"latent": fused(module, data)}
        if "latent_axes" in private:
            outputs = aligned_and_named(outputs["latent"], data.sections, self.alignment, private)
        outputs["latent"] = outputs["latent"].astype(np.float32)
        return outputs | missing_modalities(module, data, private, measured_too=self.impute == "all")

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
            facts = {"modality": modality, "kind": panel["kinds"][modality], "depth": self.reader.by_depth(panel)}
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
        return self.reader.hold_out(measured_of(adata), share, rng)

    def scoring_outputs(self, module: MosaicNet, data: MosaicSpots, private: Sums) -> dict[str, np.ndarray]:
        """Return every modality as the others tell it, ``predicted_<number>`` (n_obs, n_features); NaN without another."""
        return {f"predicted_{m}": imputed(module, data, m) for m in range(len(data.binary))}

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
        return correlations_within_sites(data, outputs, site, [*panel["modalities"]])

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Ridge regression of each modality on a spot's others, on all sites' spots that have both."""
        n_features = [len(features) for features in panel["modalities"].values()]
        predict = ridge_between_modalities(self.read(train, panel, site="all sites"), n_features)
        return lambda adata: predict(self.read(adata, panel, site="the data"))
