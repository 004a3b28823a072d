"""Aggregation rules with an optimiser at the global model, for which the average update is a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from infl.errors import SettingsError
from infl.federation.aggregation import Rule, State

if TYPE_CHECKING:
    from torch import Tensor


def fedadam(lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-4) -> Rule:
    """Adam on the average update as a pseudo-gradient (Reddi et al., ICLR 2021), with bias correction.

    Parameters
    ----------
    lr
        Step of the global model.
    beta1, beta2
        Memory of the first and the second moment.
    eps
        Added to the root of the second moment.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> import torch
    >>> theta = torch.zeros(2)
    >>> fedadam(lr=0.5, eps=0.0).at_sum(theta, torch.tensor([3.0, -2.0]), {})
    >>> theta  # after one round a step of the size of lr, whatever the update
    tensor([ 0.5000, -0.5000])
    """

    def square(v: Tensor, u: Tensor) -> None:
        v.mul_(beta2).addcmul_(u, u, value=1 - beta2)

    return _adaptive("fedadam", square, lr, beta1, beta2, eps)


def fedyogi(lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-4) -> Rule:
    """Like FedAdam, with a second moment that falls slowly where updates are rare: ``v − (1 − β₂) u² sign(v − u²)``.

    Reddi et al., ICLR 2021; with bias correction.

    Parameters
    ----------
    lr, beta1, beta2, eps
        As for :func:`fedadam`.

    Returns
    -------
    Rule
        To be named in ``aggregation=``.

    Examples
    --------
    >>> import torch
    >>> yogi, state = fedyogi(), {}
    >>> for update in (torch.tensor([2.0]), torch.zeros(1)):
    ...     yogi.at_sum(torch.zeros(1), update, state)
    >>> state["square"]  # a round without an update leaves it as it is
    tensor([0.0400])
    """

    def square(v: Tensor, u: Tensor) -> None:
        squared = u.square()
        v.sub_(squared * (v - squared).sign(), alpha=1 - beta2)

    return _adaptive("fedyogi", square, lr, beta1, beta2, eps)


def _adaptive(
    name: str, square: Callable[[Tensor, Tensor], None], lr: float, beta1: float, beta2: float, eps: float
) -> Rule:
    if not lr > 0:
        raise SettingsError(f"{name} lr={lr}: give a number above 0")

    def step(theta: Tensor, update: Tensor, state: State) -> None:
        if not state:
            state |= {"mean": update.new_zeros(len(update)), "square": update.new_zeros(len(update))}
            state["count"] = update.new_zeros(())
        state["count"] += 1
        count = float(state["count"])
        state["mean"].mul_(beta1).add_(update, alpha=1 - beta1)
        square(state["square"], update)
        spread = (state["square"] / (1 - beta2**count)).sqrt_().add_(eps)
        theta.addcdiv_(state["mean"], spread, value=lr / (1 - beta1**count))

    return Rule(name, at_sum=step)
