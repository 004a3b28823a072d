"""A network from perturbed genes to effects on all genes: node embeddings that are spread over a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EffectNet(nn.Module):
    """Predict how expression changes when genes are perturbed.

    A perturbed gene is what its neighbours in the graph say, plus what was learned of the gene itself where it was
    perturbed in training, plus what all perturbations have in common. Several genes add up, and a residual layer lets
    them interact. The gene's own transcript falls by a learned share.

    Parameters
    ----------
    n_nodes
        Genes that can be perturbed.
    n_features
        Genes that are measured.
    width
        Size of the embeddings.

    Notes
    -----
    ``adjacency`` (n_nodes, n_nodes; without itself, rows add to 1 or 0), ``seen`` (n_nodes) and ``control`` (n_features)
    are set from sums over sites and are not part of ``state_dict``.

    The idea of graphs over genes and perturbations: Roohani, Huang and Leskovec, GEARS, Nature Biotechnology 2024; this
    network is another one, and predicts changes from conditions alone.

    Examples
    --------
    >>> import torch
    >>> EffectNet(3, 5)(torch.eye(3), torch.zeros(3, 5)).shape
    torch.Size([3, 5])
    """

    adjacency: Tensor
    seen: Tensor
    control: Tensor

    def __init__(self, n_nodes: int, n_features: int, *, width: int = 32, forget: float = 0.5) -> None:
        super().__init__()
        self.forget = forget
        self.node = nn.Embedding(n_nodes, width)
        nn.init.normal_(self.node.weight, std=width**-0.5)
        self.common = nn.Parameter(torch.randn(width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.gene = nn.Linear(width, n_features, bias=False)
        nn.init.normal_(self.gene.weight, std=0.02)
        self.own = nn.Parameter(torch.zeros(()))
        self.register_buffer("adjacency", torch.zeros(n_nodes, n_nodes), persistent=False)
        self.register_buffer("seen", torch.zeros(n_nodes), persistent=False)
        self.register_buffer("control", torch.zeros(n_features), persistent=False)

    def forward(self, perturbed: Tensor, own: Tensor) -> Tensor:
        """Map perturbed nodes (n, n_nodes) and the same among measured genes (n, n_features) to effects (n, n_features).

        In training each condition forgets its own embeddings with probability `forget`, as if it had not been seen.
        """
        itself = perturbed * self.seen
        if self.training:
            itself = itself * (torch.rand(len(perturbed), 1) >= self.forget)
        h = (perturbed @ self.adjacency + itself) @ self.node.weight + perturbed.sum(1, keepdim=True) * self.common
        h = h + nn.functional.silu(self.mix(self.norm(h)))
        return self.gene(h) - torch.sigmoid(self.own) * own * self.control
