"""Does the coordinator learn which hospital's patients have high values? Read off the change of the intercept."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from infl.attacks import UNPROTECTED, Attack, Attacker, Finding, correlation, interval

if TYPE_CHECKING:
    from infl.attacks import AuditContext

N_REPEATS = 6


class TargetMean(Attack):
    """A step of gradient descent moves the intercept towards the mean of the site's own patients."""

    name: ClassVar[str] = "target_mean"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Does the coordinator learn which hospital's patients have high values?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether the run is a regression without noise."""
        return context.task.name == "regression" and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Correlate what a listener reads with the truth over sites, with the run's protections and without."""
        found: dict[bool, list[float]] = {True: [], False: []}
        for trial in range(N_REPEATS):
            dealt = self._dealt(context, trial)
            for protected, changes in ((True, {}), (False, UNPROTECTED)):
                heard = context.repeat(sites=dealt, rounds=1, patience=0, participation=1.0, **changes)
                found[protected].append(self._correlation(heard, dealt, context.task.options()["target"]))
        return [
            Finding(
                metric="correlation with the mean at each hospital",
                **interval(found[True]),
                chance=0.0,
                control=float(np.mean(found[False])),
                promised=context.sealed,
                margin=0.3,
                note="The intercept moves towards a hospital's own mean; the seal hides how each of them moved it.",
            )
        ]

    @staticmethod
    def _dealt(context: AuditContext, trial: int) -> dict:
        """Deal the run's patients out anew, such that hospitals have high, middle and low values in unequal parts."""
        import anndata

        import infl

        everyone = anndata.concat(list(context.sites.values()), index_unique="-", keys=list(context.sites))
        values = everyone.obs[context.task.options()["target"]]
        everyone.obs["third"] = pd.qcut(values, 3, labels=["low", "middle", "high"]).astype(str)
        seed = int(context.rng("target_mean", trial).integers(2**31))
        return infl.pp.split_sites(everyone, len(context.sites), stratify="third", alpha=0.5, seed=seed)

    @staticmethod
    def _correlation(heard: object, dealt: dict, target: str) -> float:
        updates = {update.site: heard.tensors(update.values)["head.bias"].item() for update in heard.updates()}
        means = [dealt[site].obs[target].mean() for site in updates]
        return correlation(np.array(list(updates.values())), np.array(means))
