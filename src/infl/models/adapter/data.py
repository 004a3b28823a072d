"""What an adapter reads from a site: cells as sentences of their highest features (Cell2Sentence), and labels of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl.data.labels import check_labels, class_numbers, label_text, label_type, warn_of_one_class
from infl.errors import DataError
from infl.models.matrix import FeatureMatrix
from infl.models.site_data import SiteData

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def sentences(
    x: FeatureMatrix, tokens: Sequence[Sequence[int]], *, length: int, first: Sequence[int] = (), site: str
) -> tuple[Tensor, Tensor]:
    """Return token numbers (n_obs, length), padded with 0, and which of them are no padding (n_obs, length).

    Parameters
    ----------
    x
        Values; those above zero are ranked.
    tokens
        Of each feature's name; a feature without any is left out.
    length
        Tokens of a sentence.
    first
        Tokens that each sentence begins with.
    site
        For messages.

    Raises
    ------
    DataError
        An observation has no value above zero.
    """
    ids = np.zeros((x.shape[0], length), dtype=np.int64)
    mask = np.zeros((x.shape[0], length), dtype=np.int64)
    known = np.asarray([len(t) > 0 for t in tokens])
    row = 0
    for chunk in x.chunks():
        values = np.where(known, x.rows(chunk), -np.inf)
        best = np.argsort(-values, axis=1, kind="stable")[:, :length]
        for order, value in zip(best, np.take_along_axis(values, best, 1), strict=True):
            words = [token for feature in order[value > 0] for token in tokens[feature]]
            if not words:
                raise DataError(
                    f"{site}: observation {row} has no value above zero to rank; leave it out, or give a layer that has"
                )
            sentence = [*first, *words][:length]
            ids[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
            row += 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


class Sentences(SiteData):
    """One site's sentences with the labels of several tasks.

    Parameters
    ----------
    ids, mask
        (n_obs, length).
    labels
        Class numbers (n_obs, n_tasks), −1 where there is none.
    train, validation
        Indices.
    """

    def __init__(self, ids: Tensor, mask: Tensor, labels: Tensor, train: np.ndarray, validation: np.ndarray) -> None:
        self.ids, self.mask, self.labels, self.train, self.validation = ids, mask, labels, train, validation

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask (n, longest) and labels (n, n_tasks)."""
        mask = self.mask[index]
        longest = int(mask.sum(1).max()) if len(index) else 0
        return self.ids[index, :longest], mask[:, :longest], self.labels[index]


def labels_of(adata: AnnData | MuData, task: str) -> pd.Series:
    """Return the labels of a task as text, missing ones as missing."""
    return label_text(adata.obs[task])


def agreed_labels(sites: Mapping[str, AnnData | MuData], tasks: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Return the classes of each task, and their types.

    Raises
    ------
    DataError
        A task has no classes, or a site no label.
    """
    classes = {task: classes_of(sites, task) for task in tasks}
    for site, adata in sites.items():
        if not any(task in adata.obs and labels_of(adata, task).notna().any() for task in tasks):
            raise DataError(f"{site} has labels of none of the tasks {', '.join(tasks)}: leave the site out")
    return {"tasks": classes, "class_types": {task: types_of(sites, task) for task in tasks}}


def classes_of(sites: Mapping[str, AnnData | MuData], task: str) -> list[str]:
    """Return all sites' classes of a task, after checking its column.

    Raises
    ------
    DataError
        No site has the column, or all have one class.
    """
    for site, adata in sites.items():
        if task in adata.obs:
            check_labels(adata.obs[task], task, site, partly=True)
    seen = {site: set(labels_of(a, task).dropna()) for site, a in sites.items() if task in a.obs}
    classes = sorted(set().union(*seen.values()))
    if not seen:
        raise DataError(f"no site has the column {task!r} in obs: name columns of labels with target=")
    if len(classes) < 2 and len(sites) > 1:
        raise DataError(f"{task!r} has fewer than two classes over all sites: leave it out of target=")
    warn_of_one_class({site: sorted(labels) for site, labels in seen.items()}, task)
    return classes


def numbers_of(adata: AnnData | MuData, tasks: Mapping[str, Sequence[str]], site: str) -> np.ndarray:
    """Return the class number of each observation in each task, (n_obs, n_tasks), by the classes of the task; −1 for none."""
    numbers = np.full((adata.n_obs, len(tasks)), -1)
    for place, (task, classes) in enumerate(tasks.items()):
        if task in adata.obs:
            numbers[:, place] = class_numbers(adata.obs[task], classes, task, site)
    return numbers


def codes_of(adata: AnnData | MuData, tasks: Sequence[str]) -> np.ndarray:
    """Return a number of the class of each observation in each task, (n_obs, n_tasks), by the classes that are there; −1 for none."""
    nobody = np.full(adata.n_obs, -1)
    return np.stack(
        [labels_of(adata, task).astype("category").cat.codes if task in adata.obs else nobody for task in tasks], 1
    )


def types_of(sites: Mapping[str, AnnData | MuData], task: str) -> list[str]:
    """Return the type of the labels of a task."""
    return label_type(adata.obs[task] for adata in sites.values() if task in adata.obs)


def first_label(labels: np.ndarray) -> np.ndarray:
    """Return one number for each task and class: of the first task that an observation has a label of.

    Examples
    --------
    >>> first_label(np.array([[0, 1], [-1, 1], [0, 0]])).tolist()
    [0, 1, 0]
    """
    has = labels >= 0
    task = np.where(has.any(1), has.argmax(1), labels.shape[1])
    padded = np.column_stack([labels, np.zeros(len(labels), dtype=int)])
    return np.unique(task * (labels.max(initial=0) + 1) + padded[np.arange(len(labels)), task], return_inverse=True)[1]
