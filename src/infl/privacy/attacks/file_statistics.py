"""What the file says without a key: does any stored number follow the cohort's?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.privacy.attacks.contract import Attack, Attacker, Finding
from infl.privacy.attacks.statistics import rank_correlation

if TYPE_CHECKING:
    from infl.models.locked import LockedModel
    from infl.privacy.attacks.evidence import Evidence


def per_feature(model: LockedModel, name: str) -> dict[str, np.ndarray]:
    """Return every number that a file has for each feature: statistics of columns, and open private arrays."""
    weight = model.stored[name].numpy().astype(float)
    numbers = {
        "mean": weight.mean(0),
        "mean size": np.abs(weight).mean(0),
        "spread": weight.std(0),
        "largest": np.abs(weight).max(0),
    }
    if not model.header.fingerprint:
        private = model.private_arrays(None)
        numbers |= {k: v for k, v in private.items() if np.shape(v) == (weight.shape[1],)}
    return numbers


class FileStatistics(Attack):
    """Look for the cohort's moments in the file."""

    name: ClassVar[str] = "file_statistics"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Does any number in the file follow the cohort's averages?"
    quick: ClassVar[bool] = True

    def applies(self, evidence: Evidence) -> bool:
        """Whether the task keeps moments of named features."""
        named = any(1 in axes for axes in evidence.task.units(evidence.panel).values())
        return named and "center" in evidence.unprotected.outcome.replica.private

    def run(self, evidence: Evidence) -> list[Finding]:
        """Take the best of all numbers; the margin allows for the search."""
        name = next(n for n, axes in evidence.task.units(evidence.panel).items() if 1 in axes)
        cohort = evidence.unprotected.outcome.replica.private
        truths = (cohort["center"], cohort["scale"])

        def best(model: LockedModel) -> float:
            return max(abs(rank_correlation(v, t)) for v in per_feature(model, name).values() for t in truths)

        value, half = best(evidence.run.model), 1.96 / len(truths[0]) ** 0.5
        return [
            Finding(
                metric="largest rank correlation with the cohort's moments",
                value=value,
                low=value - 1.5 * half,  # the largest of eight
                high=value + 1.5 * half,
                chance=0.0,
                control=best(evidence.unprotected.model),
                promised=evidence.run.model.header.lock == "field" and evidence.run.model.header.strength == 1,
                margin=0.4,
                note="All numbers that the file has for a gene, against the cohort's mean and spread of that gene.",
            )
        ]
