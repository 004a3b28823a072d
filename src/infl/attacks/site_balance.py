"""Does a hospital's case mix leak? Its class balance, guessed from the change of the last layer's bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.classifiers import last_bias
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import correlation, interval
from infl.data.labels import label_text
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext, Recorded

N_REPEATS = 12
ALPHA = 0.5
"""Of the Dirichlet distribution by which the run's patients are dealt out anew."""


class SiteBalance(Attack):
    """Property inference on the mix of classes at a site."""

    name: ClassVar[str] = "site_balance"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Does the coordinator learn a hospital's mix of diagnoses?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the task is a classifier on AnnData, without noise."""
        from anndata import AnnData

        plain = all(isinstance(a, AnnData) for a in context.sites.values())
        return isinstance(context.task, ClassProbabilities) and plain and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Deal the same patients out with skewed classes, and correlate bias changes with class shares over sites."""
        import anndata

        import infl

        together = anndata.concat(list(context.sites.values()), index_unique="-", keys=list(context.sites))
        assert isinstance(context.task, ClassProbabilities)
        target = context.task.target
        found: tuple[list[float], list[float]] = ([], [])
        for trial in range(N_REPEATS):
            seed = int(context.rng(self.name, trial).integers(2**31))
            sites = infl.pp.split_sites(together, len(context.sites), stratify=target, alpha=ALPHA, seed=seed)
            for number, changes in enumerate(({}, UNPROTECTED)):
                recorded = context.repeat(sites=sites, rounds=1, patience=0, participation=1.0, **changes)
                found[number].append(self._correlation(recorded, target, sites))
        return [
            Finding(
                metric="correlation with the class shares at each hospital",
                **interval(found[0]),
                chance=0.0,
                control=float(np.mean(found[1])),
                promised=context.sealed,
                margin=0.25,
                note="The last layer's bias moves towards the classes that a hospital has many of.",
            )
        ]

    @staticmethod
    def _correlation(recorded: Recorded, target: str, sites: dict) -> float:
        panel = recorded.outcome.replica.agreement.panel
        classes, last = panel["classes"], last_bias(recorded.outcome.replica.task, panel)
        guesses, truths = [], []
        for update in recorded.updates():
            bias = recorded.tensors(update.values)[last]
            guesses.append(bias / max(float(np.abs(bias).max()), 1e-12))
            labels = label_text(sites[update.site].obs[target])
            truths.append(np.array([(labels == c).mean() for c in classes]))
        return correlation(np.stack(guesses), np.stack(truths))
