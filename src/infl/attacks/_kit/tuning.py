"""Training many weights of one module at once, each with its learning rate: what a thief tries is a stack.

For small models most of a step's time is the calling of operations, and for all of them the traffic of fresh memory; a stack
does both once. Results are those of torch's AdamW on each alone, to rounding: all see the same samples and the same dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim.adamw import adamw

from infl.nn.dropout import dropout_by
from infl.nn.steps import ADAMW_BETAS

Stack = Mapping[str, Tensor]
"""Tensors by name, with a leading axis over weights that are trained beside each other."""

LARGEST_STACK = 1 << 23
"""Numbers in the weights of a stack (32 MiB); beyond that they are trained in several stacks."""


@dataclass(frozen=True)
class Tuned:
    """A module under several weights.

    Attributes
    ----------
    module
        Gives the architecture.
    weights
        By name. ``(n, …)``
    """

    module: nn.Module
    weights: Stack

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Map (n_samples, n_features) to logits (n, n_samples, n_classes)."""
        self.module.eval()
        return vmap(lambda weights: functional_call(self.module, weights, (x,)))(self.weights)

    def load(self, number: int) -> nn.Module:
        """Return the module, in evaluation mode, with the weights of one number."""
        self.module.load_state_dict({name: w[number] for name, w in self.weights.items()}, strict=False)
        return self.module.eval()


def train(
    module: nn.Module,
    begin: Stack,
    rates: Sequence[float],
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    effective: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
    fixed: Stack | None = None,
    quicker: Callable[[str], float] = lambda name: 1.0,
    multiplicative: bool = False,
    head: str = "head",
    head_steps: int = 0,
    steps: int,
) -> dict[str, Tensor]:
    """Train a stack with AdamW, full batch, once at each learning rate.

    Parameters
    ----------
    module
        Gives the architecture; its own weights are not touched.
    begin
        What is trained, by name. ``(n_starts, …)``
    rates
        Learning rates.
    loss
        Of outputs (n_samples, n_classes).
    x
        Samples. ``(n_samples, n_features)``
    effective
        Gives the module's weights of one row of what is trained, and of what is fixed.
    fixed
        What stays as it is, by name. ``(n_starts, …)``
    quicker
        Factor of the learning rate of what has a name.
    multiplicative
        Whether a number's step is in proportion to its own size at the beginning.
    head, head_steps
        How the names of the last layer's weights begin, and for how many of the first steps it is trained alone.
    steps
        Number of steps.

    Returns
    -------
    What was trained, for the first rate, then for the next. ``(n_rates × n_starts, …)``
    """
    n = len(next(iter(begin.values())))
    # Gradients of matrices come out in the other order: stored like that, they need not be copied.
    turned = {name for name, w in begin.items() if w.ndim == 3}
    stack = {name: torch.cat([w.mT if name in turned else w] * len(rates)).contiguous() for name, w in begin.items()}
    for w in stack.values():
        w.requires_grad_()
    still = {name: torch.cat([w] * len(rates)) for name, w in (fixed or {}).items()}
    adam = _Adam(stack, rates, n, quicker, multiplicative)
    features, last = _Features(module), getattr(module, head)

    def opened(row: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return effective({name: w.mT if name in turned else w for name, w in row.items()})

    def of_all(row: Mapping[str, Tensor]) -> Tensor:
        return loss(functional_call(module, dict(opened(row)), (x,)))

    def latent(row: Mapping[str, Tensor]) -> Tensor:
        return functional_call(features, {f"module.{name}": w for name, w in opened(row).items()}, (x,))

    def of_head(row: Mapping[str, Tensor], z: Tensor) -> Tensor:
        own = {name.removeprefix(f"{head}."): w for name, w in opened(row).items() if name.startswith(f"{head}.")}
        return loss(functional_call(last, own, (z,)))

    module.train()
    with dropout_by(module, _drop):
        for step in range(steps):
            if step < head_steps:  # what is below the last layer is the same at all rates
                with torch.no_grad():
                    first = {name: w[:n] for name, w in stack.items()}
                    z = vmap(latent, randomness="same")(first).repeat(len(rates), 1, 1)
                moved = {name: w for name, w in stack.items() if name.startswith(head)}
                losses = vmap(of_head, randomness="same")(moved, z)
            else:
                moved = stack
                losses = vmap(of_all, randomness="same")({**stack, **still})
            gradients = torch.autograd.grad(losses.sum(), list(moved.values()))
            # torch's fused step reads gradients in the order of memory
            adam.step(step, {name: g.contiguous() for name, g in zip(moved, gradients, strict=True)})
    return {name: (w.mT if name in turned else w).detach() for name, w in stack.items()}


def _drop(part: nn.Dropout, x: Tensor) -> Tensor:
    """Drop as torch does, the same of every row."""
    return x * torch.empty(x.shape).bernoulli_(1 - part.p).div_(1 - part.p)


class _Features(nn.Module):
    """A module whose forward pass is another's features."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.latent(x)  # type: ignore[operator]


class _Adam:
    """Steps of a stack: `n` rows at the first rate, as many at the next."""

    def __init__(
        self, stack: Stack, rates: Sequence[float], n: int, quicker: Callable[[str], float], multiplicative: bool
    ) -> None:
        self._stack = {name: w.detach() for name, w in stack.items()}
        self._moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in self._stack.items()}
        self._runs = [(rate, slice(n * place, n * place + n)) for place, rate in enumerate(rates)]
        self._quicker = quicker
        self._sizes = {}
        if multiplicative:
            for name, w in self._stack.items():
                mean = w.abs().flatten(1).mean(1).clamp(min=1e-12)
                self._sizes[name] = w.abs() / mean.view(-1, *[1] * (w.ndim - 1))

    @torch.no_grad()
    def step(self, number: int, gradients: Mapping[str, Tensor]) -> None:
        """Step what has gradients; `number` counts from 0."""
        before = {name: self._stack[name].clone() for name in gradients if name in self._sizes}
        for factor in {self._quicker(name) for name in gradients}:
            names = [name for name in gradients if self._quicker(name) == factor]
            for rate, rows in self._runs:
                parts: Any = [(self._stack[n], gradients[n], *self._moments[n]) for n in names]
                weights, slopes, first, second = ([t[rows] for t in tensors] for tensors in zip(*parts, strict=True))
                adamw(
                    weights,
                    slopes,
                    first,
                    second,
                    [],
                    [torch.tensor(float(number)) for _ in names],
                    fused=True,
                    amsgrad=False,
                    beta1=ADAMW_BETAS[0],
                    beta2=ADAMW_BETAS[1],
                    lr=rate * factor,
                    weight_decay=1e-4,
                    eps=1e-8,
                    maximize=False,
                )
        for name, old in before.items():
            self._stack[name].sub_(old).mul_(self._sizes[name]).add_(old)
