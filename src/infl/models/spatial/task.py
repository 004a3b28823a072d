"""Spatial domains: regions of tissue sections that mean the same at all sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from infl._parameters import COLUMN, LAYER, MODALITY, OTHER_COLUMN, SHARE, Kind, Names, Text, Whole
from infl.errors import DataError, SettingsError
from infl.models.counts import table_of
from infl.models.labelled import write_rows
from infl.models.neighbours import warn_of_spacings
from infl.models.spatial.axes import centre, centre_of, principal_axes, total_of
from infl.models.spatial.data import Reader
from infl.models.spatial.neighbourhoods import Spots
from infl.models.spatial.scoring import agreement_with_regions, clusters_of_components
from infl.models.task import Predictor, Step, Sums, Task
from infl.nn.spatial import NeighbourhoodNet
from infl.sums import FederatedSum, SiteView, State, mixture

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Spatial(Task[Spots, NeighbourhoodNet]):
    """Find spatial domains over sites, from counts and coordinates.

    Each spot is seen with its neighbours in its own section (:class:`infl.models.spatial.neighbourhoods.Neighbourhoods`); axes
    along which spots differ within sections are found by sums, a masked autoencoder of what differs there about them (:class:`infl.nn.spatial.NeighbourhoodNet`) is trained in rounds, and
    the latents of all sites are clustered by sealed sums (:mod:`infl.sums.mixture`), so that domain 3 is domain 3
    everywhere. Axes and domains are encrypted in the model: with another key there are no domains.

    Parameters
    ----------
    n_domains
        Number of domains.
    spatial_key
        Key of ``obsm`` with the coordinates; each section may have its own unit.
    section_key
        Column of ``obs`` with the section of each spot (None: a site has one section).
    layer
        Layer with the raw counts (None: ``X``).
    modality
        Which modality of a ``MuData`` to read.
    n_neighbors
        Nearest spots of each that are its neighbours; 8 around one on a square grid, 6 on a hexagonal one.
    n_hops
        How many times shares are averaged over neighbours.
    smooth
        How many times a spot takes the domain that most of its neighbours have.
    width, n_latent, mask
        Of the network.
    validation
        Share of each site's spots that judges rounds and is not trained on.
    steps
        Exchanges that find the mixture of domains, after the rounds.
    target
        Column of ``obs`` with known regions, for :func:`infl.tl.compare` only; it is never learned from.
    exclude
        Regions that are not known, such as ``("undetermined",)``.

    References
    ----------
    The idea of a spot as its neighbourhood: Singhal et al., BANKSY, Nature Genetics 2024. Graph autoencoders for
    domains: Dong and Zhang, STAGATE, Nature Communications 2022; Long et al., GraphST, Nature Communications 2023.

    Examples
    --------
    >>> Spatial(n_domains=5).name
    'spatial'
    """

    name: ClassVar[str] = "spatial"
    headline: ClassVar[str] = "ari"

    n_domains: int = 4
    spatial_key: str = "spatial"
    section_key: str | None = None
    layer: str | None = None
    modality: str | None = None
    n_neighbors: int = 8
    n_hops: int = 1
    smooth: int = 1
    width: int = 64
    n_latent: int = 5
    mask: float = 0.2
    validation: float = 0.1
    steps: int = 25
    target: str = ""
    exclude: tuple[str, ...] = ()

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "n_domains": Whole(1),
        "spatial_key": Text(says="the name of an array in obsm"),
        "section_key": OTHER_COLUMN,
        "layer": LAYER,
        "modality": MODALITY,
        "n_neighbors": Whole(1),
        "n_hops": Whole(0),
        "smooth": Whole(0),
        "width": Whole(1),
        "n_latent": Whole(1),
        "mask": SHARE,
        "validation": SHARE,
        "steps": Whole(1),
        "target": COLUMN,
        "exclude": Names(empty=True, says="names of regions, each of them once"),
    }

    @property
    def reader(self) -> Reader:
        """What reads a site's table."""
        return self.options_for(Reader)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features, after checking the sites' counts and coordinates."""
        from infl.data.check import panel_of

        tables = {site: table_of(adata, self.modality, site) for site, adata in sites.items()}
        features = list(panel_of(tables, layer=self.layer).features)
        n_obs = 0
        for site, table in tables.items():
            n_obs += len(self.read(table, {"features": features}, site=site).near)
        if n_obs < mixture.FEWEST * self.n_domains:
            raise DataError(
                f"{n_obs} spots are too few for n_domains={self.n_domains}: {mixture.FEWEST} a domain are needed"
            )
        if len(features) < self.n_latent:
            raise DataError(f"the sites share {len(features)} features, too few for n_latent={self.n_latent}: lower it")
        warn_of_spacings({site: self.reader.sections(table, site) for site, table in tables.items()})
        return {"features": features}

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Spots:
        """Read counts and coordinates."""
        return self.reader.read(table_of(adata, self.modality, site), panel, site=site, rng=rng)

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the mean of all spots, and steps of subspace iteration towards the principal axes."""
        n_features = len(panel["features"])
        return (centre(n_features), principal_axes(self.n_latent, n_features))

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of the latents, and steps towards the mixture of domains."""

        def of_site(site: SiteView[Spots, NeighbourhoodNet], state: State) -> np.ndarray:
            return self._latents(site.module, site.data, state)

        return mixture.mixture(of_site, self.n_domains, self.n_latent, steps=self.steps)

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> NeighbourhoodNet:
        """Return a fresh :class:`infl.nn.spatial.NeighbourhoodNet`."""
        n_features = len(panel["features"])
        return NeighbourhoodNet(n_features, width=self.width, n_latent=self.n_latent, mask=self.mask)

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Columns of the first layer are features."""
        names = list(panel["features"])
        return {"hidden.weight": {1: names}, "offset": {0: names}}

    def configure(self, module: NeighbourhoodNet, private: Sums) -> None:
        """Set the scale of the spots, and the axes once they are known."""
        if "scale" in private:
            module.scale.copy_(torch.as_tensor(private["scale"]))
        if private.get("axes", np.empty((0, 0))).shape[1] == self.n_latent:
            module.axes.copy_(torch.from_numpy(private["axes"].T))

    def loss(self, module: NeighbourhoodNet, batch: Tensor, step: Step) -> Tensor:
        """Return the mean squared error of a batch; spots vary by 1 within their sections."""
        return module.error(batch).mean()

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Number of spots and summed squared error."""
        return {"n": (), "error": ()}

    @torch.no_grad()
    def evaluate(self, module: NeighbourhoodNet, data: Spots, index: np.ndarray) -> Sums:
        """Return sums over the spots `index`."""
        error = 0.0
        for start in range(0, len(index), 2048):
            batch = data.batch(index[start : start + 2048])
            error += float(module.error(batch).double().sum())
        return {"n": np.asarray(float(len(index))), "error": np.asarray(error)}

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the mean squared error."""
        return {"loss": float(sums["error"] / sums["n"]) if sums["n"] else float("nan")}

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _latents(self, module: NeighbourhoodNet, data: Spots, private: Sums) -> np.ndarray:
        """Latents (n_obs, n_latent) in float64."""
        known = private
        if "centre" not in private:  # without the key: as these data have it
            known = centre_of(total_of(data.near))
            module.scale.copy_(torch.as_tensor(known["scale"]))
        rows = (data.near.rows(chunk) - known["centre"] for chunk in data.near.chunks())
        return np.concatenate([module.latent(torch.from_numpy(x.astype(np.float32))).double().numpy() for x in rows])

    def infer(self, module: NeighbourhoodNet, data: Spots, private: Sums) -> dict[str, np.ndarray]:
        """Return latents (n_obs, n_latent), and domains (n_obs,), which are −1 where the model's domains are closed."""
        z = self._latents(module, data, private)
        domain = np.full(len(z), -1)
        if "centres" in private:
            domain = mixture.assign(z, private, data.near.graph, self.smooth)
        return {"latent": z.astype(np.float32), "domain": domain}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obs[key_added + "_domain"]``, categories ``"0"``, ``"1"`` … alike at all sites, and ``obsm["X_" + key_added]``."""
        names = table_of(adata, self.modality, "the data").obs_names
        domain = mixture.named(outputs["domain"], self.n_domains, names)
        adata.obs[f"{key_added}_domain"] = domain.reindex(adata.obs_names)
        self.embed(adata, outputs, key_added=key_added)

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]`` alone."""
        names = table_of(adata, self.modality, "the data").obs_names
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Refuse: a part of a section has other neighbours than the whole."""
        raise SettingsError("model 'spatial' sees a section as a whole: compare with holdout='site'")

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the adjusted Rand index and normalised mutual information of domains and known regions."""
        table = table_of(adata, self.modality, "the data")
        if self.target not in table.obs:
            raise SettingsError("to compare domains with known regions, set target=, their column of obs")
        return agreement_with_regions(table.obs[self.target], self.exclude, outputs["domain"])

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Principal components of pooled log-normalised counts and k-means, without coordinates."""

        def features(adata: AnnData | MuData) -> np.ndarray:
            return self.reader.log_counts(table_of(adata, self.modality, "the data"), panel)

        cluster = clusters_of_components(features(train), self.n_domains, seed)
        return lambda adata: {"domain": cluster(features(adata))}
