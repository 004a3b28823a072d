"""Aggregation rules: how sites train towards a common model, and what happens to the average of their updates.

A rule sees only the average update, never a site's, so all of these work under the seal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infl.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]


def _no_change(gradient: Tensor, weights: Tensor, anchor: Tensor) -> None:
    pass


def _add(theta: Tensor, update: Tensor, state: State) -> None:
    theta.add_(update)


@dataclass(frozen=True)
class Rule:
    """An aggregation rule.

    Attributes
    ----------
    name
        Its name in :data:`RULES`.
    at_site
        Called after each backward pass with gradient, weights and the round's global weights, all flat; changes the
        gradient in place.
    at_sum
        Called with global weights, average update and the rule's own state; changes weights and state in place.
    """

    name: str
    at_site: Callable[[Tensor, Tensor, Tensor], None] = _no_change
    at_sum: Callable[[Tensor, Tensor, State], None] = _add


def fedavg() -> Rule:
    """Average of the sites' updates, weighted by their training samples (McMahan et al., AISTATS 2017)."""
    return Rule("fedavg")


def fedprox(mu: float = 0.01) -> Rule:
    """FedAvg whose sites are pulled back to the global model by ``mu / 2 · ‖θ − θ_global‖²`` (Li et al., MLSys 2020)."""
    if not mu >= 0:
        raise SettingsError(f"fedprox mu={mu}: give a number of at least 0")

    def pull(gradient: Tensor, weights: Tensor, anchor: Tensor) -> None:
        gradient.add_(weights - anchor, alpha=mu)

    return Rule("fedprox", at_site=pull)


def fedadam(lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-4) -> Rule:
    """Adam on the average update as a pseudo-gradient (Reddi et al., ICLR 2021), with bias correction."""
    if not lr > 0:
        raise SettingsError(f"fedadam lr={lr}: give a number above 0")

    def step(theta: Tensor, update: Tensor, state: State) -> None:
        if not state:
            state |= {"mean": update.new_zeros(len(update)), "square": update.new_zeros(len(update))}
            state["count"] = update.new_zeros(())
        state["count"] += 1
        count = float(state["count"])
        state["mean"].mul_(beta1).add_(update, alpha=1 - beta1)
        state["square"].mul_(beta2).addcmul_(update, update, value=1 - beta2)
        spread = (state["square"] / (1 - beta2**count)).sqrt_().add_(eps)
        theta.addcdiv_(state["mean"], spread, value=lr / (1 - beta1**count))

    return Rule("fedadam", at_sum=step)


RULES: dict[str, Callable[..., Rule]] = {"fedavg": fedavg, "fedprox": fedprox, "fedadam": fedadam}


def rule(name: str, options: Mapping[str, Any]) -> Rule:
    """Return a rule by its name.

    Raises
    ------
    SettingsError
        Unknown rule or option.
    """
    if name not in RULES:
        raise SettingsError(f"aggregation={name!r} is not known: one of {', '.join(map(repr, RULES))}")
    try:
        return RULES[name](**options)
    except TypeError:
        raise SettingsError(f"aggregation={name!r} does not take the options {sorted(options)}") from None
