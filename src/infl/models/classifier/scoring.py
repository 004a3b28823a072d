"""How classifiers are judged: sums over observations, and metrics from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from infl.models.labelled import area_under_curve
from infl.models.phenotype.data import LabelledRows
from infl.models.task import Sums
from infl.nn.mlp import OnPanel

N_BINS = 10
"""Bins of the calibration error."""
NAMES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "calibration_error")


def shapes_of(n_classes: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what is summed for a number of classes."""
    return {"weighted_loss": (), "weight": (), "confusion": (n_classes, n_classes), "bins": (N_BINS, 3)}


@torch.no_grad()
def sums_of(module: OnPanel, parts: Sequence[tuple[LabelledRows, np.ndarray]]) -> list[Sums]:
    """Return the sums of several sites, of data and index each; small ones share a pass."""
    class_weight = module.class_weight.double()
    shapes = shapes_of(class_weight.numel())
    sums = [{name: np.zeros(shape) for name, shape in shapes.items()} for _ in parts]
    for piece in _pieces([len(index) for _, index in parts], 2048):
        batches = [parts[number][0].batch(parts[number][1][start:stop]) for number, start, stop in piece]
        y = torch.cat([labels for _, labels in batches])
        arrays = _judged(module(torch.cat([x for x, _ in batches])).double(), y, class_weight)
        at = 0
        for number, start, stop in piece:
            _add(sums[number], [values[at : at + stop - start] for values in arrays])
            at += stop - start
    return sums


@torch.no_grad()
def sums_of_outputs(module: OnPanel, logits: Tensor, y: Tensor) -> Sums:
    """Return the same sums of logits (n, n_classes) and class numbers (n,)."""
    class_weight = module.class_weight.double()
    sums = {name: np.zeros(shape) for name, shape in shapes_of(class_weight.numel()).items()}
    _add(sums, _judged(logits.double(), y, class_weight))
    return sums


def _judged(logits: Tensor, y: Tensor, class_weight: Tensor) -> list[np.ndarray]:
    """Return weighted loss, weight, class and probabilities of each observation."""
    weight = class_weight[y]
    loss = nn.functional.cross_entropy(logits, y, reduction="none") * weight
    return [values.numpy() for values in (loss, weight, y, logits.softmax(1))]


def _add(sums: Sums, judged: Sequence[np.ndarray]) -> None:
    """Add observations to the sums, in place."""
    loss, weight, y, probability = judged
    sums["weighted_loss"] += loss.sum()
    sums["weight"] += weight.sum()
    _count(y, probability, sums["confusion"], sums["bins"])


def metrics_of(sums: Sums) -> dict[str, float]:
    """Return loss, accuracy, balanced accuracy, macro F1 and expected calibration error.

    Examples
    --------
    >>> confusion, bins = np.array([[3.0, 1.0], [0.0, 4.0]]), np.array([[8.0, 7.0, 7.0]])
    >>> sums = {"weighted_loss": np.array(4.0), "weight": np.array(8.0), "confusion": confusion, "bins": bins}
    >>> metrics_of(sums)["balanced_accuracy"], metrics_of(sums)["loss"]
    (0.875, 0.5)
    """
    confusion = sums["confusion"]
    n, hits = confusion.sum(), np.diag(confusion)
    if n == 0:
        return dict.fromkeys(NAMES, np.nan)
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


def scores_of(truth: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return balanced accuracy, macro F1, calibration error, AUROC (one against rest, macro) and logarithmic loss.

    Parameters
    ----------
    truth
        Class numbers (n,); observations with −1 are left out.
    probability
        Of each class (n, n_classes).
    """
    k = probability.shape[1]
    y, p = truth[truth >= 0], probability[truth >= 0]
    confusion, bins = np.zeros((k, k)), np.zeros((N_BINS, 3))
    _count(y, p, confusion, bins)
    one = np.ones(())
    metrics = metrics_of({"confusion": confusion, "bins": bins, "weighted_loss": one, "weight": one})
    one_hot = np.eye(k, dtype=bool)[y]
    both = one_hot.any(0) & ~one_hot.all(0)
    by_class = [area_under_curve(p[:, c], one_hot[:, c]) for c in np.flatnonzero(both)]
    auroc = float(np.mean(by_class)) if by_class else float("nan")
    chosen = {name: metrics[name] for name in ("balanced_accuracy", "macro_f1", "calibration_error")}
    log_loss = -float(np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()) if len(y) else float("nan")
    return chosen | {"auroc": auroc, "log_loss": log_loss}


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
