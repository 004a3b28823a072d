"""The protocol of several columns of labels: what sites agree on, loss over the labels that there are, and what is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import Flag, Kind, Names
from infl.data.labels import label_text
from infl.errors import DataError, SettingsError
from infl.models.labelled import has_numbers, write_rows
from infl.models.labels.data import PartlyLabelled, label_counts, levels_of, numbers_of_labels
from infl.models.labels.heads import heads_of, log_probabilities, read_order, written_order
from infl.models.labels.scoring import losses_of, metrics_of, scores_of, shapes_of, sums_of
from infl.models.logistic import logistic_regression
from infl.models.matrix import FeatureMatrix
from infl.models.phenotype.data import LabelledRows
from infl.models.phenotype.task import Phenotype
from infl.models.task import Predictor, Sums
from infl.nn.mlp import OnPanel
from infl.sums import FederatedSum
from infl.sums.confidence import confidences_by_column

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Labels(Phenotype):
    """Predict several categorical ``obs`` columns at once from a panel of features; records may lack labels, and sites columns.

    Parameters
    ----------
    target
        Columns of ``obs`` with the labels, such as ``["er", "her2", "grade"]``. A record learns from those that it has. One that
        has none is neither fitted to nor judged by, but its features take part in the moments; so do those of a site without any label.
        Columns of truth values make a classifier of several labels at once. Where a column is an ordered categorical, steps between
        levels are predicted, so that a mistake by two levels costs more than one by one.
    balance
        Weight the classes of each column inversely to their share in all sites' training records.
    calibrate
        Count validation records by how sure the model is of each column, for ``infl.tl.predict(…, reject=)``.
    layer, modality, features, validation, stratify, standardise, width, n_blocks, dropout, coordinate, covariates
        As for :class:`infl.models.Classifier`; validation parts are stratified by the first column.

    References
    ----------
    Ordered levels: McCullagh, Regression models for ordinal data, JRSS B 1980 (cumulative logits; here with steps of each record).

    Examples
    --------
    >>> import infl, numpy as np
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["high"] = np.where(np.arange(adata.n_obs) % 3, adata.X[:, 0] > 1, None)  # a third is not known
    >>> run = infl.tl.fit_federated(sites, target=["tumour_class", "high"], rounds=2, progress=False)
    >>> [name for name in sites["site_1"].obs if name.startswith("infl_prediction")]
    ['infl_prediction_tumour_class', 'infl_prediction_high']
    """

    name: ClassVar[str] = "labels"
    headline: ClassVar[str] = "balanced_accuracy"

    target: tuple[str, ...] = ()
    balance: bool = True
    calibrate: bool = True

    parameters: ClassVar[dict[str, Kind]] = Phenotype.parameters | {
        "target": Names(empty=True, says="names of obs columns, each of them once"),
        "balance": Flag(),
        "calibrate": Flag(),
    }

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of labels."""
        return tuple(name for name in self.target if name)

    # -- data ------------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features, and the classes of each column, after checking the sites' data."""
        if not self.columns:
            raise SettingsError("model='labels' needs target=, the obs columns with the labels")
        panel, _ = self._agree(sites)
        tables = {site: self._table(adata, site) for site, adata in sites.items()}
        here = [t for t in self.columns if len(sites) > 1 or self._has(tables, t)]  # one site may lack what others have
        found = {t: levels_of(tables, t) if t in here else ([], None) for t in self.columns}
        tasks = {target: classes for target, (classes, _) in found.items()}
        ordered = {target: written_order(order) for target, (_, order) in found.items() if order is not None}
        panel |= {"tasks": tasks, "ordered": ordered}
        return self.settled(panel) if len(sites) > 1 else panel

    @staticmethod
    def _has(tables: Mapping[str, AnnData], target: str) -> bool:
        return any(
            target in table.obs and bool(label_text(table.obs[target]).notna().any()) for table in tables.values()
        )

    def settled(self, panel: Mapping[str, Any]) -> dict[str, Any]:
        """Return the panel with columns as they were asked for, and levels in their order."""
        tasks = {}
        for target in self.columns:
            classes = list(panel["tasks"].get(target, ()))
            if len(classes) < 2:
                raise DataError(
                    f"target {target!r} has {len(classes)} class{'es' * (len(classes) != 1)} over all sites, so there is nothing to tell "
                    "apart: correct the name, or leave it out"
                )
            order = panel["ordered"].get(target)
            tasks[target] = classes if order is None else read_order(order)
        return {**panel, "tasks": tasks}

    def truth(self, table: AnnData, panel: Mapping[str, Any], site: str) -> np.ndarray:
        """Return class numbers (n, n_targets), −1 where there is no label."""
        return numbers_of_labels(table, panel["tasks"], site)

    def strata(self, truth: np.ndarray) -> np.ndarray:
        """Return the classes of the first column, those without it as one."""
        return truth[:, 0] + 1

    def strata_to_hold_out(self, table: AnnData) -> np.ndarray:
        """Return numbers of the first column's labels that a table has."""
        if self.columns[0] not in table.obs:
            return np.zeros(table.n_obs, dtype=np.int64)
        return pd.Categorical(label_text(table.obs[self.columns[0]])).codes.astype(np.int64) + 1

    def rows_of(
        self,
        x: FeatureMatrix,
        truth: np.ndarray,
        split: tuple[np.ndarray, np.ndarray],
        *,
        keyless: bool = False,
        **how: Any,
    ) -> LabelledRows:
        """Leave records without a label out of both parts."""
        known = np.asarray((truth >= 0).any(1))
        train, validation = (part[known[part]] for part in split)
        return PartlyLabelled(x, torch.from_numpy(truth), train, validation, np.flatnonzero(~known), **how)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Features, of which a site may lack some, and the classes of each column."""
        return {"feature": self.inputs(panel), "class": _named(panel)}

    def held(self, data: LabelledRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Features that were measured, classes that somebody has."""
        assert data.labels is not None
        labels = data.labels.numpy()
        has = [has_numbers(labels[:, i], len(head.classes)) for i, head in enumerate(heads_of(panel))]
        return {"feature": ~data.x.absent, "class": np.concatenate(has)}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums that bring features to one scale, and count classes where they are weighted."""
        sizes = [len(head.classes) for head in heads_of(panel)]
        return (*self._scales(panel), *([label_counts(sizes, balance=True)] if self.balance else []))

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of the latent that a new site is fitted to, and how sure the model is of each column."""
        counts = [confidences_by_column(len(panel["tasks"]), self._sure)] if self.calibrate else []
        return (*super().after(panel), *counts)

    @torch.no_grad()
    def _sure(self, module: OnPanel, x: Tensor, truth: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the probability of what is predicted of each column, and whether it is right, where there is a label."""
        heads: Any = module.heads
        found = []
        for number, one in enumerate(log_probabilities(module(x), heads)):
            known = truth[:, number] >= 0
            likely, called = one[known].exp().max(-1)
            found.append((likely.numpy(), (called == truth[known, number]).numpy()))
        return found

    def for_dp(self) -> Labels:
        """Scale and hold out each sample by itself, and leave class weights and calibration out."""
        self._check_dp()
        return replace(self, standardise="sample", balance=False, calibrate=False, stratify=False)

    # -- model -----------------------------------------------------------------------------------------------------
    def n_outputs(self, panel: Mapping[str, Any]) -> int:
        """A logit for each class of a column, or for each step between its levels."""
        return max(head.outputs.stop for head in heads_of(panel))

    def named_outputs(self, panel: Mapping[str, Any]) -> Sequence[str]:
        """Outputs are of classes, or of levels above the lowest."""
        return [f"{head.target}: {name}" for head in heads_of(panel) for name in head.classes[head.ordered :]]

    def build(self, panel: Mapping[str, Any]) -> OnPanel:
        """Return a fresh network that keeps the weights of the classes."""
        module, n = super().build(panel), len(_named(panel))
        module.register_buffer("label_weight", torch.ones(n), persistent=False)
        module.heads = heads_of(panel)  # type: ignore[assignment]
        return module

    def losses_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of each record, over the labels that it has."""
        heads: Any = module.heads
        weight: Any = module.label_weight
        return losses_of(log_probabilities(outputs, heads), truth, weight, heads)

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Loss, and confusion counts (true × predicted) of each column."""
        return shapes_of(heads_of(panel))

    @torch.no_grad()
    def sums_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Sums:
        """Return the loss and confusion counts."""
        heads: Any = module.heads
        found = [one.numpy() for one in log_probabilities(outputs, heads)]
        return sums_of(found, truth.numpy(), self.losses_of(module, outputs, truth).numpy(), heads)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return loss, accuracy and balanced accuracy, means over columns."""
        return metrics_of(sums)

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: OnPanel, data: LabelledRows, private: Sums) -> dict[str, np.ndarray]:
        """Return the probabilities of all columns (n, n_places), and the latent; a linear model's are its outputs."""
        self._own_scale(data, private)
        heads: Any = module.heads
        found: list[tuple[Tensor, Tensor]] = []
        for chunk in data.x.chunks():
            z = module.latent(torch.from_numpy(data.rows(chunk)))
            outputs = module.head(z)
            found.append((torch.cat(log_probabilities(outputs, heads), -1).exp(), z if self.width else outputs))
        probability, latent = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return {"probability": probability, "latent": latent}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obs["infl_prediction_er"]``, ``obs["infl_probability_er"]``, ``obsm["infl_probabilities_er"]`` and ``obsm["X_infl"]``.

        Labels are categories of text, in order where the column's are. In a ``MuData``, observations without the modality get
        missing values.
        """
        names = self._table(adata, "data").obs_names
        for head in heads_of(panel):
            probability = outputs["probability"][:, head.places]
            codes = pd.Series(probability.argmax(1), index=names).reindex(adata.obs_names, fill_value=-1).to_numpy()
            labels = pd.Categorical.from_codes(codes, categories=list(head.classes), ordered=head.ordered)
            adata.obs[f"{key_added}_prediction_{head.target}"] = labels
            best = pd.Series(probability.max(1), index=names).reindex(adata.obs_names)
            adata.obs[f"{key_added}_probability_{head.target}"] = best
            write_rows(adata, f"{key_added}_probabilities_{head.target}", probability, names)
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)

    # -- comparing -------------------------------------------------------------------------------------------------
    def chance(self, panel: Mapping[str, Any]) -> float:
        """A guess gets one in the number of classes, the mean over columns."""
        return float(np.mean([1 / len(head.classes) for head in heads_of(panel)]))

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return what classifiers are scored by, means over columns, each over the records that have it."""
        truth = numbers_of_labels(self._table(adata, "the data"), panel["tasks"], "the data", known_only=False)
        return scores_of(truth, outputs["probability"].astype(np.float64), heads_of(panel))

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Multinomial logistic regression of each column on the pooled records that have it; its penalty by cross-validation."""
        x, strengths = self._features_of(train, panel), (1e-3, 1e-2, 0.1, 1.0)
        truth = numbers_of_labels(self._table(train, "the data"), panel["tasks"], "the data", known_only=False)
        models = [
            logistic_regression(x[y >= 0], y[y >= 0], len(head.classes), strengths=strengths, seed=seed)
            for y, head in zip(truth.T, heads_of(panel), strict=True)
        ]

        def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            new = self._features_of(adata, panel)
            return {"probability": np.concatenate([model(new) for model in models], 1)}

        return predict


def _named(panel: Mapping[str, Any]) -> list[str]:
    return [f"{head.target}: {name}" for head in heads_of(panel) for name in head.classes]
