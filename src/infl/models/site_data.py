"""What a task hands to the engine of a site: its data, readable in batches, and where in a run a step happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """Where in a federated run a training step happens.

    Attributes
    ----------
    round, rounds
        Round, from 1, of how many.
    step, steps
        Step within the site's round, from 0, of how many.

    Examples
    --------
    >>> at = Step(round=3, rounds=20, step=0, steps=5)
    >>> (at.round - 1) * at.steps + at.step  # steps before this one
    10
    """

    round: int
    rounds: int
    step: int
    steps: int


class SiteData(ABC):
    """One site's observations, readable in batches by index.

    Attributes
    ----------
    train, validation
        Indices of the observations that are trained on and those that judge.

    Examples
    --------
    >>> import infl, numpy as np
    >>> sites = infl.datasets.khan_sites()
    >>> task = infl.models.Classifier(target="tumour_class")
    >>> data = task.read(sites["site_1"], task.agree(sites), site="site_1", rng=np.random.default_rng(0))
    >>> isinstance(data, infl.models.SiteData), len(data.train) + len(data.validation)
    (True, 16)
    """

    train: np.ndarray
    validation: np.ndarray

    @abstractmethod
    def batch(self, index: np.ndarray) -> Any:
        """Return the observations `index` as the task's module takes them."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the training observations in a random order, for an epoch."""
        return rng.permutation(self.train)

    @property
    def one_class(self) -> bool:
        """Whether all labels that the site has are of one class, so that they cannot judge what tells classes apart.

        Read from ``labels``, a tensor of class numbers (n_obs,) or (n_obs, n_columns), −1 where unknown, if there is one.
        """
        import torch

        labels = getattr(self, "labels", None)
        if not isinstance(labels, torch.Tensor) or not (labels >= 0).any():
            return False
        return all(len(column[column >= 0].unique()) < 2 for column in labels.reshape(len(labels), -1).T)
