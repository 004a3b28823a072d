"""The average of the updates, with momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from infl.errors import SettingsError
from infl.federation.rules import Rule


def fedavgm(momentum: float = 0.9) -> Rule:
    """FedAvg with momentum at the global model (Hsu et al. 2019, arXiv:1909.06335).

    Examples
    --------
    >>> theta, state = torch.zeros(1), {}
    >>> rule = fedavgm(momentum=0.5)
    >>> for _ in range(2):
    ...     rule.at_sum(theta, torch.ones(1), state)
    >>> theta.item()  # 1, then 1 + 0.5
    2.5
    """
    if not 0 <= momentum < 1:
        raise SettingsError(f"fedavgm momentum={momentum}: give a number from 0 to below 1")

    def at_sum(theta: Tensor, update: Tensor, state: dict[str, Tensor]) -> None:
        velocity = state.setdefault("velocity", torch.zeros_like(theta))
        velocity.mul_(momentum).add_(update)
        theta.add_(velocity)

    return Rule("fedavgm", at_sum=at_sum)
