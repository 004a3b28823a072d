"""The scale of logits that makes probabilities honest: chosen from a grid by the summed validation likelihood.

Guo et al., On calibration of modern neural networks, ICML 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from infl.sums.shape import Arrays, FederatedSum, SiteView, State

TEMPERATURES = np.geomspace(0.2, 5.0, 33)
"""Candidates."""


def temperature() -> FederatedSum:
    """Return the sum of the validation loss at each candidate; state: ``temperature``, 1 where nothing was judged."""

    def local(site: SiteView, state: State) -> Arrays:
        return {"nll": negative_log_likelihood(site.module, site.data, TEMPERATURES)}

    def combine(total: Arrays, state: State) -> State:
        best = TEMPERATURES[int(np.argmin(total["nll"]))] if total["nll"].any() else 1.0
        return {**state, "temperature": np.asarray(best)}

    return FederatedSum(
        name="temperature",
        shapes={"nll": TEMPERATURES.shape},
        local=local,
        combine=combine,
        says="loss on validation records at several candidate scales, to make probabilities honest",
        records=lambda site, state: len(site.data.validation),
    )


@torch.no_grad()
def negative_log_likelihood(module: Any, data: Any, temperatures: np.ndarray) -> np.ndarray:
    """Return the summed validation loss at each temperature (T,)."""
    total = np.zeros(len(temperatures))
    for start in range(0, len(data.validation), 2048):
        x, y = data.batch(data.validation[start : start + 2048])
        scaled = module(x).double() / torch.from_numpy(temperatures)[:, None, None]  # (T, n, classes)
        total -= scaled.log_softmax(-1)[:, torch.arange(len(y)), y].sum(1).numpy()
    return total
