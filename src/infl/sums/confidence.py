"""How sure a model is of records, counted over sites: which of them it had better leave unassigned.

Chow, On optimum recognition error and reject tradeoff, IEEE Transactions on Information Theory 1970: of all ways to leave a share of
records out, leaving those out whose most probable class is least probable has the fewest errors among the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infl.sums.shape import COUNT_SCALE, Arrays, FederatedSum, SiteView, State

CONFIDENCE = "confidence"
"""Under which name the counts are kept."""
LEVELS = np.linspace(-6.0, 16.0, 177)
"""Where cells end, as log odds of being right; cells are an eighth wide, and those at the ends have what lies beyond."""
SHAPE = (len(LEVELS) + 1, 2)
"""Of the counts of one column of labels."""

Sure = Callable[[Any, Tensor, Tensor], Sequence[tuple[np.ndarray, np.ndarray]]]
"""How sure a model is of records, for each column of labels, and whether it is right."""


def confidence_cells(probability: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return how many records there are in each cell of confidence, and how many of them are right (n_cells, 2).

    Parameters
    ----------
    probability
        Of the class that is predicted (n,).
    right
        Whether it is the record's (n,).

    Examples
    --------
    >>> cells = confidence_cells(np.array([0.5, 0.99, 0.99]), np.array([False, True, False]))
    >>> cells.sum(0).tolist(), cells[cells[:, 0] > 0].tolist()
    ([3.0, 1.0], [[1.0, 0.0], [2.0, 1.0]])
    """
    p = np.asarray(probability, dtype=np.float64)
    with np.errstate(divide="ignore"):
        place = np.searchsorted(LEVELS, np.log(p) - np.log1p(-p))
    cells = np.zeros(SHAPE)
    np.add.at(cells, place, np.stack([np.ones(len(p)), right], 1))
    return cells


def threshold_of(cells: np.ndarray, share: float) -> float:
    """Return the probability below which the least sure `share` of records lies.

    Of *n* records the k-th least sure has a new one below it with chance k / (n + 1); between two of them chances are taken to rise
    evenly, and inside of a cell records to be evenly spread.

    Parameters
    ----------
    cells
        Of :func:`confidence_cells`, added over sites.
    share
        Between 0 and 1. A new record is below the threshold with this chance, from 1 / (n + 1) to n / (n + 1).

    Examples
    --------
    >>> cells = confidence_cells(np.linspace(0.5, 0.999, 1000), np.ones(1000))
    >>> round(threshold_of(cells, 0.2), 2)
    0.6
    """
    n = cells[:, 0]
    so_far = np.cumsum(n)
    wanted = float(np.clip(share * (so_far[-1] + 1), 1, so_far[-1]))
    ranks = np.array([np.floor(wanted), np.ceil(wanted)])
    cell = np.searchsorted(so_far, ranks)
    width = LEVELS[1] - LEVELS[0]
    into = (ranks - 0.5 - (so_far[cell] - n[cell])) / n[cell]
    places = np.minimum(LEVELS[0] - width + width * (cell + into), LEVELS[-1])
    level = places[0] + (wanted - ranks[0]) * (places[1] - places[0])
    return float(1 / (1 + np.exp(-level)))


def error_above(cells: np.ndarray, threshold: float) -> float:
    """Return the share of errors among the records at or above a threshold; nan where there are none.

    Examples
    --------
    >>> cells = confidence_cells(np.array([0.6, 0.9, 0.9, 0.9, 0.9]), np.array([0, 1, 1, 1, 0]))
    >>> error_above(cells, 0.8), error_above(cells, 0.0)
    (0.25, 0.4)
    """
    with np.errstate(divide="ignore"):
        level = np.log(threshold) - np.log1p(-threshold)
    n, right = cells[np.append(LEVELS, np.inf) > level].sum(0)
    return float(1 - right / n) if n else float("nan")


def confidences() -> FederatedSum:
    """Return the sum of validation records by confidence of a calibrated classifier; state: ``confidence``, (n_cells, 2)."""
    return _counts(SHAPE, lambda site, state: cells_of_site(site, float(state.get("temperature", 1.0))))


def confidences_by_column(n_columns: int, sure: Sure) -> FederatedSum:
    """Return the same for several columns of labels; state: ``confidence``, (n_columns, n_cells, 2).

    Parameters
    ----------
    n_columns
        How many columns.
    sure
        From module, features and class numbers (n, n_columns), for each column the probability of the class that is predicted and
        whether it is the record's, of records that have a label.
    """

    def cells(site: SiteView, state: State) -> np.ndarray:
        found = np.zeros((n_columns, *SHAPE))
        for start in range(0, len(index := site.data.validation), 2048):
            x, truth = site.data.batch(index[start : start + 2048])
            found += [confidence_cells(*one) for one in sure(site.module, x, truth)]
        return found

    return _counts((n_columns, *SHAPE), cells)


def _counts(shape: tuple[int, ...], cells: Callable[[SiteView, State], np.ndarray]) -> FederatedSum:
    def local(site: SiteView, state: State) -> Arrays:
        return {CONFIDENCE: cells(site, state)}

    return FederatedSum(
        name=CONFIDENCE,
        shapes={CONFIDENCE: shape},
        local=local,
        combine=lambda total, state: {**state, CONFIDENCE: total[CONFIDENCE]},
        says="number of validation records by how sure the model is of them, and how many of those are right, to leave unsure ones unassigned",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={CONFIDENCE: 1},
    )


@torch.no_grad()
def cells_of_site(site: SiteView, temperature: float) -> np.ndarray:
    """Return the cells of a site's validation records."""
    cells = np.zeros(SHAPE)
    index = site.data.validation
    for start in range(0, len(index), 2048):
        x, y = site.data.batch(index[start : start + 2048])
        probability, called = (site.module(x) / temperature).softmax(-1).max(-1)
        cells += confidence_cells(probability.numpy(), (called == y).numpy())
    return cells
