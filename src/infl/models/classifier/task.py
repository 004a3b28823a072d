"""The protocol of the classifier: what the sites agree on, its sums, its module, and what is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import COLUMN, Flag, Kind
from infl.data.columns import obs_column
from infl.data.labels import TEXT, class_numbers, label_text, label_type
from infl.errors import DataError, SettingsError
from infl.models.atlas import atlas_sums
from infl.models.classifier.outputs import balance_moments, outputs_of
from infl.models.classifier.scoring import metrics_of, scores_of, shapes_of, sums_of, sums_of_outputs
from infl.models.labelled import check_unmixed, has_numbers, write_classes
from infl.models.logistic import logistic_regression
from infl.models.matrix import FeatureMatrix
from infl.models.phenotype.data import LabelledRows
from infl.models.phenotype.latent import latents
from infl.models.phenotype.newcomer import root_mean_squares
from infl.models.phenotype.task import Phenotype
from infl.models.task import Predictor, Sums
from infl.nn.mlp import OnPanel
from infl.sums import FederatedSum
from infl.sums.confidence import confidences
from infl.sums.standardise import deviations, means
from infl.sums.temperature import temperature

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Classifier(Phenotype):
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
        Scale the logits by a temperature chosen on validation samples, and count those by how sure the model is of them, for
        ``infl.tl.predict(…, reject=)``.
    width, n_blocks, dropout
        Of :class:`infl.nn.mlp.ResidualMLP`; ``width=0`` is multinomial logistic regression; with
        ``optimiser="sgd", lr=1`` a round is a step of gradient descent, and `rounds` are the penalty.
    atlas
        Sum up, at the end, where each class lies in the latent and how far validation samples are from there, so that
        :func:`infl.tl.map_to` can tell samples of a class that the model never saw. A class of fewer than three training samples at
        a site is not taught by it.
    coordinate
        Size of a site's own coordinate, learned there and never sent, which conditions a shared FiLM layer; at a site that
        joins later it is estimated from unlabelled data, so that the latent's moments are those of the other sites. 0: none.
    covariates
        Columns of ``obs`` that are read beside the features, such as ``["age", "sex"]``: numbers on one scale by moments over sites, labels as
        levels that all sites know. What a record lacks is masked. Data to predict must have the columns.

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
    bounded_metrics: ClassVar[tuple[str, ...]] = ("weight", "confusion", "bins")

    target: str = ""
    balance: bool = True
    balance_moments: bool = True
    calibrate: bool = True
    atlas: bool = False

    parameters: ClassVar[dict[str, Kind]] = Phenotype.parameters | {
        "target": COLUMN,
        "balance": Flag(),
        "balance_moments": Flag(),
        "calibrate": Flag(),
        "atlas": Flag(),
    }

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of classes."""
        return (self.target,)

    def truth(self, table: AnnData, panel: Mapping[str, Any], site: str) -> np.ndarray:
        """Return class numbers."""
        labels = obs_column(table, self.target, where=site, role="target")
        return class_numbers(labels, panel["classes"], self.target, site)

    def strata(self, truth: np.ndarray) -> np.ndarray:
        """Return the classes."""
        return truth

    def strata_to_hold_out(self, table: AnnData) -> np.ndarray:
        """Return numbers of the classes that a table has."""
        labels = obs_column(table, self.target, where="the data", role="target")
        return pd.Categorical(label_text(labels)).codes.astype(np.int64)

    def n_outputs(self, panel: Mapping[str, Any]) -> int:
        """One logit for each class."""
        return len(panel["classes"])

    def named_outputs(self, panel: Mapping[str, Any]) -> Sequence[str]:
        """Logits are of classes."""
        return panel["classes"]

    def rows_of(
        self,
        x: FeatureMatrix,
        truth: np.ndarray,
        split: tuple[np.ndarray, np.ndarray],
        *,
        keyless: bool = False,
        **how: Any,
    ) -> LabelledRows:
        """Let classes count alike in a site's own moments."""
        return super().rows_of(x, truth, split, balanced=self.balance_moments and not keyless, **how)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features and all classes, after checking the sites' data."""
        if not self.target:
            raise SettingsError("model='classifier' needs target=, the obs column with the classes")
        self._check_labelled(sites)
        panel, classes = self._agree(sites, self.target)
        types = label_type(self._target_of(adata, site) for site, adata in sites.items())
        return panel | {"classes": classes, "class_type": types}

    def _check_labelled(self, sites: Mapping[str, AnnData | MuData]) -> None:
        """Refuse records without a label, and sites where others have some; and say what takes them."""
        tables = {s: adata if self.modality is None else self._table(adata, s) for s, adata in sites.items()}
        there = [site for site, table in tables.items() if self.target in table.obs]
        for site, table in tables.items():
            try:
                labels = obs_column(table, self.target, where=site, role="target")
            except DataError as error:
                if not there:
                    raise
                raise DataError(
                    f"{error}; or infl.tl.predict labels them after the fit, target=[{self.target!r}] and model='scanvi' take them along"
                ) from None
            check_unmixed(labels, self.target, site)

    def _target_of(self, adata: AnnData | MuData, site: str) -> pd.Series:
        """Return the column of labels, without putting modalities together."""
        return (adata if self.modality is None else self._table(adata, site)).obs[self.target]

    def scaled(self, x: np.ndarray, private: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features as the first layer sees them: by the moments over all sites, where there are such."""
        return np.clip((x - private.get("center", 0.0)) / private.get("scale", 1.0), -10, 10)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Features, some of which a site may lack, and classes."""
        return {"feature": self.inputs(panel), "class": panel["classes"]}

    def held(self, data: LabelledRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Features that were measured, classes that somebody has."""
        assert data.labels is not None
        return {"feature": ~data.x.absent, "class": has_numbers(data.labels.numpy(), len(panel["classes"]))}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums of means and class counts, then of squared deviations from the means; whichever are needed."""
        p, k = len(self.inputs(panel)), len(panel["classes"])
        if self.standardise == "federated":
            return (means(k, p, balance=self.balance), deviations(p))
        return (means(k, None, balance=self.balance),) if self.balance or self.coordinate else ()

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of the latent that a new site is fitted to, temperature scaling, and how sure the model is."""
        k = len(panel["classes"])
        return (
            *super().after(panel),
            *([temperature(), confidences()] if self.calibrate else []),
            *(atlas_sums(k, self.width or k, self._atlas_rows) if self.atlas else ()),
        )

    def _atlas_rows(
        self, module: OnPanel, data: LabelledRows, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return latents, class numbers and distances of rows from the mean of features."""
        labels = np.full(len(index), -1) if data.labels is None else data.labels[index].numpy()
        far = root_mean_squares(data.rows(index), module.center.numpy(), module.scale.numpy())
        z = latents(module, data, index) if self.width else self._logits(module, data, index)
        return z.numpy(), labels, far

    @torch.no_grad()
    def _logits(self, module: OnPanel, data: LabelledRows, index: np.ndarray) -> Tensor:
        """Return the logits of rows, which are the latent of a linear model."""
        return module(torch.from_numpy(data.rows(index))) / module.temperature

    def for_dp(self) -> Classifier:
        """Scale and hold out each sample by itself, and leave class weights and calibration out."""
        self._check_dp()
        return replace(self, standardise="sample", balance=False, calibrate=False, atlas=False, stratify=False)

    def losses_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the class-weighted cross-entropy of each observation."""
        # torch's cross_entropy has no rule for a stack of sites, and goes through a slow substitute there
        likelihood = outputs.log_softmax(-1).gather(-1, truth[:, None]).squeeze(-1)
        return -likelihood * module.class_weight[truth]

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Weighted loss, confusion counts (true × predicted) and calibration bins (count, confidence, correct)."""
        return shapes_of(len(panel["classes"]))

    def sums_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Sums:
        """Return weighted loss, confusion counts and calibration bins."""
        return sums_of_outputs(module, outputs, truth)

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
        if self._own_scale(data, private) and self.balance_moments:
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

    # -- comparing -------------------------------------------------------------------------------------------------
    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return balanced accuracy, macro F1, calibration error, AUROC (one against rest, macro) and logarithmic loss."""
        return scores_of(self._known_numbers(adata, panel), outputs["probability"].astype(np.float64))

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Multinomial logistic regression on pooled, standardised data; its penalty by cross-validation."""
        y, strengths = self._known_numbers(train, panel), (1e-3, 1e-2, 0.1, 1.0)
        x = self._features_of(train, panel)
        model = logistic_regression(x, y, len(panel["classes"]), strengths=strengths, seed=seed)
        return lambda adata: {"probability": model(self._features_of(adata, panel))}

    def _known_numbers(self, adata: AnnData | MuData, panel: Mapping[str, Any]) -> np.ndarray:
        """Return class numbers (n,), −1 where the run does not know the class."""
        labels = obs_column(self._table(adata, "the data"), self.target, where="the data", role="target")
        return pd.Index(panel["classes"], dtype=object).get_indexer(label_text(labels)).astype(np.int64)
