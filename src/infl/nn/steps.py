"""What steps weights by their gradients: torch's AdamW and SGD, called as functions.

The classes of ``torch.optim`` load torch's compiler when the first of them is made, which takes longer than many a fit, and
do more around a step than a step of a small model takes. The arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

ADAMW_BETAS = 0.9, 0.999
"""Decay of AdamW's two moments."""


class Stepper:
    """AdamW or plain SGD over some weights.

    Parameters
    ----------
    parameters
        Leaves of the graph. One that has no gradient is left as it is.
    rule
        ``"adamw"`` or ``"sgd"``.
    lr, weight_decay, eps
        As torch has them.

    Examples
    --------
    >>> weight = torch.ones(2, requires_grad=True)
    >>> stepper = Stepper([weight], "sgd", lr=0.5)
    >>> weight.sum().backward()
    >>> stepper.step()
    >>> weight.tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rule: Literal["adamw", "sgd"],
        *,
        lr: float,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.rule = list(parameters), rule
        self._lr, self._weight_decay, self._eps = lr, weight_decay, eps
        self._moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by place: first, second, number of steps

    @torch.no_grad()
    def step(self) -> None:
        """Step every weight that has a gradient."""
        places = [place for place, weight in enumerate(self.parameters) if weight.grad is not None]
        weights = [self.parameters[place] for place in places]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.rule == "sgd":
            sgd(
                weights,
                gradients,
                [None] * len(weights),
                foreach=False,
                weight_decay=self._weight_decay,
                momentum=0.0,
                lr=self._lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            return
        if not places:
            return
        first, second, n_steps = (list(part) for part in zip(*map(self._moments_of, places), strict=True))
        adamw(
            weights,
            gradients,
            first,
            second,
            [],
            n_steps,
            fused=True,
            amsgrad=False,
            beta1=ADAMW_BETAS[0],
            beta2=ADAMW_BETAS[1],
            lr=self._lr,
            weight_decay=self._weight_decay,
            eps=self._eps,
            maximize=False,
        )

    def _moments_of(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        if place not in self._moments:
            weight = self.parameters[place].detach()
            n_steps = torch.zeros((), dtype=torch.float32, device=weight.device)
            self._moments[place] = (torch.zeros_like(weight), torch.zeros_like(weight), n_steps)
        return self._moments[place]

    def zero_grad(self) -> None:
        """Let the gradients go."""
        for weight in self.parameters:
            weight.grad = None

    def restart(self) -> None:
        """Forget all that was learned from earlier steps."""
        for moments in self._moments.values():
            for moment in moments:
                moment.zero_()

    def first(self, n: int) -> Stepper:
        """Return what goes on with the first `n` along each weight's leading axis, on the same memory."""
        leaves = [weight.detach()[:n].requires_grad_() for weight in self.parameters]
        less = Stepper(leaves, self.rule, lr=self._lr, weight_decay=self._weight_decay, eps=self._eps)
        for place in range(len(leaves)) if self.rule == "adamw" else ():
            first, second, n_steps = self._moments_of(place)
            less._moments[place] = (first[:n], second[:n], n_steps.clone())
        return less
