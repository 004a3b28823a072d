"""Classification of samples or cells: residual MLP, federated standardisation, calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from infl._parameters import COLUMN, LAYER, MODALITY, SHARE, Choice, Flag, Kind, Whole
from infl.data.labels import TEXT, class_numbers, label_text, label_type
from infl.errors import DataError, SettingsError
from infl.models.labelled import (
    FUSED,
    LabelledRows,
    Scale,
    area_under_curve,
    fused,
    has_numbers,
    split_rows,
    stratified_split,
    with_column,
    write_classes,
    write_rows,
)
from infl.models.logistic import logistic_regression
from infl.models.matrix import FeatureMatrix
from infl.models.task import Predictor, Sums, Task
from infl.nn.mlp import LinearClassifier, OnPanel, ResidualMLP
from infl.sums import FederatedSum, SiteView, State
from infl.sums.standardise import deviations, means
from infl.sums.temperature import temperature

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.data.check import Features

BALANCE_STEPS = 10
ADAPT_STEPS, ADAPT_LR, ADAPT_RIDGE = 100, 0.01, 0.1
"""Of the estimate of a new site's coordinate: Adam steps, their size, and the pull towards 0."""
N_BINS = 10
"""Bins of the calibration error."""


@dataclass(frozen=True)
class Classifier(Task):
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
        _check_overlap({site: np.asarray(has) for site, has in panel.present.items()})
        return {
            "features": list(panel.features),
            "classes": list(panel.classes),
            "class_type": label_type(self._target_of(adata, site) for site, adata in sites.items()),
            "units": ["any"] if self.standardise == "rank" else list(panel.units),
        }

    def _table(self, adata: AnnData | MuData, site: str) -> AnnData:
        from infl.data.check import tables

        if not hasattr(adata, "mod"):
            return adata
        modalities = tables(adata, site)
        if self.modality is None:
            return fused(adata, self.layer)
        if self.modality not in modalities:
            raise DataError(
                f"{site} has no modality {self.modality!r}: choose one of {', '.join(map(repr, modalities))}, "
                "or modality=None for all of them together"
            )
        table = modalities[self.modality]
        if self.target in adata.obs and self.target not in table.obs:
            return with_column(table, self.target, adata.obs[self.target])
        return table

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
        own_scale: Scale = "none"
        if self.standardise == "site" or (keyless and self.standardise == "federated"):
            own_scale = "site"
        elif self.standardise in ("sample", "rank"):
            own_scale = self.standardise
        if rng is None:
            everything = np.arange(table.n_obs)
            return LabelledRows(x, None, everything, everything[:0], standardise=own_scale)
        labels = class_numbers(self._labels(table, site), panel["classes"], self.target, site)
        train, validation = split_rows(table.obs_names, labels, self.validation, rng, stratify=self.stratify)
        balanced = self.balance_moments and not keyless
        return LabelledRows(x, torch.from_numpy(labels), train, validation, standardise=own_scale, balanced=balanced)

    def _target_of(self, adata: AnnData | MuData, site: str) -> pd.Series:
        """Return the column of labels, without putting modalities together."""
        return (adata if self.modality is None else self._table(adata, site)).obs[self.target]

    def _labels(self, table: AnnData, site: str) -> pd.Series:
        from infl.data.columns import obs_column

        return obs_column(table, self.target, where=site, role="target")

    def _matrix(self, table: AnnData, panel: Mapping[str, Any], site: str, *, masked: bool = False) -> FeatureMatrix:
        layer = None if FUSED in table.uns else self.layer
        masked = masked or self.features == "union" or FUSED in table.uns
        return FeatureMatrix(table, panel["features"], layer=layer, site=site, masked=masked)

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
        return (*([self._latent_moments()] if self.coordinate else []), *([temperature()] if self.calibrate else []))

    def _latent_moments(self) -> FederatedSum:
        def local(site: SiteView, state: State) -> Sums:
            z = latents(site.module, site.data, site.data.train).double()
            n = np.asarray(float(len(z)))  # once more: a site that was counted may be away now
            return {"latent_n": n, "latent_sum": z.sum(0).numpy(), "latent_square": (z**2).sum(0).numpy()}

        def combine(total: Sums, state: State) -> State:
            n = float(total["latent_n"])
            return {**state, **{name: total[name] / n for name in ("latent_sum", "latent_square")}}

        return FederatedSum(
            name="latent",
            shapes={"latent_n": (), "latent_sum": (self.width,), "latent_square": (self.width,)},
            local=local,
            combine=combine,
            says="sums and sums of squares of the values that the model gives to records",
            records=lambda site, state: len(site.data.train),
            sensitivity={"latent_n": 1},
        )

    def privately(self) -> Classifier:
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

    def keep(self, data: LabelledRows) -> Sums:
        """Return the site's own moments, where features are scaled by them."""
        if data.standardise not in ("site", "rank"):
            return {}
        center, scale = data.own_moments
        return {"own_center": center, "own_scale": scale}

    def adapt(self, module: nn.Module, data: LabelledRows, private: Sums) -> None:
        """Move the coordinate until mean and deviation of the latent are those of the sites of the fit."""
        net = cast(ResidualMLP, module)
        if net.site is None or "latent_sum" not in private:
            return
        mean, square = (torch.from_numpy(private[k]).float() for k in ("latent_sum", "latent_square"))
        deviation = (square - mean**2).clamp_min(0).sqrt()
        index = np.arange(data.x.shape[0])
        x = torch.from_numpy(
            data.rows(index if len(index) <= 4096 else np.linspace(0, len(index) - 1, 4096).astype(int))
        )
        optimiser = torch.optim.Adam([net.site], lr=ADAPT_LR)
        with torch.enable_grad():
            for _ in range(ADAPT_STEPS):
                z = net.latent(x)
                distance = ((z.mean(0) - mean) ** 2).mean() + ((z.std(0, correction=0) - deviation) ** 2).mean()
                optimiser.zero_grad()
                (distance + ADAPT_RIDGE * (net.site**2).sum()).backward()
                optimiser.step()

    def configure(self, module: nn.Module, private: Sums) -> None:
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

    def losses(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the class-weighted cross-entropy of each observation."""
        x, y = batch
        # torch's cross_entropy has no rule for a stack of sites, and goes through a slow substitute there
        likelihood = module(x).log_softmax(-1).gather(-1, y[:, None]).squeeze(-1)
        return -likelihood * cast(OnPanel, module).class_weight[y]

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Weighted loss, confusion counts (true × predicted) and calibration bins (count, confidence, correct)."""
        k = len(panel["classes"])
        return {"weighted_loss": (), "weight": (), "confusion": (k, k), "bins": (N_BINS, 3)}

    def evaluate(self, module: nn.Module, data: LabelledRows, index: np.ndarray) -> Sums:
        """Return sums over the observations `index`."""
        return self.evaluate_each(module, [(data, index)])[0]

    @torch.no_grad()
    def evaluate_each(self, module: nn.Module, parts: Sequence[tuple[LabelledRows, np.ndarray]]) -> list[Sums]:
        """Return the sums of several sites; small ones share a pass."""
        class_weight = cast(OnPanel, module).class_weight.double()
        k = class_weight.numel()
        shapes = {"weighted_loss": (), "weight": (), "confusion": (k, k), "bins": (N_BINS, 3)}
        sums = [{name: np.zeros(shape) for name, shape in shapes.items()} for _ in parts]
        for piece in _pieces([len(index) for _, index in parts], 2048):
            batches = [parts[number][0].batch(parts[number][1][start:stop]) for number, start, stop in piece]
            y = torch.cat([labels for _, labels in batches])
            logits = module(torch.cat([x for x, _ in batches])).double()
            weight = class_weight[y]
            loss = nn.functional.cross_entropy(logits, y, reduction="none") * weight
            arrays = [t.numpy() for t in (loss, weight, y, logits.softmax(1))]
            at = 0
            for number, start, stop in piece:
                of_site, own = sums[number], slice(at, at := at + stop - start)
                of_site["weighted_loss"] += arrays[0][own].sum()
                of_site["weight"] += arrays[1][own].sum()
                _count(arrays[2][own], arrays[3][own], of_site["confusion"], of_site["bins"])
        return sums

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return loss, accuracy, balanced accuracy, macro F1 and expected calibration error."""
        confusion = sums["confusion"]
        n, hits = confusion.sum(), np.diag(confusion)
        if n == 0:
            return dict.fromkeys(("loss", "accuracy", "balanced_accuracy", "macro_f1", "calibration_error"), np.nan)
        actual, called = confusion.sum(1), confusion.sum(0)
        seen = actual > 0
        f1 = 2 * hits / np.maximum(actual + called, 1)
        count, confidence, correct = sums["bins"].T
        return {
            "loss": float(sums["weighted_loss"] / sums["weight"]),
            "accuracy": float(hits.sum() / n),
            "balanced_accuracy": float((hits[seen] / actual[seen]).mean()),
            "macro_f1": float(f1[seen].mean()),
            "calibration_error": float(np.abs(confidence - correct).sum() / count.sum()),
        }

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: nn.Module, data: LabelledRows, private: Sums) -> dict[str, np.ndarray]:
        """Return calibrated probabilities (n, classes) and the latent (n, width); a linear model's are its logits."""
        net, n_obs = cast(OnPanel, module), data.x.shape[0]
        if self.standardise in ("site", "rank"):
            if "own_center" in private:
                data.own_moments = (private["own_center"], private["own_scale"])
            elif self.balance_moments:
                balance_moments(net, data)
        probability = torch.empty(n_obs, net.head.out_features)  # not put together from parts: both would be in memory
        latent = torch.empty(n_obs, self.width or net.head.out_features)
        for chunk in data.x.chunks():
            z = net.latent(torch.from_numpy(data.rows(chunk)))
            logits = net.head(z) / net.temperature
            probability[chunk] = logits.softmax(1)
            latent[chunk] = z if self.width else logits
        return {"probability": probability.numpy(), "latent": latent.numpy()}

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
        labels = pd.Categorical(label_text(self._labels(table, "the data"))).codes.astype(np.int64)
        _, test = stratified_split(labels, share, rng)
        return np.asarray(adata.obs_names.isin(table.obs_names[test]))

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return balanced accuracy, macro F1, calibration error, AUROC (one against rest, macro) and logarithmic loss."""
        k, probability = len(panel["classes"]), outputs["probability"].astype(np.float64)
        labels = label_text(self._labels(self._table(adata, "the data"), "the data"))
        truth = pd.Index(panel["classes"], dtype=object).get_indexer(labels)
        known = truth >= 0
        y, p = truth[known], probability[known]
        confusion, bins = np.zeros((k, k)), np.zeros((N_BINS, 3))
        _count(y, p, confusion, bins)
        metrics = self.summarise({"confusion": confusion, "bins": bins, "weighted_loss": 0.0, "weight": 1.0})  # type: ignore[dict-item]
        one_hot = np.eye(k, dtype=bool)[y]
        both = one_hot.any(0) & ~one_hot.all(0)
        by_class = [area_under_curve(p[:, c], one_hot[:, c]) for c in np.flatnonzero(both)]
        auroc = float(np.mean(by_class)) if by_class else float("nan")
        chosen = {name: metrics[name] for name in ("balanced_accuracy", "macro_f1", "calibration_error")}
        log_loss = -float(np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()) if len(y) else float("nan")
        return chosen | {"auroc": auroc, "log_loss": log_loss}

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Multinomial logistic regression on pooled, standardised data; its penalty by cross-validation."""

        def features(adata: AnnData | MuData) -> np.ndarray:
            return self._matrix(self._table(adata, "the data"), panel, "the data").rows(slice(None))

        labels = label_text(self._labels(self._table(train, "the data"), "the data"))
        y = pd.Index(panel["classes"], dtype=object).get_indexer(labels).astype(np.int64)
        strengths = (1e-3, 1e-2, 0.1, 1.0)
        model = logistic_regression(features(train), y, len(panel["classes"]), strengths=strengths, seed=seed)
        return lambda adata: {"probability": model(features(adata))}


@torch.no_grad()
def balance_moments(module: nn.Module, data: LabelledRows) -> None:
    """Weight the moments of unlabelled data so that the classes that the model sees in them count alike.

    At the sites of the fit the labels do that. Here the weights and the model's posteriors are found in turn, as in
    expectation maximisation; a class with less than half an observation has no part.
    """
    for _ in range(BALANCE_STEPS):
        posterior = torch.cat([module(torch.from_numpy(data.rows(chunk))) for chunk in data.x.chunks()]).softmax(1)
        of_class = posterior.sum(0)  # (classes,)
        shares = posterior / of_class.clamp_min(1e-9)
        data.own_moments = data.moments(shares[:, of_class > 0.5].sum(1).double().numpy())


@torch.no_grad()
def latents(module: nn.Module, data: LabelledRows, index: np.ndarray) -> Tensor:
    """Return the latent of the rows `index` (n_rows, width)."""
    net = cast(OnPanel, module)
    blocks = np.array_split(index, max(1, -(-len(index) // 2048)))
    return torch.cat([net.latent(torch.from_numpy(data.rows(block))) for block in blocks])


def _check_overlap(present: Mapping[str, np.ndarray]) -> None:
    """Refuse a site that shares no feature with any other: nothing that it learned would help them, or they it."""
    for site, has in present.items():
        others = [other for name, other in present.items() if name != site]
        if others and not (has & np.any(others, axis=0)).any():
            raise DataError(
                f"{site} has no feature in common with any other site, so it would train a model of its own: "
                "harmonise the names (infl.pp.harmonise), or leave it out"
            )


def _pieces(sizes: Sequence[int], most: int) -> list[list[tuple[int, int, int]]]:
    """Cut parts (number, start, stop) and gather them, so that each group has about `most` rows.

    Examples
    --------
    >>> _pieces([3, 2, 9], 5)
    [[(0, 0, 3), (1, 0, 2)], [(2, 0, 5)], [(2, 5, 9)]]
    """
    groups: list[list[tuple[int, int, int]]] = []
    room = 0
    for number, size in enumerate(sizes):
        for start in range(0, size, most):
            stop = min(start + most, size)
            if room < stop - start:
                groups, room = [*groups, []], most
            groups[-1].append((number, start, stop))
            room -= stop - start
    return groups


def _count(y: np.ndarray, probability: np.ndarray, confusion: np.ndarray, bins: np.ndarray) -> None:
    """Add samples to confusion counts (true × predicted) and calibration bins, in place."""
    predicted, confidence = probability.argmax(1), probability.max(1)
    np.add.at(confusion, (y, predicted), 1)
    rows = np.stack([np.ones(len(y)), confidence, predicted == y], 1)
    np.add.at(bins, np.minimum((np.nan_to_num(confidence) * N_BINS).astype(int), N_BINS - 1), rows)
