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

from infl._parameters import COLUMN, Kind, Real, Text
from infl._warn import warn
from infl.data.labels import TEXT, check_labels, label_text, label_type, warn_of_one_class
from infl.errors import DataError, SettingsError
from infl.models.counts import LABELS, CountRows, log_normalised, table_of
from infl.models.labelled import has_numbers, stratified_split, write_classes
from infl.models.logistic import logistic_regression
from infl.models.scvi import CHUNK, Scvi, latent, vae_class
from infl.models.task import Predictor, Step, Sums

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

_MAY_BE_NONE = {
    "-1",
    "?",
    "unknown",
    "unlabelled",
    "unlabeled",
    "unassigned",
    "unannotated",
    "none",
    "na",
    "n/a",
    "null",
}


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

    parameters: ClassVar[dict[str, Kind]] = Scvi.parameters | {
        "target": COLUMN,
        "unlabelled": Text(empty=True, says="the label of cells without one"),
        "classification_ratio": Real(0),
    }

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return the panel of scVI and the classes of all sites."""
        if not self.target:
            raise SettingsError(
                "model='scanvi' needs target=, the obs column with the labels of those cells that have one"
            )
        at: dict[str, list[str]] = {}
        columns = []
        for site, adata in sites.items():
            table = table_of(adata, self.modality, site)
            values = self._values(table)
            if values is None:
                continue
            column = table.obs[self.target]
            check_labels(column, self.target, site, partly=True)
            self._warn_of_values(label_text(column), values, site)
            columns.append(column[values.notna()])
            at[site] = sorted(set(values.dropna()))
        known = set().union(*at.values())
        if len(known) < 2 and len(sites) > 1:
            raise DataError(
                f"obs[{self.target!r}] has {len(known)} classes over all sites, beside {self.unlabelled!r} and missing "
                "values: two or more are due"
            )
        warn_of_one_class(at, self.target)
        # the classes before the check of the data, which reads them
        return super().agree(sites) | {"classes": sorted(known), "class_type": label_type(columns)}

    def _values(self, table: AnnData) -> pd.Series | None:
        """Return the labels as text, missing where a cell has none; None without the column."""
        if self.target not in table.obs:
            return None
        column = table.obs[self.target]
        values = label_text(column)
        none = self.unlabelled.strip().casefold()
        others = {label for label in values.dropna().unique() if label.strip().casefold() == none}
        return values.mask(values.isin(others | {"-1"} if _is_number(column) else others))

    def _warn_of_values(self, text: pd.Series, values: pd.Series, site: str) -> None:
        """Ask about labels that may mean that there is none; say it where −1 was taken so."""
        line = ""
        if (text[values.isna()] == "-1").any() and self.unlabelled != "-1":
            line = f"−1 in obs[{self.target!r}] of {site} is taken for no label, as scikit-learn has it"
        doubtful = [label for label in values.dropna().unique() if label.strip().casefold() in _MAY_BE_NONE]
        if doubtful:
            line = (
                f"{doubtful[0]!r} in obs[{self.target!r}] of {site} is learned as a class: if it means that there is no "
                f"label, set unlabelled={doubtful[0]!r} or make it missing"
            )
        if line:
            warn(line)

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
        """Features as in scVI; rows of the classifier's last layer are classes."""
        last = {f"classifier.classifier.1.{kind}": {0: panel["classes"]} for kind in ("weight", "bias")}
        return super().units(panel) | last

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

    @torch.no_grad()
    def evaluate(self, module: Any, data: CountRows, index: np.ndarray) -> Sums:
        """Return sums over the cells `index`."""
        assert data.labels is not None
        sums = super().evaluate(module, data, index)
        k = module.n_labels
        cross_entropy, confusion = 0.0, np.zeros((k, k))
        known = index[data.labels[index, 0].numpy() >= 0]
        for start in range(0, len(known), CHUNK):
            chunk = known[start : start + CHUNK]
            logits, y = module.classifier(latent(module, data, chunk)), data.labels[chunk, 0]
            cross_entropy += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            np.add.at(confusion, (y.numpy(), logits.argmax(1).numpy()), 1)
        return sums | {"cross_entropy": np.asarray(cross_entropy), "confusion": confusion}

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return what training minimises (``loss``), its parts, and the balanced accuracy of labelled cells."""
        confusion = sums["confusion"]
        n, actual = confusion.sum(), confusion.sum(1)
        recall = np.diag(confusion)[actual > 0] / actual[actual > 0]
        metrics = super().summarise(sums)
        metrics["cross_entropy"] = float(sums["cross_entropy"] / n) if n else 0.0
        metrics["loss"] += self.classification_ratio * metrics["cross_entropy"]
        return metrics | {"balanced_accuracy": float(recall.mean()) if n else float("nan")}

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

    def judged(self, module: nn.Module, data: CountRows, private: Sums) -> dict[str, np.ndarray]:
        """Return what :meth:`infer` does."""
        return self.infer(module, data, private)

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return balanced accuracy and macro F1 of the labelled cells."""
        from sklearn.metrics import f1_score, recall_score

        truth = self.labels(table_of(adata, self.modality, "the data"), panel)
        known, guess = truth >= 0, outputs["probability"].argmax(1)
        if not known.any():
            return {"balanced_accuracy": float("nan"), "macro_f1": float("nan")}
        return {
            "balanced_accuracy": float(
                recall_score(truth[known], guess[known], labels=np.unique(truth[known]), average="macro")
            ),
            "macro_f1": float(f1_score(truth[known], guess[known], average="macro")),
        }

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return probabilities of logistic regression on log-normalised counts, fitted on pooled labelled cells."""

        def features(adata: AnnData | MuData) -> np.ndarray:
            return log_normalised(self.read(adata, panel, site="the data").x.rows(slice(None)), 1e4)

        labels = self.labels(table_of(train, self.modality, "the data"), panel)
        known = np.flatnonzero(labels >= 0)
        model = logistic_regression(features(train)[known], labels[known], len(panel["classes"]), strengths=(0.01,))
        return lambda adata: {"probability": model(features(adata))}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write class, probability, probabilities and latent, as the classifier does."""
        names, type_ = table_of(adata, self.modality, "the data").obs_names, panel.get("class_type", TEXT)
        write_classes(adata, names, outputs, panel["classes"], key_added, type_)


def _is_number(column: pd.Series) -> bool:
    """Whether labels are numbers, or categories that are."""
    dtype = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    return pd.api.types.is_numeric_dtype(dtype)
