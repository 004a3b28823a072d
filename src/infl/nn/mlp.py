"""Residual multilayer perceptron with LayerNorm: the backbone for tabular omics panels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


class ResidualMLP(nn.Module):
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

    Notes
    -----
    ``center``, ``scale``, ``class_weight`` and ``temperature`` are set from sums over sites. They are not part of
    ``state_dict``: they describe the cohort, so a model file holds them encrypted.

    Examples
    --------
    >>> import torch
    >>> module = ResidualMLP(30, 4)
    >>> module(torch.zeros(2, 30)).shape, module.latent(torch.zeros(2, 30)).shape
    (torch.Size([2, 4]), torch.Size([2, 64]))
    """

    center: Tensor
    scale: Tensor
    class_weight: Tensor
    temperature: Tensor

    def __init__(
        self, n_features: int, n_classes: int, *, width: int = 64, n_blocks: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(n_features, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)
        self.register_buffer("center", torch.zeros(n_features), persistent=False)
        self.register_buffer("scale", torch.ones(n_features), persistent=False)
        self.register_buffer("class_weight", torch.ones(n_classes), persistent=False)
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def latent(self, x: Tensor) -> Tensor:
        """Map (n, n_features), NaN where a feature was not measured, to the latent (n, width)."""
        z = ((x - self.center) / self.scale).clamp(-10, 10).nan_to_num(0.0)  # no part in the sum, and no gradient
        h = self.dropout(self.embed(z))
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_features) to logits (n, n_classes)."""
        return self.head(self.latent(x))
