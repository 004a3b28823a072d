"""What an aggregation rule is: what sites change in their gradients, and what becomes of the average of their updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infl.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]


def _no_change(gradient: Tensor, weights: Tensor, anchor: Tensor) -> None:
    pass


def _add(theta: Tensor, update: Tensor, state: State) -> None:
    theta.add_(update)


@dataclass(frozen=True)
class AtSite:
    """What a site's factor in the average may follow from.

    Attributes
    ----------
    loss
        Mean training loss of the round.
    n
        Training samples.
    excess
        Sum of losses above the mean, over the rounds before.
    last
        Mean training loss of all sites in the round before (1: not known).
    mean_n
        Training samples of a site on average.

    Examples
    --------
    >>> AtSite(loss=0.3, n=50).last
    1.0
    """

    loss: float
    n: int
    excess: float = 0.0
    last: float = 1.0
    mean_n: float = 1.0


@dataclass(frozen=True)
class Rule:
    """An aggregation rule.

    Attributes
    ----------
    name
        Its name in ``RULES``.
    at_site
        Called after each backward pass with gradient, weights and the round's global weights, all flat; changes the
        gradient in place.
    at_sum
        Called with global weights, average update and the rule's own state; changes weights and state in place.
    importance
        Factor of a site's update in the average, beside its number of samples, from its training loss of the round, that
        number, and its excess: by how much its losses of the rounds before were above those of all, added up.
    control
        Whether sites correct their gradients by control variates: mean gradients, which travel beside the update.
    local
        Modules, by any part of their dotted name, whose parameters stay at the sites.

    Examples
    --------
    >>> rule = Rule("personal", local=("head",))
    >>> rule.is_local("head.weight"), rule.is_local("body.weight")
    (True, False)
    """

    name: str
    at_site: Callable[[Tensor, Tensor, Tensor], None] = _no_change
    at_sum: Callable[[Tensor, Tensor, State], None] = _add
    importance: Callable[[AtSite], float] | None = None
    control: bool = False
    local: tuple[str, ...] = ()

    def change(self, theta: Tensor, update: Tensor, state: State) -> None:
        """Change the global weights by an average update.

        Raises
        ------
        SettingsError
            The rule returns other weights, which nobody would use.
        """
        found: object = self.at_sum(theta, update, state)  # type: ignore[func-returns-value]  # what others wrote may
        if found is not None and found is not theta:
            raise SettingsError(
                f"aggregation={self.name!r}: at_sum returns {type(found).__name__}, which is not used: change the weights in place, e.g. "
                "theta.add_(update)"
            )

    def is_local(self, parameter: str) -> bool:
        """Whether a parameter stays at its site."""
        return any(part in self.local for part in parameter.split("."))
