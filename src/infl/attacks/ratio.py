"""Why the lock alone does not hide updates: its factor is the same for all, and cancels in a ratio."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import interval, rank_correlation
from infl.attacks.analytic_leak import true_profiles
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext, Recorded

N_REPEATS = 3


def profile_ratio(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the ratio of two patients' profiles from their first layers' changes (weight (out, in), bias (out,)).

    Any factor that both changes share (the lock's M) cancels; the median over rows removes what saturated.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (first[0] / second[0]) / (first[1] / second[1])[:, None]
    return np.nanmedian(np.where(np.isfinite(ratio), ratio, np.nan), axis=0)


class Ratio(Attack):
    """Two patients' updates, divided."""

    name: ClassVar[str] = "ratio"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Does the coordinator learn how two patients compare, gene by gene?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether the task has a matrix of features, and trains without noise."""
        return isinstance(context.task, ClassProbabilities) and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Rank genes by the ratio that was read and by the true one."""
        found: list[list[float]] = [[], []]
        for number, recorded in enumerate(context.patients(N_REPEATS)):
            found[number % 2] += self._pairs(recorded)
        return [
            Finding(
                metric="rank correlation with the ratio of two profiles",
                **interval(found[0]),
                chance=0.0,
                control=float(np.mean(found[1])),
                promised=context.sealed,
                margin=0.2,
                note="The lock multiplies all hospitals' updates alike, so it cancels in a ratio; hiding updates is the seal's work.",
            )
        ]

    @staticmethod
    def _pairs(recorded: Recorded) -> list[float]:
        truth, changes = true_profiles(recorded), {}
        for update in recorded.updates():
            tensors = recorded.tensors(update.values)
            name = next(k for k, v in tensors.items() if v.ndim == 2)
            changes[update.site] = (tensors[name], tensors[name.removesuffix("weight") + "bias"])
        names = list(changes)
        result = []
        for a, b in pairwise(names):
            with np.errstate(divide="ignore", invalid="ignore"):
                result.append(rank_correlation(profile_ratio(changes[a], changes[b]), truth[a] / truth[b]))
        return result
