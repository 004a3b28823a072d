"""Which labels there are of each column, at all sites, and how a site's rows are read that lack some or all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from infl._warn import warn
from infl.data.columns import obs_column, shortlist
from infl.data.labels import check_labels, class_numbers, label_text, near_misses
from infl.errors import DataError
from infl.models.labelled import check_unmixed
from infl.models.matrix import FeatureMatrix
from infl.models.phenotype.data import LabelledRows
from infl.nn.mlp import OnPanel
from infl.sums import COUNT_SCALE, FederatedSum, SiteView, State


class PartlyLabelled(LabelledRows):
    """Rows with class numbers (n, n_targets), −1 where there is no label.

    Rows without any label are neither trained on nor judged by, but take part in the moments of the features.
    """

    def __init__(
        self,
        x: FeatureMatrix,
        labels: Tensor,
        train: np.ndarray,
        validation: np.ndarray,
        unlabelled: np.ndarray,
        **how: Any,
    ) -> None:
        super().__init__(x, labels, train, validation, **how)
        self.unlabelled = unlabelled

    def reduce(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Add `function` over the training rows and those without a label."""
        rows = np.concatenate([self.train, self.unlabelled])
        blocks = np.array_split(rows, max(1, -(-len(rows) // 2048)))
        return np.sum([function(self._unscaled(block).astype(np.float64)) for block in blocks], axis=0)


def levels_of(tables: Mapping[str, AnnData], target: str) -> tuple[list[str], list[str] | None]:
    """Return the classes of a column at all sites, in order, and that order where it is one of the data, else None.

    Raises
    ------
    DataError
        No site has the column, or two sites order its levels differently.
    """
    at: dict[str, list[str]] = {}
    orders: dict[str, list[str]] = {}
    for site, table in tables.items():
        if target not in table.obs:
            continue
        values = table.obs[target]
        if isinstance(values, pd.DataFrame):
            obs_column(table, target, where=site, role="target")
        check_unmixed(values, target, site)
        check_labels(values, target, site, partly=True)
        text = label_text(values).dropna()
        for label in sorted(set(text)):
            at.setdefault(label, []).append(site)
        if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered and len(text):
            orders[site] = label_text(pd.Series(values.cat.categories)).tolist()
    if not at:
        obs_column(next(iter(tables.values())), target, where=next(iter(tables)), role="target")  # says what is near
    for a, b in near_misses(at):
        warn(
            f"labels {a!r} ({at[a][0]}) and {b!r} ({at[b][0]}) in {target!r} look like one; if they are, spell them alike"
        )
    order = _one_order(orders, target)
    strange = [f"{label} ({at[label][0]})" for label in sorted(set(at) - set(order or at))]
    if strange:
        warn(
            f"{target!r} has labels that are none of its levels {' < '.join(order or ())}: {shortlist(strange)}; its order is not used, unless "
            "you rename them"
        )
    if order is None or strange:
        return sorted(at), None
    used = [level for level in order if level in at]
    return used, used


def _one_order(orders: Mapping[str, list[str]], target: str) -> list[str] | None:
    """Return the order of levels that all sites have who have one.

    Raises
    ------
    DataError
        Two sites differ.
    """
    longest_at = max(orders, key=lambda site: len(orders[site]), default=None)
    if longest_at is None:
        return None
    longest = orders[longest_at]
    for site, order in orders.items():
        places = [longest.index(level) for level in order if level in longest]
        if places != sorted(places) or len(places) < len(order):
            raise DataError(
                f"levels of {target!r} are in another order at {site} ({' < '.join(order)}) than at {longest_at} "
                f"({' < '.join(longest)}): give both the same, or make them plain labels with .astype(str)"
            )
    return longest


def numbers_of_labels(
    table: AnnData, tasks: Mapping[str, Sequence[str]], site: str, *, known_only: bool = True
) -> np.ndarray:
    """Return class numbers (n, n_targets), −1 where there is none; what is no class is refused, unless not `known_only`."""
    found = np.full((table.n_obs, len(tasks)), -1, dtype=np.int64)
    for number, (target, classes) in enumerate(tasks.items()):
        if target not in table.obs:
            continue
        values = table.obs[target]
        if known_only:
            found[:, number] = class_numbers(values, classes, target, site)
        else:
            found[:, number] = pd.Index(list(classes), dtype=object).get_indexer(label_text(values))
    return found


def label_counts(sizes: Sequence[int], *, balance: bool) -> FederatedSum:
    """Return the sum of training records by class of each column; state: ``label_counts``, ``label_weight``, (sum of sizes,)."""
    shape = (int(sum(sizes)),)

    def local(site: SiteView[LabelledRows, OnPanel], state: State) -> dict[str, np.ndarray]:
        assert site.data.labels is not None
        labels = site.data.labels[torch.from_numpy(site.data.train)].numpy()
        columns = [np.bincount(of[of >= 0], minlength=n) for of, n in zip(labels.T, sizes, strict=True)]
        return {"label_counts": np.concatenate(columns).astype(float)}

    def combine(total: dict[str, np.ndarray], state: State) -> State:
        weights, at = [], 0
        for n in sizes:
            counts = total["label_counts"][at : at + n]
            share = counts.sum() / (np.maximum(counts, 1) * max(np.count_nonzero(counts), 1))
            weights.append(share if balance else np.ones(n))
            at += n
        return {**state, "label_counts": total["label_counts"], "label_weight": np.concatenate(weights)}

    return FederatedSum(
        name="label_counts",
        shapes={"label_counts": shape},
        local=local,
        combine=combine,
        says="numbers of training records by class of each column",
        scale=COUNT_SCALE,
        records=local,
        sensitivity={"label_counts": 1},
    )
