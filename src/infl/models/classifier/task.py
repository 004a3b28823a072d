"""The protocol of the classifier: what the sites agree on, its sums, its module, and what is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import COLUMN, LAYER, MODALITY, SHARE, Choice, Flag, Kind, Whole
from infl.data.labels import TEXT, class_numbers, label_text, label_type
from infl.errors import SettingsError
from infl.models.classifier.data import FUSED, LabelledRows, check_overlap, labels_of, scale_of, table_of
from infl.models.classifier.latent import balance_moments, fit_coordinate, latent_moments, outputs_of
from infl.models.classifier.scoring import metrics_of, scores_of, shapes_of, sums_of
from infl.models.labelled import has_numbers, split_rows, stratified_split, write_classes, write_rows
from infl.models.logistic import logistic_regression
from infl.models.matrix import FeatureMatrix
from infl.models.task import Predictor, Sums, Task
from infl.nn.mlp import LinearClassifier, OnPanel, ResidualMLP
from infl.sums import FederatedSum
from infl.sums.standardise import deviations, means
from infl.sums.temperature import temperature

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.data.check import Features


@dataclass(frozen=True)
class Classifier(Task[LabelledRows, OnPanel]):
    """Predict a categorical ``obs`` column from a panel of features.

    Parameters
    ----------
    target
        Column of ``obs`` with the classes. A site need not have all of them; one that has a single class is warned of.
    layer
        Layer to read (None: ``X``).
    modality
        Which modality of a ``MuData`` to read; None: all of them together, masked where an observation lacks one.
    features
        ``"intersection"``: the features that all sites measured; ``"union"``: those that any site measured. What a site did
        not measure is masked: it has no part in its activations, its gradients or the federated moments.
    validation
        Share of each site's samples, by class, that judges rounds and is not trained on. One sample of each class at a site
        always is.
    stratify
        Split the validation samples off by class. Without it each sample is drawn by its name alone, whatever the others are:
        so it is under differential privacy.
    standardise
        ``"federated"``: features are scaled by moments summed over sites; ``"site"``: by each site's own, also at a site
        that joins later; ``"rank"``: the same after ranking the features of each sample; ``"sample"``: each sample by its
        own mean and deviation over the features; ``"none"``: not at all.
    balance
        Weight classes inversely to their share in all sites' training samples.
    balance_moments
        Let the classes count alike in a site's own moments: by labels at sites of the fit, at a new site by the model's
        posteriors, found in turn with the moments. Without it every sample counts alike, at both.
    calibrate
        Scale the logits by a temperature chosen on validation samples.
    width, n_blocks, dropout
        Of :class:`infl.nn.mlp.ResidualMLP`; ``width=0`` is multinomial logistic regression; with
        ``optimiser="sgd", lr=1`` a round is a step of gradient descent, and `rounds` are the penalty.
    coordinate
        Size of a site's own coordinate, learned there and never sent, which conditions a shared FiLM layer; at a site that
        joins later it is estimated from unlabelled data, so that the latent's moments are those of the other sites. 0: none.

    References
    ----------
    Calibration: Guo et al., On calibration of modern neural networks, ICML 2017 (temperature scaling; here the best
    temperature of a grid by summed validation likelihood).

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> task = infl.models.Classifier(target="tumour_class", width=16)
    >>> infl.tl.fit_federated(sites, task, rounds=1, progress=False).model.header.options["width"]
    16
    """

    name: ClassVar[str] = "classifier"
    headline: ClassVar[str] = "balanced_accuracy"
    takes_missing: ClassVar[bool] = True

    target: str = ""
    layer: str | None = None
    modality: str | None = None
    features: Features = "intersection"
    validation: float = 0.2
    stratify: bool = True
    standardise: Literal["federated", "site", "rank", "sample", "none"] = "federated"
    balance: bool = True
    balance_moments: bool = True
    calibrate: bool = True
    width: int = 64
    n_blocks: int = 2
    dropout: float = 0.2
    coordinate: int = 0

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "target": COLUMN,
        "layer": LAYER,
        "modality": MODALITY,
        "features": Choice(("intersection", "union")),
        "validation": SHARE,
        "stratify": Flag(),
        "standardise": Choice(("federated", "site", "rank", "sample", "none")),
        "balance": Flag(),
        "balance_moments": Flag(),
        "calibrate": Flag(),
        "width": Whole(0),
        "n_blocks": Whole(0),
        "dropout": SHARE,
        "coordinate": Whole(0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coordinate and not self.width:
            raise SettingsError(f"coordinate={self.coordinate}: give the size of a code, and a width= above 0 with it")

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features and all classes, after checking the sites' data."""
        from infl.data.check import panel_of

        if not self.target:
            raise SettingsError("model='classifier' needs target=, the obs column with the classes")
        if self.modality is None and any(hasattr(adata, "mod") for adata in sites.values()):
            panel = panel_of(sites, target=self.target, layer=self.layer, features=self.features)
        else:
            tables = {site: self._table(adata, site) for site, adata in sites.items()}
            panel = panel_of(tables, target=self.target, layer=self.layer, features=self.features)
        check_overlap({site: np.asarray(has) for site, has in panel.present.items()})
        return {
            "features": list(panel.features),
            "classes": list(panel.classes),
            "class_type": label_type(self._target_of(adata, site) for site, adata in sites.items()),
            "units": ["any"] if self.standardise == "rank" else list(panel.units),
        }

    def _table(self, adata: AnnData | MuData, site: str) -> AnnData:
        return table_of(adata, site, target=self.target, layer=self.layer, modality=self.modality)

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> LabelledRows:
        """Read features and, when training, labels; without the key, features are scaled by their own moments."""
        table = self._table(adata, site)
        x = self._matrix(table, panel, site, masked=rng is None)
        own_scale = scale_of(self.standardise, keyless=keyless)
        if rng is None:
            everything = np.arange(table.n_obs)
            return LabelledRows(x, None, everything, everything[:0], standardise=own_scale)
        labels = class_numbers(labels_of(table, self.target, site), panel["classes"], self.target, site)
        train, validation = split_rows(table.obs_names, labels, self.validation, rng, stratify=self.stratify)
        balanced = self.balance_moments and not keyless
        return LabelledRows(x, torch.from_numpy(labels), train, validation, standardise=own_scale, balanced=balanced)

    def _target_of(self, adata: AnnData | MuData, site: str) -> pd.Series:
        """Return the column of labels, without putting modalities together."""
        return (adata if self.modality is None else self._table(adata, site)).obs[self.target]

    def _label_text(self, adata: AnnData | MuData) -> pd.Series:
        return label_text(labels_of(self._table(adata, "the data"), self.target, "the data"))

    def _matrix(self, table: AnnData, panel: Mapping[str, Any], site: str, *, masked: bool = False) -> FeatureMatrix:
        layer = None if FUSED in table.uns else self.layer
        masked = masked or self.features == "union" or FUSED in table.uns
        return FeatureMatrix(table, panel["features"], layer=layer, site=site, masked=masked)

    def scaled(self, x: np.ndarray, private: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features as the first layer sees them: by the moments over all sites, where there are such."""
        return np.clip((x - private.get("center", 0.0)) / private.get("scale", 1.0), -10, 10)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Features, of which a site may lack some, and classes."""
        return {"feature": panel["features"], "class": panel["classes"]}

    def held(self, data: LabelledRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Features that were measured, classes that somebody has."""
        assert data.labels is not None
        return {"feature": ~data.x.absent, "class": has_numbers(data.labels.numpy(), len(panel["classes"]))}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums of means and class counts, then of squared deviations from the means; whichever are needed."""
        p, k = len(panel["features"]), len(panel["classes"])
        if self.standardise == "federated":
            return (means(k, p, balance=self.balance), deviations(p))
        return (means(k, None, balance=self.balance),) if self.balance or self.coordinate else ()

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of the latent that a new site is fitted to, and temperature scaling."""
        return (
            *([latent_moments(self.width)] if self.coordinate else []),
            *([temperature()] if self.calibrate else []),
        )

    def for_dp(self) -> Classifier:
        """Scale and hold out each sample by itself, and leave class weights and calibration out."""
        if self.coordinate:
            raise SettingsError("coordinate= needs sums that have no noise; with privacy= leave it out")
        return replace(self, standardise="sample", balance=False, calibrate=False, stratify=False)

    def observations(self, adata: AnnData | MuData, site: str) -> pd.DataFrame:
        """Return ``obs`` of the modality that is read, with the joint table's columns that it lacks."""
        if not hasattr(adata, "mod") or self.modality is None:
            return adata.obs
        own = self._table(adata, site).obs
        return own.join(adata.obs[adata.obs.columns.difference(own.columns)])

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> OnPanel:
        """Return a fresh :class:`infl.nn.mlp.ResidualMLP`, or a linear model."""
        sizes = len(panel["features"]), len(panel["classes"])
        if not self.width:
            return LinearClassifier(*sizes, unit_length=self.optimiser == "sgd")
        return ResidualMLP(
            *sizes,
            width=self.width,
            n_blocks=self.n_blocks,
            dropout=self.dropout,
            coordinate=self.coordinate,
        )

    def is_local(self, parameter: str) -> bool:
        """The site's coordinate stays at the site."""
        return parameter == "site"

    def local_arrays(self, data: LabelledRows) -> Sums:
        """Return the site's own moments, where features are scaled by them."""
        if data.standardise not in ("site", "rank"):
            return {}
        center, scale = data.own_moments
        return {"own_center": center, "own_scale": scale}

    def adapt(self, module: OnPanel, data: LabelledRows, private: Sums) -> None:
        """Move the coordinate until mean and deviation of the latent are those of the sites of the fit."""
        if isinstance(module, ResidualMLP) and module.site is not None and "latent_sum" in private:
            fit_coordinate(module, module.site, data, private)

    def configure(self, module: OnPanel, private: Sums) -> None:
        """Set moments, class weights and temperature."""
        for name in ("center", "scale", "class_weight", "temperature"):
            if name in private:
                getattr(module, name).copy_(torch.from_numpy(np.asarray(private[name], dtype=np.float32)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Columns of the first layer are features, rows of the last are classes."""
        if not self.width:
            return {"head.weight": {0: panel["classes"], 1: panel["features"]}, "head.bias": {0: panel["classes"]}}
        return {
            "embed.weight": {1: panel["features"]},
            "head.weight": {0: panel["classes"]},
            "head.bias": {0: panel["classes"]},
        }

    def losses(self, module: OnPanel, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the class-weighted cross-entropy of each observation."""
        x, y = batch
        # torch's cross_entropy has no rule for a stack of sites, and goes through a slow substitute there
        likelihood = module(x).log_softmax(-1).gather(-1, y[:, None]).squeeze(-1)
        return -likelihood * module.class_weight[y]

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Weighted loss, confusion counts (true × predicted) and calibration bins (count, confidence, correct)."""
        return shapes_of(len(panel["classes"]))

    def evaluate(self, module: OnPanel, data: LabelledRows, index: np.ndarray) -> Sums:
        """Return sums over the observations `index`."""
        return self.evaluate_each(module, [(data, index)])[0]

    def evaluate_each(self, module: OnPanel, parts: Sequence[tuple[LabelledRows, np.ndarray]]) -> list[Sums]:
        """Return the sums of several sites; small ones share a pass."""
        return sums_of(module, parts)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return loss, accuracy, balanced accuracy, macro F1 and expected calibration error."""
        return metrics_of(sums)

    # -- results ---------------------------------------------------------------------------------------------------
    def infer(self, module: OnPanel, data: LabelledRows, private: Sums) -> dict[str, np.ndarray]:
        """Return calibrated probabilities (n, classes) and the latent (n, width); a linear model's are its logits."""
        if self.standardise in ("site", "rank"):
            if "own_center" in private:
                data.own_moments = (private["own_center"], private["own_scale"])
            elif self.balance_moments:
                balance_moments(module, data)
        return outputs_of(module, data, width=self.width)

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obs[key_added + "_prediction"]``, ``obs[key_added + "_probability"]`` and ``obsm["X_" + key_added]``.

        In a ``MuData``, observations without the modality get missing values.
        """
        names = self._table(adata, "data").obs_names
        write_classes(adata, names, outputs, panel["classes"], key_added, panel.get("class_type", TEXT))

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]`` alone."""
        names = self._table(adata, "data").obs_names
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out `share` of the samples by class."""
        table = self._table(adata, "the data")
        labels = pd.Categorical(label_text(labels_of(table, self.target, "the data"))).codes.astype(np.int64)
        _, test = stratified_split(labels, share, rng)
        return np.asarray(adata.obs_names.isin(table.obs_names[test]))

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return balanced accuracy, macro F1, calibration error, AUROC (one against rest, macro) and logarithmic loss."""
        labels = self._label_text(adata)
        truth = pd.Index(panel["classes"], dtype=object).get_indexer(labels)
        return scores_of(truth, outputs["probability"].astype(np.float64))

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Multinomial logistic regression on pooled, standardised data; its penalty by cross-validation."""

        def features(adata: AnnData | MuData) -> np.ndarray:
            return self._matrix(self._table(adata, "the data"), panel, "the data").rows(slice(None))

        labels = self._label_text(train)
        y = pd.Index(panel["classes"], dtype=object).get_indexer(labels).astype(np.int64)
        strengths = (1e-3, 1e-2, 0.1, 1.0)
        model = logistic_regression(features(train), y, len(panel["classes"]), strengths=strengths, seed=seed)
        return lambda adata: {"probability": model(features(adata))}
