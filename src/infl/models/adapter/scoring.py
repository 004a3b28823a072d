"""How adapters are judged: confusion counts of each task, and metrics from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from infl.models.adapter.data import Sentences
from infl.models.task import Sums

if TYPE_CHECKING:
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
