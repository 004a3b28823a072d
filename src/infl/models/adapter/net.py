"""The module of the adapter task: a frozen base model, rank-one experts beside its layers, one head for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from infl.models.adapter.bases import Base
from infl.nn.trex.experts import PARTS, RankOneExperts
from infl.nn.trex.prior import attach_prior
from infl.nn.trex.semantic_prior import TokenPrior
from infl.nn.trex.tuner import TrexConfig


class AdaptedNet(nn.Module):
    """Classify sequences of tokens for several tasks.

    Weights that are not trained are no parameters here but buffers outside the ``state_dict``: they are not averaged,
    locked or stored, and whoever loads the model takes them from the base and the adapter's seed.

    Parameters
    ----------
    base
        The pretrained model; copied.
    config
        Of the adapter.
    classes
        Number of classes of each task.
    """

    def __init__(self, base: Base, config: TrexConfig, classes: Sequence[int]) -> None:
        super().__init__()
        model: Any = base.copy()
        embeddings = model.get_input_embeddings().weight
        self.intuition = TokenPrior(embeddings, _spread(embeddings, config.r1 * config.r2))
        self.adapted = peft.get_peft_model(model, config)
        attach_prior(self.adapted, self.intuition if config.prior else None)
        fix_untrained(self.adapted)
        self.n_classes, self.heads_rest = list(classes), False
        self.heads = nn.ModuleList(nn.Linear(base.width, k) for k in classes)

    def latent(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean hidden state (n, width) of tokens (n, length)."""
        hidden = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.to(hidden.dtype).unsqueeze(-1)
        return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the logits (n, classes) of each task."""
        z = self.latent(ids, mask)
        if self.heads_rest:
            return [
                functional_call(head, {n: p.detach() for n, p in head.named_parameters()}, z) for head in self.heads
            ]
        return [head(z) for head in self.heads]

    def train_only(self, parts: Sequence[str]) -> None:
        """Let only these parts (of the experts, and ``"heads"``) have a gradient from now on."""
        self.heads_rest = "heads" not in parts
        for module in self.adapted.modules():
            if isinstance(module, RankOneExperts):
                module.rest(frozenset(PARTS) - set(parts))


def fix_untrained(module: nn.Module) -> None:
    """Turn parameters that need no gradient into buffers that are not saved, in place; shared ones stay shared."""
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if not parameter.requires_grad:
                del owner._parameters[name]
                owner.register_buffer(name, parameter.data, persistent=False)


@torch.no_grad()
def _spread(embeddings: Tensor, k: int) -> Tensor:
    """Return k token embeddings, each the farthest in direction from those before it (the start of k-means)."""
    unit: Any = F.normalize(embeddings.float(), dim=-1)
    chosen = [int((unit @ unit.mean(0)).argmax())]
    nearest = unit @ unit[chosen[0]]
    for _ in range(1, k):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, unit @ unit[chosen[-1]])
    return unit[chosen]
