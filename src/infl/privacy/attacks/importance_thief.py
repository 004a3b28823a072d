"""Which features matter? Column norms of the stored first layer against those of the unlocked one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.privacy.attacks.contract import Attack, Attacker, Finding
from infl.privacy.attacks.statistics import rank_correlation

if TYPE_CHECKING:
    from infl.privacy.attacks.evidence import Evidence


def column_norms(weight: np.ndarray) -> np.ndarray:
    """Return the norm of each column of a layer's weight (out, in): (in,)."""
    return np.linalg.norm(weight, axis=0)


class ImportanceThief(Attack):
    """Rank features by the stored weights' norms."""

    name: ClassVar[str] = "importance_thief"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Does the file tell a thief which genes matter?"
    quick: ClassVar[bool] = True

    def applies(self, evidence: Evidence) -> bool:
        """Whether the first layer has named features."""
        return any(1 in axes for axes in evidence.task.units(evidence.panel).values())

    def run(self, evidence: Evidence) -> list[Finding]:
        """Correlate ranks; the interval is that of a rank correlation over features."""
        name = next(n for n, axes in evidence.task.units(evidence.panel).items() if 1 in axes)
        # a trained first layer is its start, which is public, plus what was learned: importance is in the change
        from infl.federation.replica import build_bench

        replica = evidence.protected.outcome.replica
        start = build_bench(evidence.task, replica.agreement)
        initial = start.shared.views(start.copy_shared())[name].numpy()
        true = column_norms(evidence.unprotected.model.stored[name].numpy() - initial)
        key = evidence.run.key if evidence.run.model.header.fingerprint else None
        control = rank_correlation(column_norms(evidence.run.model.effective(key)[name].numpy() - initial), true)
        stored = evidence.run.model.stored[name].numpy()
        value = max((rank_correlation(column_norms(guess), true) for guess in (stored, stored - initial)), key=abs)
        half = 1.96 / len(true) ** 0.5
        return [
            Finding(
                metric="rank correlation with the features' importance",
                value=abs(value),
                low=abs(value) - half,
                high=abs(value) + half,
                chance=0.0,
                control=control,
                promised=evidence.run.model.header.lock == "field" and evidence.run.model.header.strength == 1,
                margin=0.3,
                note="Importance is how far training moved a feature's weights; the thief has the stored ones and the start.",
            )
        ]
