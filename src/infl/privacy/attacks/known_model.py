"""Known plaintext: does an opened earlier model, or the public start of training, open this one?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from infl.models.locked import LockedModel, lock_model
from infl.privacy.attacks.contract import Attack, Attacker, Finding
from infl.privacy.attacks.keys import judge

if TYPE_CHECKING:
    from infl.privacy.attacks.evidence import Evidence


def opened_like(new: dict[str, Tensor], old: dict[str, Tensor], old_effective: dict[str, Tensor]) -> dict[str, Tensor]:
    """Open stored weights with the factors that an opened model shows: ``stored_new · effective_old / stored_old``."""
    return {
        n: t * (old_effective[n] / torch.where(old[n] == 0, torch.ones_like(old[n]), old[n])) for n, t in new.items()
    }


class KnownModel(Attack):
    """Use what is known of another model, or of the start, to open this one."""

    name: ClassVar[str] = "known_model"
    against: ClassVar[Attacker] = Attacker.FORMER_MEMBER
    question: ClassVar[str] = "Does an earlier model that was opened once, or the public start, open the next?"
    quick: ClassVar[bool] = False
    n_trials: ClassVar[int] = 5

    def applies(self, evidence: Evidence) -> bool:
        """Whether the model has a field lock."""
        return evidence.run.model.header.lock == "field" and evidence.run.key is not None

    def run(self, evidence: Evidence) -> list[Finding]:
        """Open with an earlier model of the same key, and with the initial weights."""
        key, model = evidence.run.key, evidence.run.model
        assert key is not None
        effective, private = model.effective(key), model.private_arrays(key)
        chance, promised = 1 / len(evidence.panel["classes"]), model.header.strength == 1
        earlier = evidence.repeat(seed=evidence.run.settings["seed"] + 1).model
        earlier_effective = earlier.effective(key)
        initial = self._initial(evidence)

        def value(weights: dict[str, Tensor]) -> float:
            module = evidence.task.build(evidence.panel)
            module.load_state_dict(weights, strict=False)
            return judge(evidence, module.eval(), keyless=True)

        right = judge(evidence, model.module(key), keyless=False)
        versions: list[LockedModel] = [lock_model(model.header, effective, private, key) for _ in range(self.n_trials)]
        results = {
            "an earlier model of the same key, opened": [
                value(opened_like(m.stored, earlier.stored, earlier_effective)) for m in versions
            ],
            "the public initial weights": [
                max(value(opened_like(m.stored, m.stored, initial)), value(self._signs(m.stored, initial)))
                for m in versions
            ],
        }
        findings = []
        for what, values in results.items():
            half = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
            mean = float(np.mean(values))
            note = f"The thief has {what}. Control: with the right key."
            findings.append(
                Finding(
                    evidence.task.headline,
                    mean,
                    mean - half,
                    mean + half,
                    chance,
                    right,
                    promised,
                    0.5 * (1 - chance),
                    note,
                )
            )
        return findings

    @staticmethod
    def _initial(evidence: Evidence) -> dict[str, Tensor]:
        from infl.federation.replica import build_bench

        bench = build_bench(evidence.task, evidence.protected.outcome.replica.agreement)
        return {name: view.clone() for name, view in bench.shared.views(bench.copy_shared()).items()}

    @staticmethod
    def _signs(stored: dict[str, Tensor], initial: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the stored sizes with the initial signs."""
        return {name: tensor.abs() * initial[name].sign() for name, tensor in stored.items()}
