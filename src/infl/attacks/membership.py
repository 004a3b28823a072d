"""Were you in it? Membership inference by likelihood ratios against shadow models (LiRA), and by the loss alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.shadows import Shadow, confidences, overfitted, shadows, stacked
from infl.models.labelled import area_under_curve
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_SHADOWS = 18
FPR = 0.01

Score = Callable[[list[Shadow]], np.ndarray]
"""From models to scores of membership (models, records)."""


def likelihood_ratio(
    target: np.ndarray, scores: np.ndarray, member: np.ndarray, used: np.ndarray | None = None
) -> np.ndarray:
    """Return the log-likelihood ratio of membership of each record in a model; nan where the shadows do not tell.

    Parameters
    ----------
    target
        The model's confidence in each record. ``(records,)``
    scores
        That of shadow models. ``(shadows, records)``
    member
        Whether the record trained the shadow. ``(shadows, records)``
    used
        Whether the shadow counts for the record (default: all do).

    References
    ----------
    Carlini et al., Membership inference attacks from first principles, IEEE S&P 2022: the online attack, with one
    variance for all records, as they advise for few shadow models.
    """
    used = np.ones_like(member) if used is None else used
    logs = []
    for these in (member & used, ~member & used):
        n = these.sum(0)
        mean = np.where(these, scores, 0).sum(0) / np.where(n == 0, np.nan, n)
        rest = np.where(these, scores - mean, 0)
        variance = np.nansum(rest**2) / max(these.sum() - (n > 0).sum(), 1) + 1e-12
        logs.append(-((target - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
    return logs[0] - logs[1]


def likelihood_ratios(scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Attack each model with all the others as shadows: (models, records)."""
    rows = [np.delete(np.arange(len(scores)), m) for m in range(len(scores))]
    return np.stack([likelihood_ratio(scores[m], scores[o], member[o]) for m, o in enumerate(rows)])


def true_positive_rate(ratios: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """Return the share of members found at a threshold that at most `fpr` of the others pass.

    Examples
    --------
    >>> true_positive_rate(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False]), 0.01)
    1.0
    """
    known = np.isfinite(ratios)
    inside, out = ratios[known & member], np.sort(ratios[known & ~member])[::-1]
    if not len(inside) or not len(out):
        return float("nan")
    return float((inside > out[int(np.floor(fpr * len(out)))]).mean())


def allowed_rate(fpr: float, epsilon: float, delta: float) -> float:
    """Return the largest share of members that (ε, δ)-differential privacy lets anybody find (Kairouz et al. 2015).

    Examples
    --------
    >>> allowed_rate(0.01, 0.0, 0.0), allowed_rate(0.01, 8.0, 1e-5) > 0.99
    (0.01, True)
    """
    return float(min(np.exp(epsilon) * fpr + delta, 1 - np.exp(-epsilon) * (1 - delta - fpr)))


def allowed_area(epsilon: float, delta: float) -> float:
    """Return the area under the curve of :func:`allowed_rate`.

    Examples
    --------
    >>> allowed_area(0.0, 0.0), round(allowed_area(np.log(3), 0.0), 6)
    (0.5, 0.75)
    """
    corner = (1 - delta) / (1 + np.exp(epsilon))
    return float(corner * (1 - corner + delta) / 2 + (1 - delta - corner) * (2 - corner) / 2 + delta)


@dataclass(frozen=True)
class Measure:
    """How scores of membership are judged.

    Attributes
    ----------
    name
        Of the metric.
    of
        From scores and memberships (models, records) to the metric.
    chance, margin
        Of the finding.
    allowed
        What (ε, δ) allows at most.
    """

    name: str
    of: Callable[[np.ndarray, np.ndarray], float]
    chance: float
    margin: float
    allowed: Callable[[float, float], float]


FOUND = Measure(
    "members found at 1 % false alarms",
    lambda scores, member: true_positive_rate(scores, member, FPR),
    FPR,
    4 * FPR,
    lambda epsilon, delta: allowed_rate(FPR, epsilon, delta),
)
AREA_UNDER_CURVE = Measure(
    "members told from others, area under the curve", lambda s, m: area_under_curve(s, m), 0.5, 0.2, allowed_area
)


class OfMembership(Attack):
    """Attacks on membership by shadow models."""

    def applies(self, context: AuditContext) -> bool:
        """Whether the run is a classifier, with records enough to be dealt out."""
        return isinstance(context.task, ClassProbabilities) and all(a.n_obs >= 4 for a in context.sites.values())

    def found(
        self,
        context: AuditContext,
        by: str,
        score: Score,
        models: list[Shadow],
        control: list[Shadow],
        measure: Measure,
    ) -> Finding:
        """Judge scores of membership; the note says what they get by other measures.

        Parameters
        ----------
        context
            The run.
        by
            What the scores are.
        score
            From models to scores (models, records); nan where they do not tell.
        models, control
            Shadows of the run, and those that nothing protects.
        measure
            What is judged.
        """
        scores, member = score(models), stacked(models, "member")
        dp = context.run.privacy
        bound = None if dp is None else measure.allowed(dp["epsilon"], dp["delta"])
        promise = (
            "Nothing but differential privacy promises anything here."
            if bound is None
            else f"ε allows {bound:.2f} at most."
        )
        rng, n = context.rng(self.name, "bootstrap"), scores.shape[1]
        drawn = [rng.integers(n, size=n) for _ in range(200)]  # records, with all models' verdicts on them
        again = [measure.of(scores[:, i], member[:, i]) for i in drawn]
        return Finding(
            metric=f"{measure.name}, by {by}",
            value=measure.of(scores, member),
            low=float(np.nanquantile(again, 0.025)),
            high=float(np.nanquantile(again, 0.975)),
            trials=n,
            chance=measure.chance,
            control=measure.of(score(control), stacked(control, "member")),
            promised=dp is not None,
            margin=measure.margin,
            bound=bound,
            note=f"{len(models)} models trained like this one on half of the records each, all of them targets; found at 1 % "
            f"false alarms {true_positive_rate(scores, member, FPR):.2f}, at 10 % {true_positive_rate(scores, member, 0.1):.2f}, "
            f"area under the curve {area_under_curve(scores, member):.2f}. {promise} Control: overfitted models.",
        )


class Membership(OfMembership):
    """LiRA and the loss threshold, as somebody who may use the released model."""

    name: ClassVar[str] = "membership"
    against: ClassVar[Attacker] = Attacker.MODEL_USER
    question: ClassVar[str] = "Can a user of the model tell whether somebody's record trained it?"

    def run(self, context: AuditContext) -> list[Finding]:
        """Train shadows as the run was trained, each on half of the records, and overfitted ones as the control."""
        models, control = shadows(context, N_SHADOWS), overfitted(context, N_SHADOWS)
        losses = stacked(control, "confidence")
        return [
            self.found(context, "likelihood ratio", self._ratios, models, control, FOUND),
            self.found(context, "loss", lambda models: stacked(models, "confidence"), models, control, FOUND),
            self._this_model(context, models, area_under_curve(losses, stacked(control, "member"))),
        ]

    @staticmethod
    def _ratios(models: list[Shadow]) -> np.ndarray:
        return likelihood_ratios(stacked(models, "confidence"), stacked(models, "member"))

    def _this_model(self, context: AuditContext, models: list[Shadow], control: float) -> Finding:
        """Attack the released model itself: who was trained on, and who was held out for validation?"""
        run = context.run
        module = run.model.module(run.key if run.model.header.fingerprint else None)
        data = context.judging(keyless=False)
        truth = np.concatenate(
            [np.isin(np.arange(a.n_obs), d.train) for a, d in zip(context.sites.values(), data, strict=True)]
        )
        scores, member = stacked(models, "confidence"), stacked(models, "member")
        ratios = likelihood_ratio(confidences(context, module, context.task), scores, member)
        rng, n = context.rng(self.name, "this model"), len(ratios)
        again = [area_under_curve(ratios[i], truth[i]) for i in (rng.integers(n, size=n) for _ in range(400))]
        dp = run.privacy
        return Finding(
            metric="members told from others in this model, area under the curve",
            value=area_under_curve(ratios, truth),
            low=float(np.nanquantile(again, 0.025)),
            high=float(np.nanquantile(again, 0.975)),
            trials=n,
            chance=0.5,
            control=control,
            promised=dp is not None,
            margin=0.2,
            bound=None if dp is None else allowed_area(dp["epsilon"], dp["delta"]),
            note=f"{int(truth.sum())} records that this very model was trained on against {int((~truth).sum())} that it was "
            "validated on. Control: overfitted models.",
        )
