"""Loss and judgement of hazards in bins of time: sums over observations, concordance from counts, and Brier scores.

References
----------
Graf et al., Assessment and comparison of prognostic classification schemes for survival data, Statistics in Medicine 1999.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from infl.models.survival.data import still_observed
from infl.models.task import Sums
from infl.sums.concordance import concordance_of, concordance_of_pairs, ordered_pairs

CUTS = np.linspace(-3.0, 3.0, 31)
"""Where parts of the risk end by which records are counted: logarithms of a ratio to the mean hazard."""
NAMES = ("loss", "concordance", "integrated_brier")


def bins_of(module: nn.Module, truth: Tensor) -> Tensor:
    """Return the bin in which each record leaves (n,); the last one has no end."""
    ends: Tensor = module.ends  # type: ignore[assignment]
    last = torch.isfinite(ends).sum().clamp_min(1) - 1
    return torch.minimum((truth[:, :1] > ends).sum(-1), last)


def log_odds(module: nn.Module, outputs: Tensor) -> Tensor:
    """Return the logarithm of the odds of an event in each bin, given that it was reached (n, n_bins)."""
    base: Tensor = module.base  # type: ignore[assignment]
    return outputs + base.to(outputs.dtype)


def losses_of(module: nn.Module, outputs: Tensor, truth: Tensor) -> Tensor:
    """Return the negative log-likelihood of each record (n,).

    Who leaves without an event counts as having survived the bins before.
    """
    logits = log_odds(module, outputs)
    number = torch.arange(logits.shape[-1])
    at = bins_of(module, truth)[:, None]
    survived = nn.functional.softplus(logits) * (number < at)
    died = nn.functional.softplus(-logits) * (number == at) * truth[:, 1:].to(logits.dtype)
    return (survived + died).sum(-1)


def survival_of(module: nn.Module, outputs: Tensor) -> Tensor:
    """Return the chance to be without an event at the end of each bin (n, n_bins)."""
    return (-nn.functional.softplus(log_odds(module, outputs))).cumsum(-1).exp()


def risk_of(module: nn.Module, outputs: Tensor) -> Tensor:
    """Return the logarithm of the cumulative hazard over all bins, less that of a record of mean hazards (n,)."""
    used = torch.isfinite(module.ends)  # type: ignore[arg-type]
    used = used if used.any() else ~used

    def total(logits: Tensor) -> Tensor:
        return (nn.functional.softplus(logits) * used).sum(-1).clamp_min(1e-12).log()

    logits = log_odds(module, outputs)
    return total(logits) - total(log_odds(module, torch.zeros_like(outputs)))


def shapes_of(n_bins: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what is summed, for a number of bins."""
    return {"records": (), "loss": (), "cells": (2, len(CUTS) + 1, n_bins), "brier": (2, n_bins)}


def sums_of(module: nn.Module, outputs: Tensor, truth: Tensor) -> Sums:
    """Return the sums of outputs of the head and times and events (n, 2)."""
    at, event = bins_of(module, truth).numpy(), truth[:, 1].numpy().astype(int)
    risk, survival = (of(module, outputs).numpy() for of in (risk_of, survival_of))
    censor = module.censor.numpy()  # type: ignore[operator]
    cells = np.zeros((2, len(CUTS) + 1, survival.shape[1]))
    np.add.at(cells, (event, np.searchsorted(CUTS, np.nan_to_num(risk)), at), 1)
    return {
        "records": np.asarray(float(len(at))),
        "loss": np.asarray(float(losses_of(module, outputs, truth).sum())),
        "cells": cells,
        "brier": brier_parts(survival, at, event == 1, censor),
    }


def brier_parts(survival: np.ndarray, at: np.ndarray, event: np.ndarray, censor: np.ndarray) -> np.ndarray:
    """Return weighted squared errors at the end of each bin, and the weights (2, n_bins).

    Who left without an event before an end has no part in it; the others count for them.

    Examples
    --------
    >>> survival = np.array([[0.0], [1.0]])  # certain, and right: the first dies in the bin, the second does not
    >>> brier_parts(survival, np.array([0, 1]), np.array([True, True]), np.array([1.0])).tolist()
    [[0.0], [2.0]]
    """
    before = np.append(1.0, censor)[at]  # still observed where the bin began
    number = np.arange(survival.shape[1])
    died = event[:, None] & (at[:, None] <= number)
    alive = at[:, None] > number
    weight = died / np.maximum(before, 1e-3)[:, None] + alive / np.maximum(censor, 1e-3)
    return np.stack([(weight * (alive - survival) ** 2).sum(0), weight.sum(0)])


def metrics_of(sums: Sums) -> dict[str, float]:
    """Return loss, concordance and the Brier score, its mean over bins but the last, which has no end."""
    if not sums["records"]:
        return dict.fromkeys(NAMES, np.nan)
    last = int(np.flatnonzero(sums["cells"].sum((0, 1)))[-1])
    error, weight = sums["brier"][:, : max(last, 1)]
    judged = weight > 0
    return {
        "loss": float(sums["loss"] / sums["records"]),
        "concordance": concordance_of(sums["cells"])[0],
        "integrated_brier": float((error[judged] / weight[judged]).mean()) if judged.any() else np.nan,
    }


def scores_of(truth: np.ndarray, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the concordance, of pairs counted one by one, and the Brier score, its mean over bins.

    Parameters
    ----------
    truth
        Times and events (n, 2).
    outputs
        ``risk`` (n,) and, where the model tells them, ``survival`` and ``times`` (n, n_bins).
    """
    time, event = truth[:, 0], truth[:, 1] == 1
    risk = np.asarray(outputs["risk"], dtype=float)
    found = {"concordance": float("nan"), "integrated_brier": float("nan")}
    if np.isfinite(risk).all():
        found["concordance"] = concordance_of_pairs(ordered_pairs(time, event, risk))[0]
    if "survival" in outputs and len(time):
        ends = outputs["times"][0]
        ends = ends[np.isfinite(ends)]
        at = np.searchsorted(ends, time, side="left")
        survival = outputs["survival"][:, : len(ends)]
        left, died = (np.bincount(at[kind], minlength=len(ends) + 1) for kind in (~event, event))
        error, weight = brier_parts(survival, at, event, still_observed(left, died)[1][: len(ends)])
        inside = (np.arange(len(ends)) < at.max()) & (weight > 0)
        if inside.any():
            found["integrated_brier"] = float((error[inside] / weight[inside]).mean())
    return found
