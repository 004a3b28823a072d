"""What a curious site sees: whether somebody's record is in the sums that it opens, without a single message of another site.

A site has the opened sum of every round, its own part of it, and the model before it. A record that was trained on pulls the
others' part along its own gradient. How much, is compared with shadow runs in which the record is known to take part, or not.

References
----------
Nasr, Shokri, Houmansadr, Comprehensive privacy analysis of deep learning, IEEE S&P 2019 (a participant's view of federated
training). Li, Rezaei, Liu, Effective passive membership inference attacks in federated learning against overparameterized
models, ICLR 2023 (the cosine of gradient and update). Carlini et al., IEEE S&P 2022 (the likelihood ratio).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from infl.attacks._kit.audit_context import AuditContext
from infl.attacks._kit.contract import Attacker, Finding
from infl.attacks._kit.shadows import Shadow, overfitted, shadows, stacked
from infl.attacks.membership import AREA_UNDER_CURVE, OfMembership, Score, likelihood_ratios
from infl.federation.rules import rule
from infl.models.labelled import area_under_curve

N_SHADOWS = 18


class SumMembership(OfMembership):
    """Likelihood ratios of how far the sums of all rounds go along a record's gradient.

    Examples
    --------
    >>> SumMembership().name, SumMembership.against.value
    ('sum_membership', 'curious site')
    """

    name: ClassVar[str] = "sum_membership"
    against: ClassVar[Attacker] = Attacker.CURIOUS_SITE
    question: ClassVar[str] = "Can a hospital tell from the opened sums whether a record of another one is in them?"

    def applies(self, context: AuditContext) -> bool:
        """Whether sums of a classifier can be followed from round to round."""
        settings = context.run.settings
        plain = rule(settings["aggregation"], settings["aggregation_options"]).importance is None
        return super().applies(context) and plain and len(context.sites) > 1

    def run(self, context: AuditContext) -> list[Finding]:
        """Attack the sums of runs trained as this one, of overfitted ones as the control; records of the site itself apart."""
        models, control = shadows(context, N_SHADOWS), overfitted(context, N_SHADOWS)
        own = next(iter(context.sites.values())).n_obs  # the first site is the curious one

        def by(name: str) -> Score:
            def score(models: list[Shadow]) -> np.ndarray:
                ratios = likelihood_ratios(stacked(models, name), stacked(models, "member"))
                ratios[:, :own] = np.nan
                return ratios

            return score

        finding = self.found(context, "the sums of all rounds", by("in_sums"), models, control, AREA_UNDER_CURVE)
        member = stacked(models, "member")
        alone, output = (area_under_curve(by(name)(models), member) for name in ("in_messages", "confidence"))
        compared = f" Without a seal, by single messages: {alone:.2f}; by what the last model says: {output:.2f}."
        return [replace(finding, note=finding.note + compared)]
