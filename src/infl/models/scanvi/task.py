"""Label transfer over sites: scvi-tools' SCANVI module, where some cells or whole sites have no labels.

Xu et al., Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative models,
Molecular Systems Biology 17 (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from infl._parameters import COLUMN, Flag, Kind, Real, Text
from infl.data.labels import TEXT
from infl.errors import SettingsError
from infl.models.atlas import atlas_sums
from infl.models.counts import log_normalised, table_of
from infl.models.labelled import has_numbers, stratified_split, write_classes
from infl.models.scanvi.data import classes_of, label_values
from infl.models.scanvi.scoring import label_metrics, label_scores, label_sums, regression_on_counts
from infl.models.scvi.data import LABELS, CountRows
from infl.models.scvi.module import latents_of, read_beside, vae_class
from infl.models.scvi.task import Scvi
from infl.models.task import Predictor, Step, Sums
from infl.sums import FederatedSum

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Scanvi(Scvi):
    """Fit scANVI over sites: scVI with a classifier on its latent, learned from the cells that have labels.

    Parameters
    ----------
    target
        Column of ``obs`` with the labels; a site may lack it, or lack values.
    unlabelled
        Value of cells without a label, in any case of letters, beside missing ones and the number −1.
    classification_ratio
        Weight of the classifier's cross-entropy.
    atlas
        Sum up, at the end, where each class lies in the latent and how far validation cells are from there, so that
        :func:`infl.tl.map_to` can tell cells of a class that the model never saw. A class of fewer than three labelled training
        cells at a site is not taught by it.

    Notes
    -----
    The other options are those of :class:`infl.models.Scvi`.

    Examples
    --------
    >>> Scanvi(target="cell_type").headline
    'balanced_accuracy'
    """

    name: ClassVar[str] = "scanvi"
    headline: ClassVar[str] = "balanced_accuracy"

    target: str = ""
    unlabelled: str = "unknown"
    classification_ratio: float = 50.0
    atlas: bool = False

    parameters: ClassVar[dict[str, Kind]] = Scvi.parameters | {
        "target": COLUMN,
        "unlabelled": Text(empty=True, says="the label of cells without one"),
        "classification_ratio": Real(0),
        "atlas": Flag(),
    }

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return the panel of scVI and the classes of all sites."""
        if not self.target:
            raise SettingsError(
                "model='scanvi' needs target=, the obs column with the labels of those cells that have one"
            )
        tables = {site: table_of(adata, self.modality, site) for site, adata in sites.items()}
        classes = classes_of(tables, self.target, self.unlabelled)
        return super().agree(sites) | classes  # the classes before the check of the data, which reads them

    def _values(self, table: AnnData) -> pd.Series | None:
        return label_values(table, self.target, self.unlabelled)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Classes, and what scVI has."""
        return {**super().held_names(panel), "class": panel["classes"]}

    def held(self, data: CountRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Classes of a site's own cells, and what scVI has."""
        assert data.labels is not None
        return {**super().held(data, panel), "class": has_numbers(data.labels.numpy(), len(panel["classes"]))}

    def labels(self, table: AnnData, panel: Mapping[str, Any]) -> np.ndarray:
        """Return class numbers (n_obs,), −1 where unknown."""
        values = self._values(table)
        if values is None:
            return np.full(table.n_obs, -1, dtype=np.int64)
        return pd.Index(panel.get("classes", []), dtype=object).get_indexer(values).astype(np.int64)

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return where the classes lie in the latent, and how far validation cells are from there."""
        return atlas_sums(len(panel["classes"]), self.n_latent, self._atlas_rows) if self.atlas else ()

    def _atlas_rows(
        self, module: nn.Module, data: CountRows, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return latents and class numbers of cells; distances in features are not known."""
        labels = np.full(len(index), -1) if data.labels is None else data.labels[index, 0].numpy()
        return latents_of(module, data, index), labels, np.full(len(index), np.nan)

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> nn.Module:
        """Return a fresh module of scvi-tools, without the parts that it would not use."""
        vae_class()
        from scvi.module import SCANVAE

        options = self.data_options(panel) | self.module_options()
        module = SCANVAE(**options, n_labels=len(panel["classes"]))
        prior = module.y_prior.detach()
        del module.y_prior  # a parameter that is not learned: as a buffer it is neither averaged nor decayed
        module.register_buffer("y_prior", prior)
        return self.trimmed(module)

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """What scVI has; rows of the classifier's last layer are classes, and so are columns of the layers between the two latents."""
        units = {f"classifier.classifier.1.{kind}": {0: panel["classes"]} for kind in ("weight", "bias")}
        for part in ("encoder_z2_z1.encoder", "decoder_z1_z2.decoder"):
            units |= self._layers(part, self._latent_names, read_beside({"class": panel["classes"]}))
        return super().units(panel) | units

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: Step) -> Tensor:
        """Return the mean negative evidence lower bound of a batch, with the cross-entropy of its labelled cells."""
        known = batch[LABELS][:, 0] >= 0
        labelled = {name: values[known] for name, values in batch.items()} if known.any() else None
        options = {"kl_weight": self.kl_weight(step), "labelled_tensors": labelled}
        return module(batch, loss_kwargs=options | {"classification_ratio": self.classification_ratio})[2].loss

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Those of scVI; cross-entropy and confusion counts (true × predicted) of labelled cells."""
        k = len(panel["classes"])
        return super().metric_shapes(panel) | {"cross_entropy": (), "confusion": (k, k)}

    def evaluate(self, module: Any, data: CountRows, index: np.ndarray) -> Sums:
        """Return sums over the cells `index`."""
        return super().evaluate(module, data, index) | label_sums(module, data, index)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return what training minimises (``loss``), its parts, and the balanced accuracy of labelled cells."""
        metrics, of_labels = super().summarise(sums), label_metrics(sums)
        metrics["loss"] += self.classification_ratio * of_labels["cross_entropy"]
        return metrics | of_labels

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return the latent (n, n_latent) and the probability of each class (n, classes)."""
        outputs = super().infer(module, data, private)
        logits = module.classifier(torch.from_numpy(outputs["latent"]))  # type: ignore[operator]
        return outputs | {"probability": logits.softmax(1).numpy()}

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out `share` of the labelled cells of each class."""
        table = table_of(adata, self.modality, "the data")
        values = self._values(table)
        if values is None:
            return np.zeros(adata.n_obs, dtype=bool)
        known = np.flatnonzero(values.notna())
        _, test = stratified_split(pd.Categorical(values.iloc[known]).codes.astype(np.int64), share, rng)
        return np.asarray(adata.obs_names.isin(table.obs_names[known[test]]))

    def scoring_outputs(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return what :meth:`infer` does."""
        return self.infer(module, data, private)

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return balanced accuracy and macro F1 of the labelled cells."""
        truth = self.labels(table_of(adata, self.modality, "the data"), panel)
        return label_scores(truth, outputs["probability"])

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return probabilities of logistic regression on log-normalised counts, fitted on pooled labelled cells."""

        def features(adata: AnnData | MuData) -> np.ndarray:
            return log_normalised(self.read(adata, panel, site="the data").x.rows(slice(None)), 1e4)

        labels = self.labels(table_of(train, self.modality, "the data"), panel)
        model = regression_on_counts(features(train), labels, len(panel["classes"]))
        return lambda adata: {"probability": model(features(adata))}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write class, probability, probabilities and latent, as the classifier does."""
        names, type_ = table_of(adata, self.modality, "the data").obs_names, panel.get("class_type", TEXT)
        write_classes(adata, names, outputs, panel["classes"], key_added, type_)
