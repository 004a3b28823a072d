"""Cell sentences: a cell or sample as the names of its features, from the highest value down (Cell2Sentence)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from infl.errors import DataError
from infl.models.matrix import FeatureMatrix
from infl.models.task import SiteData


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
