"""Backbones for tabular omics panels: a residual multilayer perceptron with LayerNorm, and a linear model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from infl.nn.film import FiLM

COORDINATE_GAIN = 10.0
"""The stored coordinate is a tenth of the one that is used, so that it learns ten times faster than the weights."""


class ResidualBlock(nn.Module):
    """Pre-norm residual block: ``h + Linear(dropout(SiLU(Linear(LayerNorm(h)))))``."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (n, width) to (n, width)."""
        return h + self.contract(self.dropout(nn.functional.silu(self.expand(self.norm(h)))))


class OnPanel(nn.Module, ABC):
    """What classifiers on a panel of features have in common: moments, class weights and a temperature.

    Notes
    -----
    They are set from sums over sites, and not part of ``state_dict``: they describe the cohort, so a model file holds
    them encrypted.
    """

    center: Tensor
    scale: Tensor
    class_weight: Tensor
    temperature: Tensor
    head: nn.Linear

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_features), persistent=False)
        self.register_buffer("scale", torch.ones(n_features), persistent=False)
        self.register_buffer("class_weight", torch.ones(n_classes), persistent=False)
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def scaled(self, x: Tensor) -> Tensor:
        """Standardise (n, n_features); NaN, where a feature was not measured, becomes no part in sum and gradient."""
        return (x - self.center).div_(self.scale).clamp(-10, 10).nan_to_num_(0.0)  # in two new tensors, not four

    @property
    @abstractmethod
    def first(self) -> nn.Linear:
        """The layer that features go into."""

    @abstractmethod
    def entering(self, x: Tensor) -> Tensor:
        """Map (n, n_features) to what the first layer takes: features on one scale."""

    @abstractmethod
    def beyond(self, h: Tensor) -> Tensor:
        """Map what the first layer gives to logits (n, n_classes)."""

    @abstractmethod
    def latent(self, x: Tensor) -> Tensor:
        """Map (n, n_features) to what the head takes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_features) to logits (n, n_classes)."""
        return self.head(self.latent(x))


class LinearClassifier(OnPanel):
    """Multinomial logistic regression that begins near zero.

    Parameters
    ----------
    n_features, n_classes
        Sizes of input and output.
    unit_length
        Divide the standardised features by √n_features, so that a sample has length 1 on average and the intercept learns
        as fast as all weights together: for plain gradient descent, whose step may then be 1 whatever the panel. With fewer
        steps than it takes to converge the weights are held back (as by a ridge penalty), the intercept is not.

    Examples
    --------
    >>> import torch
    >>> LinearClassifier(30, 4)(torch.zeros(2, 30)).shape
    torch.Size([2, 4])
    """

    def __init__(self, n_features: int, n_classes: int, *, unit_length: bool = False) -> None:
        super().__init__(n_features, n_classes)
        self.gain = n_features**-0.5 if unit_length else 1.0
        self.head = nn.Linear(n_features, n_classes)
        nn.init.normal_(self.head.weight, std=1e-4)  # no exact zero, which the lock's product would show
        nn.init.normal_(self.head.bias, std=1e-4)

    @property
    def first(self) -> nn.Linear:
        """The head, which is all there is."""
        return self.head

    def entering(self, x: Tensor) -> Tensor:
        """Return the standardised features."""
        return self.gain * self.scaled(x)

    def beyond(self, h: Tensor) -> Tensor:
        """Return them as they are."""
        return h

    def latent(self, x: Tensor) -> Tensor:
        """Return the standardised features."""
        return self.entering(x)


class ResidualMLP(OnPanel):
    """Classifier on a panel of features.

    Parameters
    ----------
    n_features, n_classes
        Sizes of input and output.
    width
        Size of the latent.
    n_blocks
        Number of residual blocks.
    dropout
        Dropout rate on the input projection and inside the blocks.
    coordinate
        Size of a site's own coordinate, the parameter ``site``, by which a :class:`infl.nn.film.FiLM` after the input
        projection absorbs what is particular to the site; 0: none.

    Examples
    --------
    >>> import torch
    >>> module = ResidualMLP(30, 4)
    >>> module(torch.zeros(2, 30)).shape, module.latent(torch.zeros(2, 30)).shape
    (torch.Size([2, 4]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        width: int = 64,
        n_blocks: int = 2,
        dropout: float = 0.2,
        coordinate: int = 0,
    ) -> None:
        super().__init__(n_features, n_classes)
        self.embed = nn.Linear(n_features, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)
        self.film = FiLM(width, 1.0, code_size=coordinate) if coordinate else None
        self.site = nn.Parameter(torch.zeros(coordinate)) if coordinate else None

    @property
    def first(self) -> nn.Linear:
        """The input projection."""
        return self.embed

    def entering(self, x: Tensor) -> Tensor:
        """Return the standardised features."""
        return self.scaled(x)

    def beyond(self, h: Tensor) -> Tensor:
        """Map what the input projection gives (n, width) to logits."""
        return self.head(self._latent(h))

    def latent(self, x: Tensor) -> Tensor:
        """Map (n, n_features), NaN where a feature was not measured, to the latent (n, width)."""
        return self._latent(self.embed(self.scaled(x)))

    def _latent(self, h: Tensor) -> Tensor:
        h = self.dropout(h)
        if self.film is not None and self.site is not None:
            h = self.film(h, COORDINATE_GAIN * self.site)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)
