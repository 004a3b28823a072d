"""How several columns of labels are judged: each over the records that have it, then the mean over columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from infl.models.classifier.scoring import scores_of as scores_of_one
from infl.models.labels.heads import Head
from infl.models.task import Sums

NAMES = ("loss", "accuracy", "balanced_accuracy")


def losses_of(found: Sequence[Tensor], truth: Tensor, weight: Tensor, heads: Sequence[Head]) -> Tensor:
    """Return the loss (n,) of each record: mean weighted cross-entropy over the columns that have a label for it.

    Parameters
    ----------
    found
        Logarithms of probabilities, of each column.
    truth
        Class numbers (n, n_targets), −1 where there is none.
    weight
        Of the classes of all columns.

    Examples
    --------
    >>> import torch
    >>> from infl.models.labels.heads import heads_of
    >>> heads = heads_of({"tasks": {"er": ["a", "b"], "pr": ["a", "b"]}})
    >>> half = torch.log(torch.full((1, 2), 0.5))
    >>> losses_of([half, half], torch.tensor([[1, -1]]), torch.ones(4), heads)
    tensor([0.6931])
    """
    total: Tensor | float = 0.0
    for number, head in enumerate(heads):
        y = truth[..., number]
        known, place = y >= 0, y.clamp_min(0)
        likelihood = found[number].gather(-1, place[..., None]).squeeze(-1)
        total = total - likelihood * weight[head.places][place] * known
    assert not isinstance(total, float)
    return total / (truth >= 0).sum(-1).clamp_min(1)


def shapes_of(heads: Sequence[Head]) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what is summed."""
    most = max(len(head.classes) for head in heads)
    return {"records": (), "loss": (), "confusion": (len(heads), most, most)}


def sums_of(found: Sequence[np.ndarray], truth: np.ndarray, losses: np.ndarray, heads: Sequence[Head]) -> Sums:
    """Return the sums of probabilities, or their logarithms, and labels: confusion counts (true × predicted) of each column."""
    shapes = shapes_of(heads)
    confusion = np.zeros(shapes["confusion"])
    for number in range(len(heads)):
        known = truth[:, number] >= 0
        np.add.at(confusion[number], (truth[known, number], found[number][known].argmax(-1)), 1)
    return {"records": np.asarray(float(len(truth))), "loss": np.asarray(float(losses.sum())), "confusion": confusion}


def metrics_of(sums: Sums) -> dict[str, float]:
    """Return loss, accuracy and balanced accuracy, means over the columns that somebody has.

    Examples
    --------
    >>> confusion = np.array([[[3.0, 1.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    >>> found = metrics_of({"records": np.array(8.0), "loss": np.array(4.0), "confusion": confusion})
    >>> found["balanced_accuracy"], found["accuracy"], found["loss"]
    (0.6875, 0.6875, 0.5)
    """
    if not sums["records"]:
        return dict.fromkeys(NAMES, np.nan)
    accuracies, balanced = [], []
    for confusion in sums["confusion"]:
        actual, hits = confusion.sum(1), np.diag(confusion)
        if seen := (actual > 0).any():
            accuracies.append(hits.sum() / actual.sum())
            balanced.append(float(np.mean((hits / np.maximum(actual, 1))[actual > 0]))) if seen else None
    return {
        "loss": float(sums["loss"] / sums["records"]),
        "accuracy": float(np.mean(accuracies)) if accuracies else np.nan,
        "balanced_accuracy": float(np.mean(balanced)) if balanced else np.nan,
    }


def scores_of(truth: np.ndarray, probability: np.ndarray, heads: Sequence[Head]) -> dict[str, float]:
    """Return what classifiers are scored by, means over columns, and the balanced accuracy of each.

    Parameters
    ----------
    truth
        Class numbers (n, n_targets), −1 where there is none.
    probability
        Of the classes of all columns (n, n_places).
    """
    each = [scores_of_one(truth[:, i], probability[:, head.places]) for i, head in enumerate(heads)]
    means = {name: _mean([one[name] for one in each]) for name in each[0]}
    of_each = {
        f"balanced_accuracy {head.target}": one["balanced_accuracy"] for head, one in zip(heads, each, strict=True)
    }
    return means | (of_each if len(heads) > 1 else {})


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
