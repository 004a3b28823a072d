"""How phenotypes that are linear by default are trained: gradient descent, whose end after a few rounds is a ridge penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from infl._parameters import Choice, Kind, Real, Whole
from infl.models.phenotype.task import Phenotype
from infl.models.task import Task

LINEAR_LR, LINEAR_STEPS = 1.0, 3
"""Of gradient descent on a linear model of records of length 1, whose curvature is at most about 1: twice the step diverges where
features are few, or all alike."""
PRIVATE_LR = 0.01
"""Longest step of Adam on a linear model under differential privacy, where it steps whatever was asked for."""


def steps_of(width: int, optimiser: str | None) -> dict[str, Any]:
    """Return optimiser, step, weight decay and fewest steps of a phenotype's model for which none were given.

    A linear model descends along the gradient: ending early is then the ridge penalty. With one step a round AdamW would weight features by
    how often their gradient keeps its sign, which with few records is far worse.

    Examples
    --------
    >>> steps_of(0, None), steps_of(64, None)["optimiser"]
    ({'optimiser': 'sgd', 'lr': 1.0, 'weight_decay': 0.0, 'min_steps': 3}, 'adamw')
    """
    if not width and optimiser in (None, "sgd"):
        return {"optimiser": "sgd", "lr": LINEAR_LR, "weight_decay": 0.0, "min_steps": LINEAR_STEPS}
    return {
        "optimiser": "adamw",
        "lr": Task.lr,
        "weight_decay": Task.weight_decay,
        "min_steps": Task.min_steps,
    }


@dataclass(frozen=True)
class LinearByDefault(Phenotype):
    """Base of phenotypes that are linear unless a width is given, and are trained as suits the width unless it is said how."""

    width: int = 0
    optimiser: Literal["adamw", "sgd"] = None  # type: ignore[assignment]  # a rule and numbers once it is made
    lr: float = None  # type: ignore[assignment]
    weight_decay: float = None  # type: ignore[assignment]
    min_steps: int = None  # type: ignore[assignment,misc]

    parameters: ClassVar[dict[str, Kind]] = Phenotype.parameters | {
        "optimiser": Choice(("adamw", "sgd"), none=True),
        "lr": Real(0, open="low", none=True),
        "weight_decay": Real(0, none=True),
        "min_steps": Whole(1, none=True),
    }

    def __post_init__(self) -> None:
        for name, value in steps_of(self.width, self.optimiser).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()
