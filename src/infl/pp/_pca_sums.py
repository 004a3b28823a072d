"""Sums behind principal components: products of all pairs of features, or of features with some directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from infl.errors import DataError
from infl.pp._centred import CentredRows, in_blocks
from infl.pp._components import MOST_ROUNDS, Search
from infl.pp._matrix import SiteMatrix
from infl.pp._moments import Rows, moments_of
from infl.sums import UNIT_SCALE, FederatedSum, State
from infl.sums.cells import Cells, everyone
from infl.sums.shape import Arrays

FrameOf = Callable[[State], "Frame"]
"""What follows from the moments in the state."""
_IN_MEMORY = 1 << 22  # products that are summed at a time


@dataclass(frozen=True)
class Frame:
    """What all sites know before the first product.

    Attributes
    ----------
    columns
        The features that are used.
    center
        What is subtracted, (k,); NaN for features that rules of disclosure have closed, which count as 0.
    spread
        Σ of squared distances from it over all sites, (k,), and `n`, observations of all sites.
    """

    columns: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    n: int


def frame_from(state: State, *, columns: np.ndarray, n_obs: int, zero_center: bool) -> Frame:
    """Return what follows from the moments."""
    found = moments_of(state)
    mean, squares = found.mean[columns], found.var[columns] * np.maximum(found.n[columns] - 1, 0)
    if zero_center:
        frame = Frame(columns, mean, np.nan_to_num(squares), n_obs)
    else:
        frame = Frame(
            columns, np.where(np.isnan(mean), np.nan, 0), np.nan_to_num(squares + found.n[columns] * mean**2), n_obs
        )
    if not frame.spread.sum() > 0:
        raise DataError("no feature varies between observations: there are no principal components")
    return frame


def _centred(matrix: SiteMatrix, frame: Frame, first: int = 0) -> Iterator[CentredRows]:
    """Blocks of centred values of features from the `first` on; 0 where one was not measured."""
    columns, center = frame.columns[first:], np.nan_to_num(frame.center[first:])
    used = matrix.present[columns] & ~np.isnan(frame.center[first:])
    everything = len(columns) == len(matrix.present)
    for _, whole in matrix.blocks():
        for rows in in_blocks(whole):
            block: Any = rows if everything else rows[:, columns]
            yield CentredRows.of(block, center, used)


def product_sums(k: int, frame_of: FrameOf) -> list[FederatedSum]:
    """Return the sums of products of all pairs of `k` features, some rows of the upper half at a time; state: ``products``.

    What a site sends is divided by the features' spreads: a sum over sites then is a correlation, at most 1.
    """
    ends = _ends(k)
    return [_products_from(start, end, k, frame_of) for start, end in zip([0, *ends], ends, strict=False)]


def _ends(k: int) -> list[int]:
    """Where parts of the rows of the upper half end, which have no more numbers each than are summed at a time."""
    numbers = np.cumsum(np.arange(k, 0, -1))  # up to the end of each row
    ends: list[int] = []
    before = 0
    while not ends or ends[-1] < k:
        start = ends[-1] if ends else 0
        ends.append(max(start + 1, int(np.searchsorted(numbers, before + _IN_MEMORY, side="right"))))
        before = int(numbers[ends[-1] - 1])
    return ends


def _products_from(start: int, end: int, k: int, frame_of: FrameOf) -> FederatedSum:
    def local(site: Rows, state: State) -> Arrays:
        frame = frame_of(state)
        total, inverse = np.zeros((end - start, k - start)), 1 / _size(frame)[start:]
        for rows in _centred(site.matrix, frame, start):
            rows.add_products(total)
        upper = [row[i:] * (inverse[i] * inverse[i:]) for i, row in enumerate(total)]
        return {"products": np.concatenate(upper)}

    return FederatedSum(
        name="products",
        shapes={"products": ((end - start) * (2 * k - start - end + 1) // 2,)},
        local=local,
        combine=lambda total, state: {**state, "products": [*state.get("products", []), total["products"]]},
        says="products of pairs of features, as correlations",
        scale=UNIT_SCALE,
        records=lambda site, state: site.matrix.n_obs,
        cells=_of_all(k, "products"),
    )


def _of_all(k: int, panel: str) -> Cells:
    """A covariance is a model with a parameter for each feature, and is opened as a whole or not at all."""
    return everyone(lambda site: site.matrix.n_obs, features=k, panel=panel, parameters=k, once=True)


def direction_sums(k: int, n_comps: int, seed: int, frame_of: FrameOf) -> list[FederatedSum]:
    """Return the sum of products with a block of directions, until the components stand still; state: ``found``.

    What is sent is divided by the total spread, so at most 1; columns that a block has less are zeros.
    """
    width = Search.width(k, n_comps)

    def search_of(state: State) -> Search:
        return state["search"] if "search" in state else Search.begin(k, n_comps, seed)

    def local(site: Rows, state: State) -> Arrays:
        frame, block = frame_of(state), search_of(state).block
        result = np.zeros(block.shape)
        for rows in _centred(site.matrix, frame):
            result += rows.transposed_times(rows.times(block))
        return {"image": np.pad(result / frame.spread.sum(), ((0, 0), (0, width - block.shape[1])))}

    def combine(total: Arrays, state: State) -> State:
        frame, search = frame_of(state), search_of(state)
        image = total["image"][:, : search.block.shape[1]] * frame.spread.sum() / (frame.n - 1)
        search = search.after(image)
        return {**state, "search": search, "found": (search.values, search.vectors)}

    directions = FederatedSum(
        name="directions",
        shapes={"image": (k, width)},
        local=local,
        combine=combine,
        says="products of features with directions that all sites know, summed over observations",
        scale=UNIT_SCALE,
        records=lambda site, state: site.matrix.n_obs,
        cells=_of_all(k, "directions"),
        steps=MOST_ROUNDS,
        called="{name}",
        until=lambda state: state["search"].done,
    )
    return [directions]


def _size(frame: Frame) -> np.ndarray:
    """Root of each feature's spread, 1 where it has none."""
    return np.sqrt(np.where(frame.spread > 0, frame.spread, 1))


def covariance_of(products: list[np.ndarray], frame: Frame) -> np.ndarray:
    """Return the upper half of the covariance over all sites, (k, k), from that of the correlations, row after row."""
    size, start = _size(frame), 0
    k, flat = len(size), np.concatenate(products)
    covariance = np.zeros((k, k))
    for i in range(k):
        covariance[i, i:] = flat[start : start + k - i] * (size[i] / (frame.n - 1) * size[i:])
        start += k - i
    return covariance


def scores_of(matrix: SiteMatrix, frame: Frame, vectors: np.ndarray) -> np.ndarray:
    """Return the scores of a site's observations, (n_obs, n_comps)."""
    return np.concatenate([rows.times(vectors) for rows in _centred(matrix, frame)])
