"""How adapters are judged: confusion counts of each task, and metrics from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from infl.models.adapter.data import Sentences, labels_of
from infl.models.logistic import logistic_regression
from infl.models.matrix import FeatureMatrix
from infl.models.task import Predictor, Sums

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.models.adapter.net import AdaptedNet


@torch.no_grad()
def sums_of(module: AdaptedNet, tasks: Sequence[str], data: Sentences, index: np.ndarray) -> Sums:
    """Return summed loss and confusion counts (true × predicted) of each task over the observations `index`."""
    sums = {"loss": np.zeros(())}
    for task, k in zip(tasks, module.n_classes, strict=True):
        sums[f"confusion.{task}"] = np.zeros((k, k))
    for start in range(0, len(index), 256):
        ids, mask, labels = data.batch(index[start : start + 256])
        for task, logits, y in zip(tasks, module(ids, mask), labels.T, strict=True):
            sums["loss"] += float(F.cross_entropy(logits.double(), y, ignore_index=-1, reduction="sum"))
            known = (y >= 0).numpy()
            np.add.at(sums[f"confusion.{task}"], (y.numpy()[known], logits.argmax(1).numpy()[known]), 1)
    return sums


@torch.no_grad()
def outputs_of(module: AdaptedNet, tasks: Sequence[str], data: Sentences) -> dict[str, np.ndarray]:
    """Return each task's probabilities (n, classes) and the latent (n, width)."""
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(data.ids), 256):
        ids, mask, _ = data.batch(np.arange(start, min(start + 256, len(data.ids))))
        z = module.latent(ids, mask)
        probability = [head(z).softmax(1).numpy() for head in module.heads]
        parts.append({"latent": z.numpy(), **dict(zip(tasks, probability, strict=True))})
    outputs = {f"probability.{task}": np.concatenate([p[task] for p in parts]) for task in tasks}
    return {**outputs, "latent": np.concatenate([p["latent"] for p in parts])}


def sums_of_outputs(
    adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], tasks: Mapping[str, Sequence[str]]
) -> Sums:
    """Return confusion counts (true × predicted) of each task, from its probabilities and the classes in its order."""
    sums: Sums = {"loss": np.zeros(())}
    for task, classes in tasks.items():
        confusion = sums[f"confusion.{task}"] = np.zeros((len(classes),) * 2)
        if task in adata.obs and f"probability.{task}" in outputs:
            y = pd.Categorical(labels_of(adata, task), categories=classes).codes
            np.add.at(confusion, (y[y >= 0], outputs[f"probability.{task}"].argmax(1)[y >= 0]), 1)
    return sums


def metrics_of(sums: Sums, tasks: Sequence[str]) -> dict[str, float]:
    """Return loss, mean accuracy and mean balanced accuracy over tasks, and each task's accuracy."""
    confusions = {task: sums[f"confusion.{task}"] for task in tasks}
    judged = sum(confusion.sum() for confusion in confusions.values())
    scores = {task: _scores(confusion) for task, confusion in confusions.items()}
    seen = [s for s in scores.values() if not np.isnan(s[0])]
    mean = np.mean(seen, axis=0) if seen else (np.nan, np.nan)
    return {
        "loss": float(sums["loss"] / judged) if judged else np.nan,
        "mean_accuracy": float(mean[0]),
        "mean_balanced_accuracy": float(mean[1]),
        **{f"accuracy_{task}": score[0] for task, score in scores.items()},
    }


def _scores(confusion: np.ndarray) -> tuple[float, float]:
    """Return accuracy and balanced accuracy of confusion counts."""
    actual, hits = confusion.sum(1), np.diag(confusion)
    if not actual.any():
        return float("nan"), float("nan")
    seen = actual > 0
    return float(hits.sum() / actual.sum()), float((hits[seen] / actual[seen]).mean())


def logistic_baseline(
    train: AnnData | MuData, tasks: Mapping[str, Sequence[str]], names: Sequence[str], layer: str | None
) -> Predictor:
    """Return probabilities by multinomial logistic regression on pooled, standardised data, one for each task."""

    def features(adata: AnnData | MuData) -> np.ndarray:
        return FeatureMatrix(adata, names, layer=layer, site="the data").rows(slice(None))

    x, fitted = features(train), {}
    for task, classes in tasks.items():
        y = pd.Categorical(labels_of(train, task), categories=classes).codes.astype(np.int64)
        fitted[task] = logistic_regression(x[y >= 0], y[y >= 0], len(classes), balanced=False)

    def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
        x = features(adata)
        return {f"probability.{task}": model(x) for task, model in fitted.items()}

    return predict
