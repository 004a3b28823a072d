"""Attacks on messages of one patient: hospitals that train one step on one patient each, under the run's protection and without."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import interval
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext, Recorded


class OnPatients(Attack):
    """Base of attacks that read updates made of one patient; the control is the same on updates in the clear."""

    against: ClassVar[Attacker] = Attacker.COORDINATOR
    quick: ClassVar[bool] = True
    n_repeats: ClassVar[int]
    """How many times hospitals train on other patients."""
    metric: ClassVar[str]
    margin: ClassVar[float]
    note: ClassVar[str]

    def applies(self, context: AuditContext) -> bool:
        """Whether the task has a matrix of features, and trains without noise."""
        return isinstance(context.task, ClassProbabilities) and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Compare what is read with the truth, in runs under protection and in the clear by turns."""
        found: list[list[float]] = [[], []]
        for number, recorded in enumerate(context.patients(self.n_repeats)):
            found[number % 2] += self.read(recorded)
        return [
            Finding(
                metric=self.metric,
                **interval(found[0]),
                chance=0.0,
                control=float(np.mean(found[1])),
                promised=context.sealed,
                margin=self.margin,
                note=self.note,
            )
        ]

    @abstractmethod
    def read(self, recorded: Recorded) -> list[float]:
        """Return how well what is read from the updates agrees with the truth: a correlation per patient or pair of patients."""
