"""LoRA as experts (MoE-LoRA), the rival in T-REX's paper: small LoRA pairs beside a layer, weighed for each token by a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LoraMoE:
    """Number of experts, the rank of each, and alpha as of one LoRA of rank n · r: what uniform weights amount to."""

    n: int
    r: int
    alpha: float

    def add_to(self, model: nn.Module) -> nn.Module:
        """Freeze `model` and put experts beside all its linear layers, in place."""
        model.requires_grad_(False)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and not isinstance(parent, MoELinear):
                    setattr(parent, name, MoELinear(child, self))
        return model


class MoELinear(nn.Module):
    """y = W x + (α / r n) Σᵢ n pᵢ(x) Bᵢ Aᵢ x, with p the softmax of a router of all tokens."""

    def __init__(self, base: nn.Linear, config: LoraMoE) -> None:
        super().__init__()
        self.base, self.n, rank = base, config.n, config.n * config.r
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.router = nn.Parameter(torch.empty(config.n, base.in_features))
        self.scale = config.alpha / rank * config.n
        for weight in (self.A, self.router):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.softmax(F.linear(x, self.router), -1) * self.scale
        u = F.linear(x, self.A).unflatten(-1, (self.n, -1)) * p.unsqueeze(-1)
        return self.base(x) + F.linear(u.flatten(-2), self.B)
