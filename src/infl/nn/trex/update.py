"""What the layouts of experts share: parts that rest or are frozen, and the prior that comes with an input."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infl.errors import SettingsError


class Update(nn.Module, ABC):
    """The update of one layer.

    Parameters
    ----------
    n_priors
        Numbers of the prior of an input.
    frozen
        Parts that are not trained.
    lookup
        The layer is an embedding: inputs are row numbers.

    Attributes
    ----------
    resting
        Which parts get no gradient for now, though they are trained in turn.
    """

    A: nn.Parameter

    def __init__(self, n_priors: int, *, frozen: Collection[str], lookup: bool) -> None:
        super().__init__()
        self.n_priors, self.frozen, self.lookup = n_priors, frozenset(frozen), lookup
        self.resting: frozenset[str] = frozenset()

    def rest(self, parts: Collection[str]) -> None:
        """Give these parts, and no others, no gradient from now on."""
        self.resting = frozenset(parts)

    def freeze(self) -> Self:
        """Take the frozen parts out of training (again, after something set all of them to be trained)."""
        for name, parameter in self.named_parameters():
            if name in self.frozen:
                parameter.requires_grad_(False)
        return self

    @abstractmethod
    def delta_weight(self, prior: Tensor | None = None) -> Tensor:
        """Return the update as a matrix (out_features, in_features), where it does not depend on the input."""

    def _draw(self, weight: Tensor) -> None:
        """Fill what reads the layer's input as a linear layer's weights are, or as one-hot rows ask for."""
        if self.lookup:
            nn.init.normal_(weight, std=3**-0.5)
        else:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def _now(self, name: str) -> Tensor:
        """Return a part, without a gradient while it rests."""
        part = cast(Tensor, getattr(self, name))
        return part.detach() if name in self.resting else part

    def _project(self, weight: Tensor, x: Tensor) -> Tensor:
        return F.embedding(x, weight.T) if self.lookup else F.linear(x, weight)

    def _by_input(self, prior: Tensor | None, u: Tensor) -> Tensor:
        """Return the prior as (inputs, 1, n_priors); an input may have several rows of `u`, one after the other."""
        s = self._checked(prior)
        if u.shape[0] % s.shape[0]:
            raise SettingsError(f"{s.shape[0]} priors for {u.shape[0]} inputs: give one for each")
        return s.unsqueeze(1)

    def _of_one(self, prior: Tensor | None) -> Tensor:
        """Return the prior (n_priors,) to merge for."""
        s = self._checked(prior)
        if s.shape[0] != 1:
            raise SettingsError(f"merging takes one prior, got {s.shape[0]} rows: give the one of one task")
        return s[0]

    def _checked(self, prior: Tensor | None) -> Tensor:
        if prior is None:
            raise SettingsError(
                "no prior came with the input: pass trex_prior= with the batch (remove_unused_columns=False in the Trainer), "
                "use infl.nn.trex.use_prior or attach_prior, or make the adapter without one (prior=False; anchors=0)"
            )
        prior = prior.unsqueeze(0) if prior.ndim == 1 else prior
        if prior.ndim != 2 or prior.shape[1] != self.n_priors:
            raise SettingsError(
                f"the prior has shape {tuple(prior.shape)}, and there are {self.kinds()}: "
                f"give (inputs, {self.n_priors}), from as many centroids"
            )
        return prior.to(self.A)

    @abstractmethod
    def kinds(self) -> str:
        """Return what the prior has a number for each of."""


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return the type, or float32 where it has fewer digits."""
    return torch.promote_types(dtype, torch.float32)
