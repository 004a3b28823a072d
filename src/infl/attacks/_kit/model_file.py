"""The run's model file as attackers get it, and as its owner can judge what they make of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from infl._isolation import torch_seed
from infl.federation.seeds import derive
from infl.models.locked import SALT, lock_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from infl.attacks._kit.audit_context import AuditContext

    Weights = Mapping[str, Tensor]


class ModelFile:
    """The model of a run, with what its owner knows of it.

    Parameters
    ----------
    context
        The run under audit.

    Attributes
    ----------
    locked
        Whether a key is needed.
    """

    def __init__(self, context: AuditContext) -> None:
        self.context, self.model, self.task = context, context.run.model, context.task
        self.locked = bool(self.model.header.fingerprint)
        self.key = context.run.key if self.locked else None

    # -- what everybody can have -----------------------------------------------------------------------------------
    def build(self, *purpose: str | int, seed: int | None = None) -> nn.Module:
        """Return a module with fresh weights; a run's own are those of its seed and ``"initial weights"``."""
        with torch_seed(derive(self.context.seed if seed is None else seed, *purpose)):
            return self.model.header.scheme().wrap(self.task.build(self.model.header.panel)).eval()

    def fresh(self, *purpose: str | int) -> dict[str, Tensor]:
        """Return random initial weights."""
        return parameters(self.build("audit", "fresh weights", *purpose))

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        """The initial weights of the run, which its public seed gives to everybody."""
        return self.start(self.context.run.settings["seed"])

    def start(self, seed: int) -> dict[str, Tensor]:
        """Return the initial weights of a run with a seed."""
        return parameters(self.build("initial weights", seed=seed))

    # -- what only the owner has -----------------------------------------------------------------------------------
    @cached_property
    def unlocked(self) -> dict[str, Tensor]:
        """The weights that the model computes with."""
        return self.model.effective(self.key)

    @property
    def noiseless(self) -> dict[str, Tensor]:
        """The same, where noise for differential privacy does not hide what was learned."""
        return self.unlocked if self.context.run.privacy is None else dict(self.context.unprotected.model.stored)

    @property
    def promised(self) -> bool:
        """Whether the lock promises that the file is worth nothing without the key."""
        return self.model.header.lock == "field" and self.model.header.strength == 1

    def locked_anew(self, weights: Weights, rng: np.random.Generator) -> dict[str, Tensor]:
        """Lock weights under the run's key and other salts; as they are where there is no field to lock with."""
        if self.model.header.lock != "field":
            return dict(weights)
        salts = {name: rng.bytes(SALT).hex() for name in weights}
        return lock_model(self.model.header, weights, {}, self.key, salts=salts).stored

    def copies(self, n: int, rng: np.random.Generator) -> list[dict[str, Tensor]]:
        """Return the stored weights and n − 1 more versions of them under other salts, to measure how chance varies.

        There is one only where no field is there to lock with.
        """
        again = (
            [self.locked_anew(self.unlocked, rng) for _ in range(n - 1)] if self.model.header.lock == "field" else []
        )
        return [dict(self.model.stored), *again]

    def accuracy(self, module: nn.Module | Weights, *, opened: bool | None = None) -> float:
        """Return the headline metric of a module, or of weights, on the sites' validation parts, all together.

        Data are read as somebody without the key would, where there is one (or as `opened` says).
        """
        if isinstance(module, Mapping):
            weights, module = module, self._bench
            module.load_state_dict(dict(weights), strict=False)
        opened = not self.locked if opened is None else opened
        total: dict[str, np.ndarray] = {}
        for data in self.context.judging(keyless=not opened):
            index = data.validation if len(data.validation) else data.train
            try:
                sums = self.task.evaluate(module, data, index)
            except ValueError:  # weights that no distribution can be made of: as good as a guess
                return self.context.chance or 0.0
            for name, value in sums.items():
                total[name] = total.get(name, 0) + value
        return self.task.summarise(total)[self.task.headline]

    @cached_property
    def _bench(self) -> nn.Module:
        module = self.build("bench")
        if not self.locked:
            self.task.configure(module, self.model.private_arrays(None))
        return module

    @cached_property
    def right(self) -> float:
        """The headline metric with the right key."""
        return self.accuracy(self.model.module(self.key), opened=True)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's weights by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}
