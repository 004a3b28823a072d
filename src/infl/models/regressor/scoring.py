"""How regressors are judged: sums over observations, metrics from them, and intervals that hold as much as they promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from infl.models.task import Sums
from infl.sums import COUNT_SCALE, FederatedSum, SiteView, State

N_RANKS = 16
"""Parts of a target's and of a prediction's range, by which records are counted for a rank correlation."""
CUTS = stats.norm.ppf(np.arange(1, N_RANKS) / N_RANKS)
"""Where parts end, in units of the target's deviation."""
MARGINS = np.linspace(-4.0, 8.0, 601)
"""Candidates for how far an interval is widened, in the same units."""
NAMES = ("loss", "r2", "spearman")

Away = Callable[[Any, Tensor, Tensor], Tensor]
"""Of a module, its outputs and targets (n, n_targets): how far those are from what was predicted."""


def parts(outputs: Tensor, n_targets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return prediction, lower and upper end (…, n_targets) of what the head gives: one number for each target, or three.

    Of three the second and third say how far below and above the median the ends are, so that they never cross.

    Examples
    --------
    >>> [part.tolist() for part in parts(torch.tensor([[1.0, 2.0]]), 2)]
    [[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]]
    """
    middle = outputs[..., :n_targets]
    if outputs.shape[-1] == n_targets:
        return middle, middle, middle
    below, above = outputs[..., n_targets : 2 * n_targets], outputs[..., 2 * n_targets :]
    return middle, middle - nn.functional.softplus(below), middle + nn.functional.softplus(above)


def losses_of(outputs: Tensor, z: Tensor, loss: str, level: float) -> Tensor:
    """Return the loss (n,) of each record: the mean over the targets that it has.

    Parameters
    ----------
    outputs
        Of the head (n, n_targets) or (n, 3 n_targets).
    z
        Targets in standard units (n, n_targets), NaN where not measured.
    loss, level
        Options of the task.

    Examples
    --------
    >>> losses_of(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, torch.nan]]), "gaussian", 0.9).tolist()
    [2.0]
    """
    known = torch.isfinite(z)
    z = torch.where(known, z, torch.zeros_like(z))
    middle, low, high = parts(outputs, z.shape[-1])
    if loss == "quantile":
        ends = ((1 - level) / 2, (1 + level) / 2)
        each = _pinball(z - middle, 0.5) + _pinball(z - low, ends[0]) + _pinball(z - high, ends[1])
    elif loss == "huber":
        each = nn.functional.huber_loss(middle, z, reduction="none")
    else:
        each = (middle - z).square() / 2
    return mean_of_known(each, torch.where(known, z, torch.nan))


def mean_of_known(each: Tensor, targets: Tensor) -> Tensor:
    """Return the mean (n,) over the targets that a record has (n, n_targets), NaN being those that it lacks."""
    known = torch.isfinite(targets)
    return torch.where(known, each, torch.zeros_like(each)).sum(-1) / known.sum(-1).clamp_min(1)


def _pinball(error: Tensor, share: float) -> Tensor:
    return torch.maximum(share * error, (share - 1) * error)


def shapes_of(n_targets: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what is summed, for a number of targets."""
    moments = dict.fromkeys(("known", "error", "y", "yy"), (n_targets,))
    return {"records": (), "loss": ()} | moments | {"ranks": (n_targets, N_RANKS, N_RANKS)}


def sums_of(predicted: np.ndarray, z: np.ndarray, losses: np.ndarray) -> Sums:
    """Return the sums of predictions and targets (n, n_targets) in standard units, and of losses (n,)."""
    known = np.isfinite(z)
    y = np.where(known, z, 0.0)
    error = np.where(known, (predicted - y) ** 2, 0.0)
    ranks = np.zeros((z.shape[1], N_RANKS, N_RANKS))
    rows, columns = np.nonzero(known)
    of_truth, of_guess = (np.searchsorted(CUTS, values[rows, columns]) for values in (y, predicted))
    np.add.at(ranks, (columns, of_truth, of_guess), 1)
    return {
        "records": np.asarray(float(len(z))),
        "loss": np.asarray(losses.sum()),
        "known": known.sum(0).astype(float),
        "error": error.sum(0),
        "y": y.sum(0),
        "yy": (y**2).sum(0),
        "ranks": ranks,
    }


def metrics_of(sums: Sums) -> dict[str, float]:
    """Return loss, R² and rank correlation, the mean over targets.

    Examples
    --------
    >>> sums = sums_of(np.array([[1.0], [2.0], [3.5], [3.5]]), np.array([[1.0], [2.0], [3.0], [4.0]]), np.ones(4))
    >>> metrics_of(sums)["r2"], metrics_of(sums)["loss"]
    (0.9, 1.0)
    """
    if not sums["records"]:
        return dict.fromkeys(NAMES, np.nan)
    n = np.maximum(sums["known"], 1)
    spread = sums["yy"] - sums["y"] ** 2 / n
    judged = (sums["known"] > 1) & (spread > 1e-9)
    r2 = 1 - sums["error"][judged] / spread[judged]
    correlations = [rank_correlation(cells) for cells in sums["ranks"]]
    return {
        "loss": float(sums["loss"] / sums["records"]),
        "r2": float(r2.mean()) if judged.any() else np.nan,
        "spearman": _mean(correlations),
    }


def rank_correlation(cells: np.ndarray) -> float:
    """Return Spearman's correlation of counts (parts, parts), all of one part having one rank; nan if there is one part.

    Examples
    --------
    >>> rank_correlation(np.diag([3.0, 4.0, 5.0])), rank_correlation(np.array([[1.0, 1.0], [1.0, 1.0]]))
    (1.0, 0.0)
    """
    n = cells.sum()
    if not n:
        return float("nan")
    ranks = [np.cumsum(side) - side / 2 - n / 2 for side in (cells.sum(1), cells.sum(0))]
    spread = [float(side @ rank**2) for side, rank in zip((cells.sum(1), cells.sum(0)), ranks, strict=True)]
    return float(ranks[0] @ cells @ ranks[1] / (spread[0] * spread[1]) ** 0.5) if min(spread) > 0 else float("nan")


def scores_of(y: np.ndarray, outputs: Mapping[str, np.ndarray], targets: Sequence[str]) -> dict[str, float]:
    """Return R², rank correlation, root mean squared error and coverage of the intervals: means over targets, R² of each too.

    Parameters
    ----------
    y
        Targets (n, n_targets), NaN where not measured.
    outputs
        ``value`` and, where there are intervals, ``low`` and ``high``, of the same shape.
    targets
        Names.
    """
    found: dict[str, list[float]] = {name: [] for name in ("r2", "spearman", "rmse", "coverage")}
    for number in range(y.shape[1]):
        known = np.isfinite(y[:, number])
        truth, guess = y[known, number], outputs["value"][known, number]
        spread = float(((truth - truth.mean()) ** 2).sum()) if len(truth) else 0.0
        error = float(((truth - guess) ** 2).sum())
        varied = len(truth) > 1 and len(np.unique(truth)) > 1 and len(np.unique(guess)) > 1
        found["r2"].append(1 - error / spread if spread > 0 else np.nan)
        found["spearman"].append(float(stats.spearmanr(truth, guess)[0]) if varied else np.nan)
        found["rmse"].append((error / len(truth)) ** 0.5 if len(truth) else np.nan)
        if "low" in outputs:
            low, high = outputs["low"][known, number], outputs["high"][known, number]
            sure = len(truth) and np.isfinite(low).all()
            found["coverage"].append(float(((low <= truth) & (truth <= high)).mean()) if sure else np.nan)
    of_each = {f"r2 {name}": r2 for name, r2 in zip(targets, found["r2"], strict=True)} if len(targets) > 1 else {}
    return {name: _mean(values) for name, values in found.items() if values} | of_each


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def margin_sum(n_targets: int, level: float, away: Away | None = None) -> FederatedSum:
    """Return the sum by which intervals hold the share `level` of validation records; state: ``margin``, (n_targets,).

    Parameters
    ----------
    n_targets, level
        Of the task.
    away
        How far targets are from what was predicted; None: :func:`outside`.

    Notes
    -----
    Split conformal prediction: an interval is widened by the ⌈(n + 1) level⌉-th smallest distance of a validation record from the
    interval that the network gives, negative inside of it, here rounded up to a grid. With fewer than level / (1 − level) records it
    is the largest distance, which holds somewhat less.
    """
    shape = (n_targets, len(MARGINS) + 1)

    def local(site: SiteView, state: State) -> Sums:
        distance = distances(site.module, site.data, site.data.validation, away or outside)
        cells = np.zeros(shape)
        rows, columns = np.nonzero(np.isfinite(distance))
        np.add.at(cells, (columns, np.searchsorted(MARGINS, distance[rows, columns])), 1)
        return {"distances": cells}

    def combine(total: Sums, state: State) -> State:
        so_far = np.cumsum(total["distances"], 1)
        n = so_far[:, -1:]
        wanted = np.minimum(np.ceil((n + 1) * level), n)
        place = (so_far >= np.maximum(wanted, 1)).argmax(1)
        margin = np.append(MARGINS, np.inf)[place]
        return {**state, "margin": np.where(n[:, 0] > 0, margin, np.nan)}

    return FederatedSum(
        name="margins",
        shapes={"distances": shape},
        local=local,
        combine=combine,
        says="number of validation records by how far they are from what was predicted, to make intervals hold what they promise",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"distances": 1},
    )


@torch.no_grad()
def distances(module: nn.Module, data: object, index: np.ndarray, away: Away) -> np.ndarray:
    """Return how far targets are from what the network gives (n, n_targets)."""
    found = [np.empty((0, module.y_center.numel()))]  # type: ignore[operator]
    for start in range(0, len(index), 2048):
        x, y = data.batch(index[start : start + 2048])  # type: ignore[attr-defined]
        found.append(away(module, module(x), y).numpy())
    return np.concatenate(found)


def outside(module: nn.Module, outputs: Tensor, y: Tensor) -> Tensor:
    """Return how far targets are outside what the network gives (n, n_targets), in standard units; negative inside."""
    z = standard(module, y)
    _, low, high = parts(outputs.double(), z.shape[-1])
    return torch.maximum(low - z, z - high)


def standard(module: nn.Module, y: Tensor) -> Tensor:
    """Return targets in standard units: of the moments over all sites."""
    return (y - module.y_center) / module.y_scale  # type: ignore[operator]
