"""How well counts are reconstructed: the evidence lower bound as sums and per cell, and a model of depth alone beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from infl._isolation import torch_seed
from infl.models.scvi.data import CountRows
from infl.models.scvi.module import CHUNK
from infl.models.task import Sums


@torch.no_grad()
def bound_sums(module: Any, data: CountRows, index: np.ndarray) -> Sums:
    """Return sums over the cells `index`, from one draw of the latent per cell that is the same in each round."""
    sums: Sums = {"n": np.asarray(float(len(index))), "reconstruction": np.zeros(()), "kl": np.zeros(())}
    with torch_seed(0):
        for start in range(0, len(index), CHUNK):
            output = module(data.batch(index[start : start + CHUNK]))[2]
            sums["reconstruction"] += float(output.reconstruction_loss_sum)
            sums["kl"] += float(output.kl_local_sum)
    return sums


def mean_bounds(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the negative evidence lower bound per cell (``loss``) and its two parts.

    Examples
    --------
    >>> mean_bounds({"n": np.array(2.0), "reconstruction": np.array(6.0), "kl": np.array(1.0)})
    {'loss': 3.5, 'reconstruction': 3.0, 'kl': 0.5}
    """
    n = float(sums["n"]) or float("nan")
    reconstruction, kl = float(sums["reconstruction"]) / n, float(sums["kl"]) / n
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


@torch.no_grad()
def bounds(module: Any, data: CountRows) -> dict[str, np.ndarray]:
    """Return each cell's negative evidence lower bound ``loss`` (n,) and its reconstruction part, with the site as batch."""
    parts = []
    with torch_seed(0):
        for chunk in data.x.chunks(CHUNK):
            output = module(data.batch(chunk))[2]
            parts.append([sum(part.values()) for part in (output.reconstruction_loss, output.kl_local)])
    reconstruction, kl = (torch.cat(part).numpy().astype(np.float64) for part in zip(*parts, strict=True))
    return {"loss": reconstruction + kl, "reconstruction": reconstruction}


def depth_alone(counts: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit counts (n, n_features) of cells that are alike but for depth; return what gives a cell's negative log-likelihood.

    Each feature is negative binomial about its share of all counts times the cell's total, with its own dispersion by
    moments. A bound on the log-likelihood can be set beside it.
    """
    from scipy.stats import nbinom

    share = np.maximum(counts.sum(0), 0.5) / counts.sum()
    mean = counts.sum(1, keepdims=True) * share
    extra = ((counts - mean) ** 2 - mean).sum(0) / (mean**2).sum(0)
    size = 1 / np.maximum(extra, 1e-4)

    def loss(counts: np.ndarray) -> np.ndarray:
        mean = counts.sum(1, keepdims=True) * share
        return -nbinom.logpmf(counts, size, size / (size + mean)).sum(1)

    return loss
