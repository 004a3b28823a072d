"""A chosen salt: does a coordinator that offers the salt of an earlier run learn how that run's model was locked?

It offers two runs under that salt with a learning rate of nothing, so that their models have the initial weights, which
public seeds give. Had all three one salt, two known models would give each weight's factor and term, and open the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import interval
from infl.attacks._kit.weights import Weights
from infl.attacks.known_model import fitted_field, opened_with
from infl.models.locked import lock_model

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_TRIALS = 8
STILL = 1e-12  # a learning rate that moves nothing


class ChosenSalt(Attack):
    """Offer two runs whose weights are known under the salt of the run under audit, and open that one's model."""

    name: ClassVar[str] = "chosen_salt"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Does a coordinator that offers an earlier run's salt open that run's model?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the model has a field lock, and it is known what a guess is worth."""
        return context.run.model.header.lock == "field" and context.chance is not None

    def run(self, context: AuditContext) -> list[Finding]:
        """Offer the runs, and open the model with what their files show."""
        file, settings = ModelFile(context), context.run.settings
        offer: dict[str, Any] = {"salt": settings["salt"], "rounds": 1, "patience": 0} | context.without_noise
        still: dict[str, Any] = {"lr": STILL}
        offer["task"] = replace(context.task, **still)
        values, control = [], []
        for trial in range(N_TRIALS):
            seeds = [settings["seed"] + 1 + 2 * trial + i for i in range(2)]
            known = [file.start(seed) for seed in seeds]
            files = [context.repeat(seed=seed, **offer).model.stored for seed in seeds]
            values.append(self._opened(file, files, known))
            salts = file.model.header.salts
            same = [lock_model(file.model.header, k, {}, file.key, salts=salts).stored for k in known]
            control.append(self._opened(file, same, known))
        chance = context.chance
        assert chance is not None
        return [
            Finding(
                metric=context.task.headline,
                **interval(values),
                chance=chance,
                control=float(np.mean(control)),
                promised=file.promised,
                margin=0.5 * max(file.right - chance, 0.2),
                note="Two runs whose weights are public, offered under the salt of this one; their files solved for this "
                "model's factors. Control: the three under one salt.",
            )
        ]

    @staticmethod
    def _opened(file: ModelFile, files: Sequence[Weights], known: Sequence[Weights]) -> float:
        return file.accuracy(opened_with(file.model.stored, fitted_field(list(zip(files, known, strict=True)))))
