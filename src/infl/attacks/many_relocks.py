"""Many re-locks: does the average of many locks of one model open it?

Below full strength most signs are kept, so the mean of stored weights over independent locks is the effective weights, made
smaller. Files of one model are many: each site's own, a run that was repeated, each time that it was locked again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import cross_chosen, interval
from infl.attacks._kit.weights import averaged, random_ring, rescaled
from infl.models.locked import SALT, LockedModel, lock_model

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext
    from infl.attacks._kit.weights import Weights
    from infl.keys import Keyring

N_FILES = 32
N_TRIALS = 4
STRENGTH = 0.5


class ManyRelocks(Attack):
    """Average many versions of one model, each from :meth:`infl.models.LockedModel.relock`."""

    name: ClassVar[str] = "many_relocks"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Do many locks of one model tell more than one of them?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the model has a field lock, and it is known what a guess is worth."""
        header = context.run.model.header
        return header.lock == "field" and header.strength > 0 and context.chance is not None

    def run(self, context: AuditContext) -> list[Finding]:
        """Judge the average of many files by what it gains over one file; in each trial under another key."""
        file, rng = ModelFile(context), context.rng(self.name)
        strength = min(file.model.header.strength, STRENGTH)
        table: dict[str, list[list[float]]] = {"relocked": [], "fresh": []}
        alone = []
        for trial in range(N_TRIALS):
            ring = random_ring(rng)
            header = replace(file.model.header, strength=strength, key_version=1, fingerprint=ring.fingerprint(1))
            model = lock_model(header, file.unlocked, {}, ring)
            usual = file.fresh(self.name, trial)

            def read(files: list[Weights], usual: Weights = usual) -> list[float]:
                mean = averaged([dict(f) for f in files])
                return [file.accuracy(mean), file.accuracy(rescaled(mean, usual))]

            alone.append(read([model.stored]))
            table["relocked"].append(read([model.relock(ring).stored for _ in range(N_FILES)]))
            table["fresh"].append(read([_under_fresh_salts(model, file.unlocked, ring, rng) for _ in range(N_FILES)]))
        gain, _ = cross_chosen(np.array(table["relocked"]).T - np.array(alone).T)
        control, _ = cross_chosen(np.array(table["fresh"]).T)
        chance, ends = float(np.mean(alone)), interval(gain)
        return [
            Finding(
                metric=f"{context.task.headline}, average of {N_FILES} locks of the model",
                **{end: chance + ends[end] for end in ("value", "low", "high")},
                trials=ends["trials"],
                chance=chance,
                control=float(control.mean()),
                promised=True,
                margin=0.2,
                note=f"The model locked again {N_FILES} times at strength {strength:g} and averaged. Chance: one file. Control: "
                "each time under fresh salts.",
            )
        ]


def _under_fresh_salts(model: LockedModel, weights: Weights, ring: Keyring, rng: np.random.Generator) -> Weights:
    salts = {name: rng.bytes(SALT).hex() for name in weights}
    return lock_model(model.header, weights, {}, ring, salts=salts).stored
