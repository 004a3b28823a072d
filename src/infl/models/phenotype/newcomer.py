"""A site that joins later: how far it is from what a model saw, and what is particular to it.

The batch effect is a shift of each feature, by empirical Bayes as in ComBat (Johnson, Li and Rabinovic, Biostatistics 8, 2007), with
the classes' shares taken into account as the model sees them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from infl.models.phenotype.data import LabelledRows
from infl.models.phenotype.latent import ADAPT_ROWS
from infl.nn.mlp import OnPanel

STEPS = 10
"""In which shift and the classes' shares are found in turn."""
FEWEST = 10
"""Observations below which no shift is estimated: it could not be told from what the few are."""
SPREAD = 0.1
"""Of means of features, in deviations of one, below which their order says nothing."""


def distances(data: LabelledRows, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return how far each observation is from the mean of the fit (n_obs,): root mean square, in deviations of each feature.

    Over the records of the fit its square is 1 on average, whatever their distribution; features that were not measured do not
    count.
    """
    return np.concatenate([root_mean_squares(data.rows(chunk), center, scale) for chunk in data.x.chunks()])


def root_mean_squares(rows: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the root mean square of standardised rows (n, n_features) over what was measured (n,).

    Examples
    --------
    >>> root_mean_squares(np.array([[3.0, np.nan], [1.0, 4.0]]), np.array([1.0, 0.0]), np.array([2.0, 4.0])).round(
    ...     3
    ... ).tolist()
    [1.0, 0.707]
    """
    z = (rows - center) / scale
    return np.sqrt(np.nansum(z**2, 1) / np.maximum((~np.isnan(z)).sum(1), 1))


def alike(data: LabelledRows, center: np.ndarray, scale: np.ndarray, n_features: int) -> float:
    """Return the rank correlation of the features' means here with those of the fit; nan where those hardly differ.

    Columns beyond `n_features` are covariates, which have no part in it.
    """
    from scipy.stats import spearmanr

    mean, _ = data.moments(np.ones(data.x.shape[0]))
    there = ~data.x.absent & (np.arange(len(center)) < n_features)
    if there.sum() < 3 or center[there].std() < SPREAD * np.sqrt((scale[there] ** 2).mean()):
        return float("nan")
    return float(spearmanr(mean[there], center[there]).statistic)


def shrunken(shift: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return posterior means of shifts that are normal about 0, seen with standard errors; the prior's width is estimated.

    Examples
    --------
    >>> shrunken(np.array([1.0, -1.0]), np.array([0.6, 0.6])).round(2).tolist()
    [0.64, -0.64]
    >>> shrunken(np.array([0.1, -0.1]), np.array([0.6, 0.6])).tolist()
    [0.0, -0.0]
    """
    width = max(float((shift**2 - error**2).mean()), 0.0)
    return shift * width / np.maximum(width + error**2, 1e-12)


@torch.no_grad()
def most_seen(module: OnPanel, data: LabelledRows) -> tuple[int, float]:
    """Return the number of the class that a module sees in most observations, and in which share of them."""
    classes = module(torch.from_numpy(data.rows(_asked(data)))).argmax(1)
    counts = torch.bincount(classes)
    return int(counts.argmax()), float(counts.max() / len(classes))


@torch.no_grad()
def fit_shift(module: OnPanel, data: LabelledRows, private: Mapping[str, np.ndarray], n_features: int) -> np.ndarray:
    """Move the centre of a module to a site's own; return by how much (n_features,), 0 for what was not measured.

    What is read beside the features is left as it is: that patients are older here is no effect of the batch.

    Observations are weighted so that the classes that the model sees in them have their shares of the fit, to which its means
    belong; weights and shift are found in turn. A class with less than half an observation has no part. Of few observations
    there is no shift.
    """
    n_obs, scale = data.x.shape[0], private["scale"]
    if n_obs < FEWEST:
        return np.zeros(n_features)
    rows = _asked(data)
    x = data.rows(rows)
    before, weight, shift = module.center.clone(), np.ones(len(rows)), np.zeros(x.shape[1])
    known = ~np.isnan(x)
    known[:, n_features:] = False
    z = np.nan_to_num((x - private["center"]) / scale)
    for _ in range(STEPS):
        total = np.maximum(weight @ known, 1e-12)
        mean = (weight @ z) / total
        variance = (weight @ np.where(known, (z - mean) ** 2, 0.0)) / total
        error = np.sqrt(variance * (weight**2 @ known)) / total
        there = known.any(0)
        shift = np.zeros(x.shape[1])
        shift[there] = shrunken(mean[there], error[there])
        module.center.copy_(before + torch.from_numpy(shift * scale))
        posterior = module(torch.from_numpy(x)).softmax(1).double().numpy()
        seen = posterior.sum(0)  # (classes,)
        share = private["class_counts"] * (seen > 0.5)
        weight = (posterior * (share / share.sum()) / np.maximum(seen, 1e-9)).sum(1) * len(rows)
    return (shift * scale)[:n_features]


def _asked(data: LabelledRows) -> np.ndarray:
    """Return the rows that a shift is estimated from: all, or as many as suffice."""
    n_obs = data.x.shape[0]
    return np.arange(n_obs) if n_obs <= ADAPT_ROWS else np.linspace(0, n_obs - 1, ADAPT_ROWS).astype(int)
