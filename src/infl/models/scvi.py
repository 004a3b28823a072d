"""Single-cell integration: scvi-tools' own SCVI module, trained under lock and seal.

Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018); scvi-tools: Gayoso et
al., Nature Biotechnology 40 (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from infl._isolation import torch_seed
from infl._parameters import COLUMNS, LAYER, MODALITY, OTHER_COLUMN, SHARE, Choice, Kind, Real, Whole
from infl.errors import DataError, MissingExtraError, SettingsError
from infl.models.counts import BATCH, CATEGORICAL, CONTINUOUS, SIZE_FACTOR, CountRows, categories_of, codes, table_of
from infl.models.labelled import has_numbers, stratified_split, write_rows
from infl.models.matrix import FeatureMatrix
from infl.models.task import SITE, Predictor, Step, Sums, Task

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

CHUNK = 1024
"""Cells that are judged or embedded together."""
EMBEDDING = f"_embeddings_dict.{BATCH}.weight"


@dataclass(frozen=True)
class Scvi(Task):
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

    weight_decay: float = 1e-6
    batch_size: int = 128
    layer: str | None = None
    modality: str | None = None
    categorical_covariates: tuple[str, ...] = ()
    continuous_covariates: tuple[str, ...] = ()
    size_factor: str | None = None
    site_effect: Literal["shared", "local"] = "shared"
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

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features, the sites' names and the categories of covariates, after checking the sites' data."""
        from infl.data.check import panel_of

        vae_class()
        if self.norm != "layer":
            raise SettingsError(
                "norm='batch' cannot be fitted over sites: batch statistics are each site's own; leave norm out"
            )
        tables = {site: table_of(adata, self.modality, site) for site, adata in sites.items()}
        panel = {
            "features": list(panel_of(tables, layer=self.layer).features),
            "sites": sorted(tables),
            "covariates": categories_of(tables, self.categorical_covariates),
        }
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
        """Read counts and covariates. The latent does not depend on the site, so that it may be a new one."""
        table = table_of(adata, self.modality, site)
        x = FeatureMatrix(table, panel["features"], layer=self.layer, site=site)
        train, validation = np.arange(table.n_obs), np.arange(0)
        labels = self.labels(table, panel)
        if rng is not None:
            strata = np.zeros(table.n_obs, dtype=np.int64) if labels is None else labels + 1
            train, validation = stratified_split(strata, self.validation, rng)
        return CountRows(
            x,
            site=site,
            layer=self.layer,
            batch=batch_of(table, panel["sites"], site),
            covariates=self._covariates(table, panel, site),
            labels=labels,
            names=table.obs_names,
            train=train,
            validation=validation,
        )

    def labels(self, table: AnnData, panel: Mapping[str, Any]) -> np.ndarray | None:
        """Return class numbers (n_obs,), −1 where unknown; None for a model without classes."""
        return None

    def _covariates(self, table: AnnData, panel: Mapping[str, Any], site: str) -> dict[str, np.ndarray]:
        from infl.data.columns import obs_column

        covariates = {}
        if self.categorical_covariates:
            columns = [
                codes(obs_column(table, name, where=site, role="categorical_covariates"), categories, site)
                for name, categories in panel["covariates"].items()
            ]
            covariates[CATEGORICAL] = np.stack(columns, 1)
        numeric = {CONTINUOUS: self.continuous_covariates, SIZE_FACTOR: (self.size_factor,) if self.size_factor else ()}
        for name, columns_of_obs in numeric.items():
            if columns_of_obs:
                role = "size_factor" if name == SIZE_FACTOR else "continuous_covariates"
                values = [_numbers(obs_column(table, c, where=site, role=role), site) for c in columns_of_obs]
                covariates[name] = np.stack(values, 1)
        if (covariates.get(SIZE_FACTOR, np.ones(1)) <= 0).any():
            raise DataError(f"{site} has size factors of 0 or less in obs[{self.size_factor!r}]: they must be above 0")
        return covariates

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

    def privately(self) -> Task:
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
        """Take off the library encoder and unused dispersion decoder, 2/5 of the weights; start local embeddings at 0."""
        module.l_encoder = None
        if self.dispersion != "gene-cell":
            module.decoder.px_r_decoder = None
        if self.site_effect == "local":
            nn.init.zeros_(module.get_parameter(EMBEDDING))
        return module

    def configure(self, module: nn.Module, private: Sums) -> None:
        """Set batch statistics, of a model that was trained elsewhere."""
        buffers = dict(module.named_buffers())
        for name, value in private.items():
            if name in buffers:
                buffers[name].copy_(torch.from_numpy(np.asarray(value)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Features are columns of the encoder's first layer and rows of the decoder's last ones."""
        features: Sequence[str] = panel["features"]
        units: dict[str, dict[int, Sequence[str]]] = {
            "z_encoder.encoder.fc_layers.Layer 0.0.weight": {1: features},
            "px_r": {0: features, 1: panel["sites"]} if self.dispersion == "gene-batch" else {0: features},
        }
        for part in ("px_scale_decoder.0", "px_dropout_decoder", "px_r_decoder"):
            units |= {f"decoder.{part}.{kind}": {0: features} for kind in ("weight", "bias")}
        return units

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

    @torch.no_grad()
    def evaluate(self, module: nn.Module, data: CountRows, index: np.ndarray) -> Sums:
        """Return sums over the cells `index`, from one draw of the latent a cell that is the same in each round."""
        sums: Sums = {"n": np.asarray(float(len(index))), "reconstruction": np.zeros(()), "kl": np.zeros(())}
        with torch_seed(0):
            for start in range(0, len(index), CHUNK):
                output = module(data.batch(index[start : start + CHUNK]))[2]
                sums["reconstruction"] += float(output.reconstruction_loss_sum)
                sums["kl"] += float(output.kl_local_sum)
        return sums

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the negative evidence lower bound a cell (``loss``) and its two parts."""
        n = float(sums["n"]) or float("nan")
        reconstruction, kl = float(sums["reconstruction"]) / n, float(sums["kl"]) / n
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return the mean of each cell's latent distribution (n, n_latent)."""
        return {"latent": np.concatenate([latent(module, data, chunk).numpy() for chunk in data.x.chunks(CHUNK)])}

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out cells at random."""
        held = np.zeros(adata.n_obs, dtype=bool)
        held[rng.permutation(adata.n_obs)[: round(share * adata.n_obs)]] = True
        return held

    @torch.no_grad()
    def judged(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return each cell's negative evidence lower bound ``loss`` (n,) and its reconstruction part, with the site as batch."""
        parts = []
        with torch_seed(0):
            for chunk in data.x.chunks(CHUNK):
                output = module(data.batch(chunk))[2]
                parts.append([sum(part.values()) for part in (output.reconstruction_loss, output.kl_local)])
        reconstruction, kl = (torch.cat(part).numpy().astype(np.float64) for part in zip(*parts, strict=True))
        return {"loss": reconstruction + kl, "reconstruction": reconstruction}

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the negative evidence lower bound a cell (``loss``) and its reconstruction part, means over cells."""
        return {name: float(outputs[name].mean()) for name in ("loss", "reconstruction")}

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return the negative log-likelihood of counts where all cells are alike but for depth, fitted on pooled data.

        Each feature is negative binomial about its share of all counts times the cell's total, with its own dispersion by
        moments. A bound on the log-likelihood can be set beside it.
        """
        from scipy.stats import nbinom

        def read(adata: AnnData | MuData) -> np.ndarray:
            return self.read(adata, panel, site="the data").x.rows(slice(None)).astype(np.float64)

        counts = read(train)
        share = np.maximum(counts.sum(0), 0.5) / counts.sum()
        mean = counts.sum(1, keepdims=True) * share
        extra = ((counts - mean) ** 2 - mean).sum(0) / (mean**2).sum(0)
        size = 1 / np.maximum(extra, 1e-4)

        def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            counts = read(adata)
            mean = counts.sum(1, keepdims=True) * share
            loss = -nbinom.logpmf(counts, size, size / (size + mean)).sum(1)
            return {"loss": loss, "reconstruction": loss}

        return predict

    @torch.no_grad()
    def denoise(self, module: Any, data: CountRows, site: int | None = None) -> np.ndarray:
        """Return the expected share of each feature in a cell (n, n_features), as if measured at a site (None: the mean over sites)."""
        shares = []
        for chunk in data.x.chunks(CHUNK):
            batch, z = data.batch(chunk), latent(module, data, chunk)
            total = torch.zeros(())
            sites = range(module.n_batch) if site is None else [site]
            for number in sites:
                inputs = module._get_generative_input(batch, {"z": z, "library": torch.zeros(len(z), 1)})
                px = module.generative(**inputs | {"batch_index": torch.full_like(batch[BATCH], number)})["px"]
                total = total + px.scale / px.scale.sum(1, keepdim=True) / len(sites)
            shares.append(total.numpy())
        return np.concatenate(shares)

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obsm["X_" + key_added]``."""
        self.embed(adata, outputs, key_added=key_added)

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]``; missing values in a ``MuData`` where a cell lacks the modality."""
        names = table_of(adata, self.modality, "the data").obs_names
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)


def batch_of(table: AnnData, sites: Sequence[str], site: str) -> int | np.ndarray:
    """Return the number of the site, or of each cell's where those of several were put together; 0 for a new site."""
    if site in sites:
        return sites.index(site)
    if SITE not in table.obs:
        return 0
    return np.maximum(pd.Categorical(table.obs[SITE], categories=list(sites)).codes.astype(np.int64), 0)


def vae_class() -> Any:
    """Return scvi-tools' module class.

    Raises
    ------
    MissingExtraError
        scvi-tools is not installed.
    """
    try:
        from scvi.module import VAE
    except ImportError:
        raise MissingExtraError("model='scvi' needs scvi-tools: pip install 'infl[scvi]'") from None
    return VAE


def latent(module: Any, data: CountRows, chunk: np.ndarray | slice) -> Tensor:
    """Return the means of the latent distributions of a chunk (n, n_latent)."""
    return module.inference(**module._get_inference_input(data.batch(chunk)))["qz"].loc


def _numbers(column: pd.Series, site: str) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"{site} has text in obs[{column.name!r}], where numbers are due: name it as a categorical covariate"
        )
    return column.to_numpy(dtype=np.float32)
