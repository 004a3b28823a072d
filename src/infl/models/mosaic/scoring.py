"""How well the mosaic predicts: errors as sums over spots, correlation with what was measured, and ridge regression beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infl.models.mosaic.data import FEWEST_PAIRED
from infl.models.mosaic.spots import MosaicSpots, Part
from infl.nn.mosaic import MosaicNet


def prediction_errors(
    net: MosaicNet, batch: Mapping[int, Part], *, align: float, masked: float
) -> Iterator[tuple[int, int, int, Tensor]]:
    """Yield source, target, number of spots and error of each prediction that a batch allows.

    Parameters
    ----------
    net
        The encoders and decoders.
    batch
        Each modality's share of some spots.
    align
        Weight of the distance between the latents of a spot's modalities.
    masked
        Share of the features that an encoder does not see in training, where there are no neighbours.
    """
    targets = {m: part.target() for m, part in batch.items()}
    latents = {m: net.encode(part.near(), m) for m, part in batch.items()} if len(batch) > 1 else {}
    for m, part in batch.items():
        if not len(part.at):
            continue
        around = part.around()
        if part.alone and net.training:
            around = nn.functional.dropout(around, masked)
        yield m, m, len(part.at), _error(net.decode(net.encode(around, m), m), targets[m], part.binary)
        for o, other in batch.items():
            _, here, there = np.intersect1d(part.at, other.at, assume_unique=True, return_indices=True)
            if o != m and len(here):
                apart = (latents[m][here] - latents[o][there]).square().mean()
                error = _error(net.decode(latents[m][here], o), targets[o][there], other.binary)
                yield m, o, len(here), error + align / 2 * apart


def _error(predicted: Tensor, target: Tensor, binary: bool) -> Tensor:
    if binary:
        return nn.functional.binary_cross_entropy_with_logits(predicted, target)
    return (predicted - target).square().mean()


@torch.no_grad()
def error_sums(
    net: MosaicNet, data: MosaicSpots, index: np.ndarray, *, align: float, masked: float
) -> dict[str, np.ndarray]:
    """Return numbers and summed errors of predictions of the spots `index`, from modality (rows) to modality (columns)."""
    m = len(net.encoders)
    sums = {"n": np.zeros((m, m)), "error": np.zeros((m, m))}
    for start in range(0, len(index), 2048):
        batch = data.batch(index[start : start + 2048])
        for source, to, n, error in prediction_errors(net, batch, align=align, masked=masked):
            sums["n"][source, to] += n
            sums["error"][source, to] += n * float(error)
    return sums


def mean_errors(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean errors: all (``loss``), from neighbours (``denoising``) and between modalities (``imputation``)."""
    known = sums["n"] > 0
    error = np.where(known, sums["error"] / np.maximum(sums["n"], 1), 0.0)
    own = np.eye(len(known), dtype=bool)
    parts = {"denoising": known & own, "imputation": known & ~own}
    means = {name: float(error[of].mean()) if of.any() else float("nan") for name, of in parts.items()}
    return {"loss": float(error.sum()) if known.any() else float("nan"), **means}


def correlations_within_sites(
    data: MosaicSpots, outputs: Mapping[str, np.ndarray], site: np.ndarray, modalities: Sequence[str]
) -> dict[str, float]:
    """Return how predictions go with what was measured: over all modalities (``pearson``), then for each of them.

    Parameters
    ----------
    data
        What was measured.
    outputs
        ``predicted_<number>`` (n_obs, n_features) by the number of the modality.
    site
        Each spot's site (n_obs,): between sites a batch effect is no error of a prediction.
    modalities
        Their names.
    """
    found: dict[str, list[float]] = {m: [] for m in modalities}
    for m, modality in enumerate(modalities):
        if m not in data.measured:
            continue
        rows, target = data.measured[m].rows, data.measured[m].target
        predicted = outputs[f"predicted_{m}"][rows]
        known = np.isfinite(predicted).all(1)
        for name in np.unique(site[rows[known]]):
            own = known & (site[rows] == name)
            if own.sum() > 2:
                found[modality].append(float(np.mean(_correlations(predicted[own], target[own]))))
    means = {m: float(np.mean(values)) if values else float("nan") for m, values in found.items()}
    known_means = [value for value in means.values() if not np.isnan(value)]
    overall = float(np.mean(known_means)) if known_means else float("nan")
    return {"pearson": overall, **{f"pearson_{m}" if m else "pearson_values": v for m, v in means.items()}}


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each column of two matrices (n, p) → (p,); 0 where one is constant."""
    a, b = (x - x.mean(0) for x in (a.astype(np.float64), b.astype(np.float64)))
    size = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    return np.where(size > 0, (a * b).sum(0) / np.where(size > 0, size, 1), 0.0)


def ridge_between_modalities(
    data: MosaicSpots, n_features: Sequence[int]
) -> Callable[[MosaicSpots], dict[str, np.ndarray]]:
    """Fit each modality to each other one by ridge regression; return what predicts the modalities of other spots."""
    from sklearn.linear_model import RidgeCV

    models: dict[tuple[int, int], Any] = {}
    for source, given in data.measured.items():
        for to, wanted in data.measured.items():
            _, here, there = np.intersect1d(given.rows, wanted.rows, return_indices=True)
            if source != to and len(here) >= FEWEST_PAIRED:
                models[source, to] = RidgeCV(np.logspace(-1, 6, 15)).fit(given.x[here], wanted.target[there])

    def predict(new: MosaicSpots) -> dict[str, np.ndarray]:
        outputs = {}
        for to, p in enumerate(n_features):
            total, number = np.zeros((new.n_obs, p)), np.zeros((new.n_obs, 1))
            for source, given in new.measured.items():
                if (source, to) in models:
                    total[given.rows] += models[source, to].predict(given.x)
                    number[given.rows] += 1
            outputs[f"predicted_{to}"] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
        return outputs

    return predict
