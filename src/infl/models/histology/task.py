"""Histology to expression: what stained tissue around a spot says of its genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import LAYER, MODALITY, OTHER_COLUMN, SHARE, Choice, Flag, Kind, Options, Real, Text, Whole
from infl.models.counts import log_normalised, table_of
from infl.models.histology.data import Reader
from infl.models.histology.expression import Expression, counts_of
from infl.models.histology.network import means_and_latents, standardise_by_own
from infl.models.histology.patches import N_STATISTICS, Stain
from infl.models.histology.regression import moments, products, regress
from infl.models.histology.scoring import (
    expression_metrics,
    gains,
    pearson,
    quality,
    quality_shapes,
    quality_sums,
    ridge_on_colours,
)
from infl.models.histology.spots import SpotBatch, Spots, blocks
from infl.models.matrix import FeatureMatrix
from infl.models.task import Predictor, Step, Sums, Task
from infl.nn.histology import HistologyNet, SmallCNN, count_loss, load_backbone
from infl.sums import FederatedSum, SiteView, State
from infl.sums.share import N_MOMENTS, share_of_network

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Histology(Task[Spots, HistologyNet]):
    """Predict the expression of spots from H&E patches.

    Two members are added. *Regression*: colour and texture of a patch and of its neighbourhood, in optical density, as they
    are and relative to their section, through a kernel ridge regression that is exact over sites, since all that it needs
    are sums. *Network*: a convolutional network on stain-normalised patches with the same numbers beside it, trained on
    counts in rounds. The network counts for as much as it surely helped on spots that neither was fitted to; in the end the
    regression is fitted to these too.

    Parameters
    ----------
    layer
        Layer with the raw counts (None: ``X``).
    modality
        Which modality of a ``MuData`` to read.
    patches
        Key of ``obsm`` with the patches: uint8, RGB, row-major, with ``uns["patch_shape"]``.
    spatial_key, section_key
        Key of ``obsm`` with coordinates, and column of ``obs`` with the section (None: each site has one).
    context
        How many spots far the neighbourhood reaches (0: coordinates are not needed).
    n_neighbors
        Nearest spots that are neighbours: 8 on a square grid, 6 on a hexagonal one.
    stain
        How stains of sections are made alike for the network: ``"reinhard"``, ``"macenko"`` or ``"none"``
        (:func:`infl.models.histology.patches.stain_transform`).
    augment
        Turn and mirror patches at random in training, and average over all eight ways in prediction.
    statistics
        Use the regression, and its numbers in the network. Without it the network sees the patch alone.
    depth
        From 0, expression is learned as it is scored, relative to the spot's total; to 1, as counts. Log-normalised values
        of shallow spots depend on depth, which tissue tells well.
    ridge
        Strength of the regression's penalty.
    target_sum
        Expression is log1p of counts scaled to this sum a spot.
    gene_likelihood
        Of the network: ``"nb"`` (negative binomial) or ``"poisson"``.
    backbone, backbone_options
        Name of what returns a torch module from images (n, 3, h, w), and its arguments (:func:`infl.nn.histology.load_backbone`):
        set ``infl.settings.backbones["resnet18"] = lambda: timm.create_model("resnet18", num_classes=0)``, at all sites and
        where the model is used, or install a package that brings it. Empty: a small CNN, ``"small_cnn"``.
    width, rank, dropout
        Of the network.
    validation
        Share of each site's spots that neither member is fitted to: regions of each section, and spots beside them
        are left out of both parts unless these are most of them; drawn spots with ``context=0``.

    Examples
    --------
    >>> Histology(context=0).name
    'histology'
    """

    name: ClassVar[str] = "histology"
    headline: ClassVar[str] = "pearson"
    predicts_from_features: ClassVar[bool] = False

    layer: str | None = None
    modality: str | None = None
    patches: str = "patches"
    spatial_key: str = "spatial"
    section_key: str | None = None
    context: int = 1
    n_neighbors: int = 8
    stain: Stain = "reinhard"
    augment: bool = True
    statistics: bool = True
    depth: float = 0.5
    ridge: float = 0.3
    target_sum: float = 1e4
    gene_likelihood: Literal["nb", "poisson"] = "nb"
    backbone: str = ""
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    width: int = 64
    rank: int = 16
    dropout: float = 0.2
    validation: float = 0.15
    lr: float = 3e-3
    weight_decay: float = 1e-2
    grad_clip: float | None = 1.0

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "layer": LAYER,
        "modality": MODALITY,
        "patches": Text(says="the name of an array in obsm"),
        "spatial_key": Text(says="the name of an array in obsm"),
        "section_key": OTHER_COLUMN,
        "context": Whole(0),
        "n_neighbors": Whole(1),
        "stain": Choice(("reinhard", "macenko", "none")),
        "augment": Flag(),
        "statistics": Flag(),
        "depth": Real(0, 1),
        "ridge": Real(0, open="low"),
        "target_sum": Real(0, open="low"),
        "gene_likelihood": Choice(("nb", "poisson")),
        "backbone": Text(empty=True, says="the name of a backbone, or ''"),
        "backbone_options": Options(),
        "width": Whole(1),
        "rank": Whole(1),
        "dropout": SHARE,
        "validation": Real(0, 1),
    }

    @property
    def reader(self) -> Reader:
        """What reads a site's table."""
        return self.options_for(Reader)

    @property
    def expression(self) -> Expression:
        """How counts become what is learned."""
        return Expression(self.depth, self.target_sum)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features and the shape of patches, after checking the sites' data."""
        return self.reader.agree({site: table_of(adata, self.modality, site) for site, adata in sites.items()})

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Spots:
        """Read patches and, when training, counts. Stains and statistics are relative to a section's own."""
        return self.reader.read(table_of(adata, self.modality, site), panel, site=site, rng=rng)

    # -- sums ------------------------------------------------------------------------------------------------------
    @property
    def n_statistics(self) -> int:
        """Numbers beside the image: own and relative ones, and the same around the spot."""
        return N_STATISTICS * (4 if self.context else 2) if self.statistics else 0

    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of statistics and expression, then the regression's products."""
        sizes = {"n_statistics": self.n_statistics, "n_features": len(panel["features"])}
        scales = moments(self.expression, **sizes)
        return (scales, self._products(panel)) if self.statistics else (scales,)

    def _products(self, panel: Mapping[str, Any], *, refit: bool = False) -> FederatedSum:
        n_features = len(panel["features"])
        return products(
            self.expression, n_statistics=self.n_statistics, n_features=n_features, ridge=self.ridge, refit=refit
        )

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return how much the network helps beside the regression, how well each gene is predicted, and a last regression."""
        if not self.validation:
            return ()
        of_genes = self._quality(len(panel["features"]))
        return (self._helps(), of_genes, self._products(panel, refit=True)) if self.statistics else (of_genes,)

    def _helps(self) -> FederatedSum:
        def found(site: SiteView[Spots, HistologyNet], state: State) -> np.ndarray:
            data, held = site.data, site.data.validation
            if not len(held):
                return np.zeros((2, N_MOMENTS))
            base = regress(data, held, state)
            step = self._network(site.module, data, held, state)[0] - base
            rest = self.expression.target(data, held, state) - base
            return gains(step, rest, data.section_of[held], data.region_of[held])

        return share_of_network(found, lambda site, state: len(site.data.validation), kinds=2)

    def _quality(self, n_features: int) -> FederatedSum:
        def found(site: SiteView[Spots, HistologyNet], state: State) -> Sums:
            data, held = site.data, site.data.validation
            predicted = self.predicted(site.module, data, held, state)["predicted"]
            return quality_sums(predicted, self.expression.relative(data, held), data, held)

        return quality(found, n_features)

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> HistologyNet:
        """Return a fresh :class:`infl.nn.histology.HistologyNet`."""
        backbone = load_backbone(self.backbone, dict(self.backbone_options)) if self.backbone else SmallCNN()
        return HistologyNet(
            backbone,
            self.n_statistics,
            len(panel["features"]),
            width=self.width,
            rank=self.rank,
            dropout=self.dropout,
            augment=self.augment,
            image=(panel["patch"][0], panel["patch"][1]),
        )

    def configure(self, module: HistologyNet, private: Sums) -> None:
        """Set the moments of statistics, and the level of each gene."""
        for name, key in (("center", "beside_mean"), ("scale", "beside_scale"), ("level", "level")):
            if key in private:
                module.get_buffer(name).copy_(torch.from_numpy(np.asarray(private[key], dtype=np.float32)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Rows of the last layer are genes."""
        return {name: {0: panel["features"]} for name in ("genes.weight", "genes.bias", "dispersion")}

    def loss(self, module: HistologyNet, batch: SpotBatch, step: Step) -> Tensor:
        """Return the mean negative log-likelihood of a batch's counts."""
        return self._likelihood(module, batch).mean()

    def _likelihood(self, module: HistologyNet, batch: SpotBatch) -> Tensor:
        dispersion = module.dispersion if self.gene_likelihood == "nb" else None
        return count_loss(module(batch.images, batch.beside), batch.counts, dispersion)

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Summed likelihood of the network, and the sums behind correlations."""
        return {"loss": (), **quality_shapes(len(panel["features"]))}

    @torch.no_grad()
    def evaluate(self, module: HistologyNet, data: Spots, index: np.ndarray) -> Sums:
        """Return sums over the spots `index` of the network's loss, and of products within sections."""
        total, predicted = 0.0, []
        for part in blocks(index) if len(index) else []:
            batch = data.batch(part)
            total += float(self._likelihood(module, batch).mean(1).sum())
            predicted.append(module(batch.images, batch.beside).double().numpy())
        n_features = len(module.level)
        guess = np.concatenate(predicted) if predicted else np.zeros((0, n_features))
        truth = np.log1p(counts_of(data, index))
        return {"loss": np.asarray(total), **quality_sums(guess, truth, data, index)}

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the network's mean loss, and the median over genes of its correlation with log counts."""
        n = float(sums["n"])
        return {
            "loss": float(sums["loss"]) / n if n else np.nan,
            "pearson": float(np.nanmedian(pearson(sums))) if n else np.nan,
        }

    # -- results ---------------------------------------------------------------------------------------------------
    def _network(
        self, module: HistologyNet, data: Spots, index: np.ndarray, private: Sums
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the network's standardised prediction (n, n_features) and latent (n, rank), means over the eight ways."""
        if "beside_mean" not in private and self.statistics:
            standardise_by_own(module, data)
        log_mean, latent = means_and_latents(module, data, index, ways=8 if self.augment else 1)
        return self.expression.of_means(log_mean, private), latent

    def predicted(self, module: HistologyNet, data: Spots, index: np.ndarray, private: Sums) -> dict[str, np.ndarray]:
        """Return predicted expression (n, n_features) of the spots `index`, log-normalised, and their latent (n, rank)."""
        standard, latent = self._network(module, data, index, private)
        if "coefficients" in private:
            base = regress(data, index, private)
            standard = base + float(private.get("share", 0.0)) * (standard - base)
        expression = standard * private.get("relative_scale", 1.0) + private.get("relative_mean", 0.0)
        return {"predicted": expression.astype(np.float32), "latent": latent}

    def infer(self, module: HistologyNet, data: Spots, private: Sums) -> dict[str, np.ndarray]:
        """Return predicted expression and latent of every spot; NaN where the patch is missing."""
        outputs = {}
        for name, values in self.predicted(module, data, data.rows, private).items():
            outputs[name] = np.full((data.patches.n, values.shape[1]), np.nan, dtype=np.float32)
            outputs[name][data.rows] = values
        unknown = np.full(outputs["predicted"].shape[1], np.nan)
        return {**outputs, "quality": private.get("pearson", unknown)}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write predicted expression into ``layers``, each gene's quality into ``var``, the latent into ``obsm``."""
        table = table_of(adata, self.modality, "the data")
        frame = pd.DataFrame(outputs["predicted"], index=table.obs_names, columns=panel["features"])
        table.layers[f"{key_added}_predicted"] = frame.reindex(columns=table.var_names).to_numpy(dtype=np.float32)
        table.var[f"{key_added}_pearson"] = pd.Series(outputs["quality"], panel["features"]).reindex(table.var_names)
        table.obsm[f"X_{key_added}"] = outputs["latent"]

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out spots at random."""
        held = np.zeros(adata.n_obs, dtype=bool)
        held[rng.permutation(adata.n_obs)[: int(share * adata.n_obs)]] = True
        return held

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the median over genes of the correlation with log-normalised expression, the mean of the best 50, and MSE."""
        table = table_of(adata, self.modality, "the data")
        counts = FeatureMatrix(table, panel["features"], layer=self.layer, site="the data").rows(slice(None))
        known = (counts.sum(1) > 0) & ~np.isnan(outputs["predicted"]).any(1)
        return expression_metrics(outputs["predicted"][known], log_normalised(counts[known], self.target_sum))

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return the predictions of ridge regression on nine numbers of colour and texture, fitted on pooled data."""
        table = table_of(train, self.modality, "the data")
        patches = self.reader.patches_of(table, "the data")
        counts = FeatureMatrix(table, panel["features"], layer=self.layer, site="all sites").rows(slice(None))
        known = (counts.sum(1) > 0) & patches.present
        predict = ridge_on_colours(patches, known, log_normalised(counts[known], self.target_sum))

        def predicted(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            table = table_of(adata, self.modality, "the data")
            return {"predicted": predict(self.reader.patches_of(table, "the data"))}

        return predicted
