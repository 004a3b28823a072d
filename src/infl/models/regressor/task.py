"""The protocol of the regressor: targets on one scale, its loss, its intervals, and what is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import Choice, Flag, Kind, Names, Options, Real, Whole
from infl.errors import SettingsError
from infl.models.labelled import write_rows
from infl.models.matrix import FeatureMatrix
from infl.models.phenotype.data import LabelledRows
from infl.models.phenotype.steps import PRIVATE_LR, LinearByDefault
from infl.models.phenotype.task import Phenotype
from infl.models.regressor.counts import check_counts, deviances, distance, ends, rates
from infl.models.regressor.data import (
    MeasuredRows,
    check_inside,
    check_ranges,
    check_spread,
    parts_of,
    target_sums,
    targets_of,
)
from infl.models.regressor.ridge import ridge
from infl.models.regressor.scoring import (
    losses_of,
    margin_sum,
    mean_of_known,
    metrics_of,
    outside,
    parts,
    scores_of,
    shapes_of,
    standard,
    sums_of,
)
from infl.models.task import Predictor, Sums
from infl.nn.mlp import OnPanel
from infl.sums import FederatedSum

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Regressor(LinearByDefault):
    """Predict numbers in ``obs`` from a panel of features, with intervals.

    Parameters
    ----------
    target
        Column of ``obs`` with the numbers, or several. Of several a record may lack some, and a site too; it learns from those
        that it has.
    objective
        ``"gaussian"``: squared error; ``"huber"``: the same up to one standard deviation, and less than that beyond, for targets with
        outliers; ``"quantile"``: a median and the ends of an interval, whose width then depends on the features; ``"counts"``: the
        Poisson deviance of a rate, for whole numbers from 0 on.
    level
        Share of records that an interval holds.
    calibrate
        Widen or narrow the intervals so that they hold that share of the validation records, by split conformal prediction. The rounds
        were chosen on the same records, so new ones may be held a little less often.
    target_range
        By target the lowest and the highest value that it can have, such as ``{"age": (0, 110)}``, known without the data: targets are
        then scaled by it, not by moments over sites. Under differential privacy it must be given.
    width, optimiser, lr, weight_decay, min_steps
        By default a linear model that descends along the gradient by steps of 1, three per round at least, whose end after a few rounds is the
        ridge penalty: the better one of a few hundred records. With a width, such as 64, and for counts, the network of
        :class:`infl.models.Classifier`, trained by AdamW with its step.
    layer, modality, features, validation, stratify, standardise, n_blocks, dropout, coordinate, covariates
        As for :class:`infl.models.Classifier`; validation parts are stratified by quarters of the first target.

    References
    ----------
    Romano, Patterson, Candès, Conformalized quantile regression, NeurIPS 2019.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["first"] = adata.X[:, 0]
    >>> run = infl.tl.fit_federated(sites, "regressor", target="first", rounds=2, progress=False)
    >>> [name for name in sites["site_1"].obs if name.startswith("infl")]
    ['infl_prediction', 'infl_low', 'infl_high']
    """

    name: ClassVar[str] = "regressor"
    headline: ClassVar[str] = "r2"

    target: str | tuple[str, ...] = ""
    objective: Literal["gaussian", "huber", "quantile", "counts"] = "gaussian"
    level: float = 0.9
    calibrate: bool = True
    target_range: dict[str, tuple[float, float]] | None = None
    width: int = None  # type: ignore[assignment]  # a number once it is made

    parameters: ClassVar[dict[str, Kind]] = LinearByDefault.parameters | {
        "target": Names(empty=True, says="the name of one obs column, or several, each of them once"),
        "objective": Choice(("gaussian", "huber", "quantile", "counts")),
        "level": Real(0, 1, open="both"),
        "calibrate": Flag(),
        "target_range": Options(none=True),
        "width": Whole(0, none=True),
    }

    def __post_init__(self) -> None:
        if self.width is None:  # the curvature of a rate has no bound, so no step of descent is short enough
            object.__setattr__(self, "width", Phenotype.width if self.objective == "counts" else 0)
        super().__post_init__()
        if len(self.target) == 1 and not isinstance(self.target, str):
            object.__setattr__(self, "target", self.target[0])
        object.__setattr__(self, "target_range", check_ranges(self.target_range, self.columns))

    @property
    def columns(self) -> tuple[str, ...]:
        """The targets."""
        names = (self.target,) if isinstance(self.target, str) else self.target
        return tuple(name for name in names if name)

    # -- data ------------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features and the targets, after checking the sites' data."""
        if not self.columns:
            raise SettingsError("model='regressor' needs target=, the obs column with the numbers, or several")
        panel, _ = self._agree(sites)
        found = {s: self.truth(self._table(adata, s), panel, s) for s, adata in sites.items()}
        check_inside(found, self.target_range)
        if self.objective == "counts":
            check_counts(found, self.columns)
        check_spread(found, self.columns)
        return panel | {"targets": list(self.columns)}

    def truth(self, table: AnnData, panel: Mapping[str, Any], site: str) -> np.ndarray:
        """Return the targets (n, n_targets), NaN where not measured."""
        return targets_of(table, self.columns, site)

    def strata(self, truth: np.ndarray) -> np.ndarray:
        """Return quarters of the first target."""
        return parts_of(truth)

    def rows_of(
        self,
        x: FeatureMatrix,
        truth: np.ndarray,
        split: tuple[np.ndarray, np.ndarray],
        *,
        keyless: bool = False,
        **how: Any,
    ) -> LabelledRows:
        """Keep the numbers; for somebody without the key in units of these data's own moments."""
        if keyless and self.objective == "counts":
            truth = truth / np.maximum(np.nanmean(truth, 0), 1e-9)
        elif keyless:
            deviation = np.nanstd(truth, 0)
            truth = (truth - np.nanmean(truth, 0)) / np.where(deviation > 0, deviation, 1.0)
        return MeasuredRows(x, torch.from_numpy(truth), *split, **how)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Features, of which a site may lack some, and targets."""
        return {"feature": self.inputs(panel), "target": panel["targets"]}

    def held(self, data: LabelledRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Features that were measured, targets that somebody has."""
        assert data.labels is not None
        return {"feature": ~data.x.absent, "target": np.isfinite(data.labels.numpy()).any(0)}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums that bring features and targets to one scale."""
        return (*self._scales(panel), *(() if self.target_range is not None else target_sums(len(panel["targets"]))))

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sum that calibrates intervals, too."""
        return (
            *super().after(panel),
            *([margin_sum(len(panel["targets"]), self.level, self._distance)] if self.calibrate else []),
        )

    def _distance(self, module: Any, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return how far targets are outside what the network gives (n, n_targets), in units that intervals are widened by."""
        if self.objective == "counts":
            return distance(truth, rates(outputs, module.y_center))
        return outside(module, outputs, truth)

    def for_dp(self) -> Regressor:
        """Scale and hold out each sample by itself, scale targets by their range, and leave calibration out."""
        self._check_dp()
        if self.target_range is None:
            raise SettingsError(
                "model 'regressor' scales targets by moments that have no noise: with privacy= give target_range=, the lowest and "
                "highest value that each can have"
            )
        # noisy gradients are stepped by Adam, for which a step of descent is far too long
        lr = min(self.lr, PRIVATE_LR) if self.optimiser == "sgd" else self.lr
        return replace(self, standardise="sample", calibrate=False, stratify=False, optimiser="adamw", lr=lr)

    # -- model -----------------------------------------------------------------------------------------------------
    def n_outputs(self, panel: Mapping[str, Any]) -> int:
        """One number for each target, or three."""
        return len(panel["targets"]) * (3 if self.objective == "quantile" else 1)

    def named_outputs(self, panel: Mapping[str, Any]) -> Sequence[str]:
        """Predictions are of targets; the ends of intervals come after them."""
        names = list(panel["targets"])
        ends = [f"{name} {end}" for end in ("below", "above") for name in names]
        return [*names, *ends] if self.objective == "quantile" else names

    def build(self, panel: Mapping[str, Any]) -> OnPanel:
        """Return a fresh network that keeps the targets' scale, and how far intervals are widened."""
        module, k = super().build(panel), len(panel["targets"])
        ranges = np.array(
            [(-1.0, 1.0)] * k if self.target_range is None else [*self.target_range.values()], dtype=float
        )
        known, counted = self.target_range is not None, self.objective == "counts"
        center = ranges.mean(1) if known or not counted else np.ones(k)
        scale = (ranges[:, 1] - ranges[:, 0]) / 4 if known else np.ones(k)  # a normal target's range is four deviations
        margin = 0.0 if self.objective == "quantile" else np.nan
        for name, value in {"y_center": center, "y_scale": scale, "margin": np.full(k, margin)}.items():
            module.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)
        return module

    def losses_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of each observation, in standard units."""
        if self.objective == "counts":
            known, center = torch.nan_to_num(truth, nan=0.0), cast("Tensor", module.y_center)  # a gap has no gradient
            return mean_of_known(deviances(outputs, known, center), truth)
        return losses_of(outputs, standard(module, truth).to(outputs.dtype), self.objective, self.level)

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Loss, squared errors, moments of the targets, and counts by parts of truth and prediction."""
        return shapes_of(len(panel["targets"]))

    @torch.no_grad()
    def sums_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Sums:
        """Return sums of predictions against the targets, in standard units."""
        z = standard(module, truth)
        middle = parts(outputs, z.shape[-1])[0]
        if self.objective == "counts":
            middle = standard(module, rates(outputs, cast("Tensor", module.y_center)))
        return sums_of(middle.numpy(), z.numpy(), self.losses_of(module, outputs, truth).double().numpy())

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return loss, R² and rank correlation, means over targets."""
        return metrics_of(sums)

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: OnPanel, data: LabelledRows, private: Sums) -> dict[str, np.ndarray]:
        """Return predictions and intervals (n, n_targets) in the targets' units, and the latent; a linear model's are its outputs."""
        self._own_scale(data, private)
        center, scale, margin = (getattr(module, name) for name in ("y_center", "y_scale", "margin"))
        found: list[tuple[Tensor, ...]] = []
        for chunk in data.x.chunks():
            z = module.latent(torch.from_numpy(data.rows(chunk)))
            outputs = module.head(z)
            latent = z if self.width else outputs
            if self.objective == "counts":
                rate = rates(outputs, center)
                found.append((rate, *ends(rate, margin), latent))
                continue
            middle, low, high = (part.double() for part in parts(outputs, len(center)))
            interval = torch.minimum(low - margin, middle), torch.maximum(high + margin, middle)
            found.append((*(part * scale + center for part in (middle, *interval)), latent))
        names = ("value", "low", "high", "latent")
        return {name: torch.cat(values).numpy() for name, values in zip(names, zip(*found, strict=True), strict=True)}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write prediction, lower and upper end into ``obs``, and ``obsm["X_" + key_added]``.

        Columns are ``infl_prediction``, ``infl_low``, ``infl_high``; of several targets ``infl_prediction_age`` and so on. In a
        ``MuData``, observations without the modality get missing values.
        """
        names = self._table(adata, "data").obs_names
        for kind, values in {"prediction": "value", "low": "low", "high": "high"}.items():
            for number, target in enumerate(panel["targets"]):
                column = f"{key_added}_{kind}" + (f"_{target}" if len(panel["targets"]) > 1 else "")
                adata.obs[column] = pd.Series(outputs[values][:, number], index=names).reindex(adata.obs_names)
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)

    # -- comparing -------------------------------------------------------------------------------------------------
    def chance(self, panel: Mapping[str, Any]) -> float:
        """The mean explains nothing."""
        return 0.0

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return R², rank correlation, root mean squared error and coverage of the intervals: means over targets."""
        return scores_of(self._truth_of(adata, panel), outputs, panel["targets"])

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Ridge regression on pooled, standardised data; its penalty by generalised cross-validation."""
        predict = ridge(self._features_of(train, panel), self._truth_of(train, panel))
        return lambda adata: {"value": predict(self._features_of(adata, panel))}
