"""How well labels are predicted: cross-entropy and confusion as sums, metrics of labelled cells, and logistic regression beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from infl.models.logistic import logistic_regression
from infl.models.scvi.data import CountRows
from infl.models.scvi.module import CHUNK, latent
from infl.models.task import Sums


@torch.no_grad()
def label_sums(module: Any, data: CountRows, index: np.ndarray) -> Sums:
    """Return cross-entropy and confusion counts (true × predicted) of the labelled ones among the cells `index`."""
    assert data.labels is not None
    k = module.n_labels
    cross_entropy, confusion = 0.0, np.zeros((k, k))
    known = index[data.labels[index, 0].numpy() >= 0]
    for start in range(0, len(known), CHUNK):
        chunk = known[start : start + CHUNK]
        logits, y = module.classifier(latent(module, data, chunk)), data.labels[chunk, 0]
        cross_entropy += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
        np.add.at(confusion, (y.numpy(), logits.argmax(1).numpy()), 1)
    return {"cross_entropy": np.asarray(cross_entropy), "confusion": confusion}


def label_metrics(sums: Sums) -> dict[str, float]:
    """Return mean cross-entropy and balanced accuracy of labelled cells.

    Examples
    --------
    >>> label_metrics({"cross_entropy": np.array(2.0), "confusion": np.array([[1.0, 1.0], [0.0, 2.0]])})
    {'cross_entropy': 0.5, 'balanced_accuracy': 0.75}
    """
    confusion = sums["confusion"]
    n, actual = confusion.sum(), confusion.sum(1)
    recall = np.diag(confusion)[actual > 0] / actual[actual > 0]
    return {
        "cross_entropy": float(sums["cross_entropy"] / n) if n else 0.0,
        "balanced_accuracy": float(recall.mean()) if n else float("nan"),
    }


def label_scores(truth: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return balanced accuracy and macro F1 of the cells whose class number (n,) is not −1."""
    from sklearn.metrics import f1_score, recall_score

    known, guess = truth >= 0, probability.argmax(1)
    if not known.any():
        return {"balanced_accuracy": float("nan"), "macro_f1": float("nan")}
    return {
        "balanced_accuracy": float(
            recall_score(truth[known], guess[known], labels=np.unique(truth[known]), average="macro")
        ),
        "macro_f1": float(f1_score(truth[known], guess[known], average="macro")),
    }


def regression_on_counts(x: np.ndarray, labels: np.ndarray, n_classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Fit labelled rows of log-normalised counts (n, n_features); return what gives the probabilities of other rows."""
    known = np.flatnonzero(labels >= 0)
    return logistic_regression(x[known], labels[known], n_classes, strengths=(0.01,))
