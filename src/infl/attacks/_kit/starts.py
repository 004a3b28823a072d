"""Weights that a thief may begin with: stolen ones as they are and made more usual, and those that need no theft."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from infl.attacks._kit.weights import Weights, clipped, rescaled
from infl.nn.flat import FlatModule
from infl.nn.steps import Stepper

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs and what is known."""

N_SIGNS = 2000
"""Largest weights whose signs are searched, in each tensor."""
DISTILLING_STEPS = 80


def starts(
    module: nn.Module,
    stored: Weights,
    scratch: Weights,
    initial: Weights,
    x: Tensor,
    train: np.ndarray,
    y: Tensor,
    *,
    loss: Loss = nn.functional.cross_entropy,
) -> dict[str, Weights]:
    """Return the weights that a thief may begin with, by name, of stored, fresh and public initial ones."""
    usual = rescaled(stored, scratch)
    module.load_state_dict(usual, strict=False)
    taught = described(module.eval(), x).detach()
    return {
        "stored": stored,
        "clipped": clipped(stored, scratch),
        "rescaled": usual,
        "signs": searched_signs(module, usual, x[train], y[train], loss=loss),
        "distilled": distilled(module, scratch, taught, x),
        "scratch": scratch,
        "scratch signs": searched_signs(module, scratch, x[train], y[train], loss=loss),
        "initial": initial,
    }


def searched_signs(
    module: nn.Module,
    start: Weights,
    x: Tensor,
    y: Tensor,
    *,
    largest: int = N_SIGNS,
    tries: int = 12,
    loss: Loss = nn.functional.cross_entropy,
) -> dict[str, Tensor]:
    """Flip signs of the largest weights where that lowers the training loss: greedily, many at a time.

    The change of loss by flipping w is −2w ∂L/∂w to first order. The weights that promise most are flipped together; if
    the loss does not fall, half as many are tried next.
    """
    module.load_state_dict(dict(start), strict=False)
    module.eval()
    weights = dict(module.named_parameters())
    size, best = largest, float("inf")
    kept = {n: p.detach().clone() for n, p in weights.items()}
    for _ in range(tries):
        found = loss(module(x), y)
        value = float(found.detach())
        if value < best:
            best, kept = value, {n: p.detach().clone() for n, p in weights.items()}
            gradients = torch.autograd.grad(found, list(weights.values()))
            gains = {n: 2 * p.detach() * g for (n, p), g in zip(weights.items(), gradients, strict=True)}
        else:
            size = max(size // 2, 1)
        with torch.no_grad():
            for name, parameter in weights.items():
                flipped = kept[name].flatten().clone()
                among = flipped.abs().topk(min(largest, flipped.numel())).indices
                gain = gains[name].flatten()[among]
                chosen = among[gain.topk(min(size, len(gain))).indices[: int((gain > 0).sum())]]
                flipped[chosen] *= -1
                parameter.copy_(flipped.view_as(parameter))
    return kept


def described(module: nn.Module, x: Tensor) -> Tensor:
    """Return a model's features of samples x (n, width), or its outputs where features have no weights, as in a linear model."""
    features = module.latent(x)  # type: ignore[operator]
    return features if features.requires_grad else module(x)


def distilled(
    module: nn.Module, start: Weights, teacher: Tensor, x: Tensor, *, steps: int = DISTILLING_STEPS
) -> dict[str, Tensor]:
    """Train fresh weights to describe unlabelled samples x as a stolen model does (:func:`described`)."""
    module.load_state_dict(dict(start), strict=False)
    flat_model = FlatModule(module)
    gradient = flat_model.flat.grad
    assert gradient is not None
    optimiser = Stepper([flat_model.flat], "adamw", lr=1e-3, weight_decay=0.01)
    module.train()
    for _ in range(steps):
        gradient.zero_()
        (described(module, x) - teacher).square().mean().backward()
        optimiser.step()
    return {n: v.clone() for n, v in flat_model.shared.views(flat_model.flat.data).items()}
