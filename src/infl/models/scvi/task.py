"""Single-cell integration: scvi-tools' own SCVI module, trained under lock and seal.

Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018); scvi-tools: Gayoso et
al., Nature Biotechnology 40 (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from infl._parameters import COLUMNS, LAYER, MODALITY, OTHER_COLUMN, SHARE, Choice, Flag, Kind, Real, Whole
from infl.errors import DataError, SettingsError
from infl.models.carried import AsTheOthers
from infl.models.counts import table_of
from infl.models.labelled import has_numbers, write_rows
from infl.models.scvi.data import CATEGORICAL, CountRows, Reader
from infl.models.scvi.module import EMBEDDED, EMBEDDING, denoised, latents, read_beside, trimmed, vae_class
from infl.models.scvi.scoring import bound_sums, bounds, depth_alone, mean_bounds
from infl.models.task import SITE, Predictor, Step, Sums, Task

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Scvi(Task[CountRows, nn.Module]):
    """Fit scVI over sites: a variational autoencoder of raw counts with the site as batch covariate.

    Parameters
    ----------
    layer
        Layer with the raw counts (None: ``X``).
    modality
        Which modality of a ``MuData`` to read.
    categorical_covariates, continuous_covariates
        Columns of ``obs`` beside the site, e.g. ``("donor",)``.
    size_factor
        Column of ``obs`` with size factors (None: a cell's total over the panel's features).
    site_effect
        ``"shared"``: what the decoder learns of each site is a part of the model, so that ``to_scvi`` can correct for it;
        being the site's own, other key holders can read it. ``"local"``: an embedding that never leaves the site; the
        model has a neutral one in its place.
    encode_covariates
        Let the encoder read the site and the covariates too, as references for scArches do: the latent of a new site then needs
        columns of its own, which :func:`infl.tl.map_to` learns there.
    validation
        Share of each site's cells that judges rounds and is not trained on.
    kl_warmup
        Share of the run's federated steps over which the weight of the KL term rises from 0 to 1.
    n_hidden, n_latent, n_layers, dropout_rate, dispersion, gene_likelihood
        As for :class:`scvi.model.SCVI`.
    norm
        ``"layer"``: LayerNorm. ``"batch"``, scvi-tools' default, is for models that were trained elsewhere: batch
        statistics cannot be averaged over sites.

    Examples
    --------
    >>> Scvi(n_latent=20).name
    'scvi'
    """

    name: ClassVar[str] = "scvi"
    headline: ClassVar[str] = "loss"
    carried_by_name: ClassVar[tuple[str, ...]] = (*Task.carried_by_name, "sites", "covariates")

    weight_decay: float = 1e-6
    batch_size: int = 128
    layer: str | None = None
    modality: str | None = None
    categorical_covariates: tuple[str, ...] = ()
    continuous_covariates: tuple[str, ...] = ()
    size_factor: str | None = None
    site_effect: Literal["shared", "local"] = "shared"
    encode_covariates: bool = False
    validation: float = 0.1
    kl_warmup: float = 0.5
    n_hidden: int = 128
    n_latent: int = 10
    n_layers: int = 1
    dropout_rate: float = 0.1
    dispersion: Literal["gene", "gene-batch", "gene-cell"] = "gene"
    gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb"
    norm: Literal["layer", "batch"] = "layer"

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "layer": LAYER,
        "modality": MODALITY,
        "categorical_covariates": COLUMNS,
        "continuous_covariates": COLUMNS,
        "size_factor": OTHER_COLUMN,
        "site_effect": Choice(("shared", "local")),
        "encode_covariates": Flag(),
        "validation": Real(0, 1),
        "kl_warmup": Real(0, 1),
        "n_hidden": Whole(1),
        "n_latent": Whole(1),
        "n_layers": Whole(1),
        "dropout_rate": SHARE,
        "dispersion": Choice(("gene", "gene-batch", "gene-cell")),
        "gene_likelihood": Choice(("zinb", "nb", "poisson")),
        "norm": Choice(("layer", "batch")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encode_covariates and self.site_effect == "local":
            raise SettingsError(
                "encode_covariates=True lets the encoder read the site, which site_effect='local' keeps: choose one"
            )

    @property
    def reader(self) -> Reader:
        """What reads a site's table."""
        return self.options_for(Reader)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features, the sites' names and the categories of covariates, after checking the sites' data."""
        vae_class()
        if self.norm != "layer":
            raise SettingsError(
                "norm='batch' cannot be fitted over sites: batch statistics are each site's own; leave norm out"
            )
        tables = {site: table_of(adata, self.modality, site) for site, adata in sites.items()}
        panel = self.reader.agree(tables)
        for site, table in tables.items():
            self.read(table, panel, site=site)
        return panel

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> CountRows:
        """Read counts and covariates. Unless the encoder reads the site, it may be a new one.

        Raises
        ------
        DataError
            The encoder reads the site, and it is none of the fit.
        """
        table = table_of(adata, self.modality, site)
        if self.encode_covariates and site not in panel["sites"] and SITE not in table.obs:
            raise DataError(
                f"{site} is no site of the fit ({', '.join(panel['sites'][:6])}), and this model's encoder reads the site: map the "
                "cells to it with infl.tl.map_to, or give the site's name as the key of a dict"
            )
        return self.reader.read(table, panel, self.labels(table, panel), site=site, rng=rng)

    def labels(self, table: AnnData, panel: Mapping[str, Any]) -> np.ndarray | None:
        """Return class numbers (n_obs,), −1 where unknown; None for a model without classes."""
        return None

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Categories of covariates; the sites themselves, where weights of each are shared."""
        shared = {"site": panel["sites"]} if self.site_effect == "shared" else {}
        return shared | {f"category of {name!r}": categories for name, categories in panel["covariates"].items()}

    def held(self, data: CountRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Categories and sites of a site's own cells."""
        numbers = {"site": data.number.numpy()} if self.site_effect == "shared" else {}
        columns = zip(panel["covariates"], data.covariates.get(CATEGORICAL, np.empty((0, 0))).T, strict=False)
        numbers |= {f"category of {name!r}": np.asarray(column) for name, column in columns}
        names = self.held_names(panel)
        return {group: has_numbers(found, len(names[group])) for group, found in numbers.items()}

    def named_groups(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Categories of covariates, and classes where there are any."""
        return {**super().named_groups(panel), **panel["covariates"]}

    def for_dp(self) -> Task:
        """Refuse: the dispersion is no layer, so there are no per-record gradients of it."""
        raise SettingsError(
            f"model {self.name!r} cannot be fitted with privacy= yet: its dispersion has no per-record gradient"
        )

    # -- model -----------------------------------------------------------------------------------------------------
    def module_options(self) -> dict[str, Any]:
        """Return the arguments of scvi-tools' module that are not the data's."""
        layer_norm = self.norm == "layer"
        return {
            "n_hidden": self.n_hidden,
            "n_latent": self.n_latent,
            "n_layers": self.n_layers,
            "dropout_rate": self.dropout_rate,
            "dispersion": self.dispersion,
            "gene_likelihood": self.gene_likelihood,
            "use_layer_norm": "both" if layer_norm else "none",
            "use_batch_norm": "none" if layer_norm else "both",
            "encode_covariates": self.encode_covariates,
            "batch_representation": "embedding" if self.site_effect == "local" else "one-hot",
        }

    def data_options(self, panel: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of scvi-tools' module that follow from the data."""
        return {
            "n_input": len(panel["features"]),
            "n_batch": len(panel["sites"]),
            "n_continuous_cov": len(self.continuous_covariates),
            "n_cats_per_cov": [len(c) for c in panel["covariates"].values()] or None,
            "use_size_factor_key": self.size_factor is not None,
        }

    def build(self, panel: Mapping[str, Any]) -> nn.Module:
        """Return a fresh module of scvi-tools, without the parts that it would not use."""
        module = vae_class()(**self.data_options(panel), **self.module_options())
        return self.trimmed(module)

    def trimmed(self, module: Any) -> nn.Module:
        """Return scvi-tools' module without the parts that it would not use."""
        return trimmed(module, dispersion=self.dispersion, site_effect=self.site_effect)

    def configure(self, module: nn.Module, private: Sums) -> None:
        """Set batch statistics, of a model that was trained elsewhere."""
        buffers = dict(module.named_buffers())
        for name, value in private.items():
            if name in buffers:
                buffers[name].copy_(torch.from_numpy(np.asarray(value)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Features are columns of the encoder's first layer and rows of the decoder's last ones; sites and categories are columns, too."""
        features: Sequence[str] = panel["features"]
        beside = read_beside({"site": panel["sites"]} if self.site_effect == "shared" else {}, panel["covariates"])
        numbers = [f"number {name}" for name in self.continuous_covariates]
        embedded = [f"embedding {i}" for i in range(EMBEDDED)] if self.site_effect == "local" else []
        read = (numbers, beside) if self.encode_covariates else ([], [])
        units = self._layers("z_encoder.encoder", [*features, *read[0]], read[1])
        units |= self._layers("decoder.px_decoder", [*self._latent_names, *numbers, *embedded], beside)
        sites = AsTheOthers(panel["sites"])
        units["px_r"] = {0: features, 1: sites} if self.dispersion == "gene-batch" else {0: features}
        units[EMBEDDING] = {0: panel["sites"]}
        for part in ("px_scale_decoder.0", "px_dropout_decoder", "px_r_decoder"):
            units |= {f"decoder.{part}.{kind}": {0: features} for kind in ("weight", "bias")}
        return units

    @property
    def _latent_names(self) -> list[str]:
        return [f"latent {i}" for i in range(self.n_latent)]

    def _layers(self, part: str, first: Sequence[str], beside: Sequence[str]) -> dict[str, dict[int, Sequence[str]]]:
        """Return the columns of each layer: of the first its own, of all `beside`, which scvi-tools feeds into every one."""
        hidden = [f"hidden {i}" for i in range(self.n_hidden)]
        return {
            f"{part}.fc_layers.Layer {i}.0.weight": {1: [*(hidden if i else first), *beside]}
            for i in range(self.n_layers)
        }

    def is_local(self, parameter: str) -> bool:
        """The embedding of sites, where it is to stay."""
        return self.site_effect == "local" and parameter == EMBEDDING

    def kl_weight(self, step: Step) -> float:
        """Return the weight of the KL term: it counts federated steps, also of rounds that a site was not asked in.

        Examples
        --------
        >>> Scvi(kl_warmup=0.5).kl_weight(Step(round=2, rounds=10, step=2, steps=4))
        0.3
        """
        done = step.round - 1 + step.step / step.steps
        return min(1.0, done / (self.kl_warmup * step.rounds)) if self.kl_warmup else 1.0

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: Step) -> Tensor:
        """Return the mean negative evidence lower bound of a batch, its KL term weighted."""
        return module(batch, loss_kwargs={"kl_weight": self.kl_weight(step)})[2].loss

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Number of cells, summed reconstruction loss and KL divergence."""
        return {"n": (), "reconstruction": (), "kl": ()}

    def evaluate(self, module: nn.Module, data: CountRows, index: np.ndarray) -> Sums:
        """Return sums over the cells `index`, from one draw of the latent per cell that is the same in each round."""
        return bound_sums(module, data, index)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the negative evidence lower bound per cell (``loss``) and its two parts."""
        return mean_bounds(sums)

    # -- results ---------------------------------------------------------------------------------------------------
    def infer(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return the mean of each cell's latent distribution (n, n_latent)."""
        return {"latent": latents(module, data)}

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out cells at random."""
        held = np.zeros(adata.n_obs, dtype=bool)
        held[rng.permutation(adata.n_obs)[: round(share * adata.n_obs)]] = True
        return held

    def scoring_outputs(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return each cell's negative evidence lower bound ``loss`` (n,) and its reconstruction part, with the site as batch."""
        return bounds(module, data)

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the negative evidence lower bound per cell (``loss``) and its reconstruction part, means over cells."""
        return {name: float(outputs[name].mean()) for name in ("loss", "reconstruction")}

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return the negative log-likelihood of counts where all cells are alike but for depth, fitted on pooled data."""

        def read(adata: AnnData | MuData) -> np.ndarray:
            return self.read(adata, panel, site="the data").x.rows(slice(None)).astype(np.float64)

        loss_of = depth_alone(read(train))

        def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            loss = loss_of(read(adata))
            return {"loss": loss, "reconstruction": loss}

        return predict

    def denoise(self, module: Any, data: CountRows, site: int | None = None) -> np.ndarray:
        """Return the expected share of each feature in a cell (n, n_features), as if measured at a site (None: the mean over sites)."""
        return denoised(module, data, site)

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obsm["X_" + key_added]``."""
        self.embed(adata, outputs, key_added=key_added)

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]``; missing values in a ``MuData`` where a cell lacks the modality."""
        names = table_of(adata, self.modality, "the data").obs_names
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)
