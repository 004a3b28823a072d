"""Were you in it? Membership inference by likelihood ratios against shadow models (LiRA), and by the loss alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from infl.models.labelled import area_under_curve
from infl.privacy.attacks.contract import Attack, Attacker, Finding
from infl.privacy.attacks.evidence import OPEN

if TYPE_CHECKING:
    from torch import Tensor, nn

    from infl.models.task import Task
    from infl.privacy.attacks.evidence import Evidence

N_SHADOWS = 18
FPR = 0.01


def confidence(logits: Tensor, y: Tensor) -> np.ndarray:
    """Return log p / (1 − p) of the true class (n,), which is nearly Gaussian over models.

    From logits (n, classes), where a probability would round to 1.
    """
    z = logits.double()
    others = z.scatter(1, y[:, None], -torch.inf)
    return (z.gather(1, y[:, None])[:, 0] - others.logsumexp(1)).numpy()


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


class Membership(Attack):
    """LiRA and the loss threshold, as somebody who may use the released model."""

    name: ClassVar[str] = "membership"
    against: ClassVar[Attacker] = Attacker.MODEL_USER
    question: ClassVar[str] = "Can a user of the model tell whether somebody's record trained it?"

    def applies(self, evidence: Evidence) -> bool:
        """Whether the run is a classifier, with records enough to be dealt out."""
        return evidence.task.name == "classifier" and all(a.n_obs >= 4 for a in evidence.sites.values())

    def run(self, evidence: Evidence) -> list[Finding]:
        """Train shadows as the run was trained, each on half of the records, and overfitted ones as the control."""
        scores, member = self._shadows(evidence)
        over_scores, over_member = self._overfitted(evidence)
        dp = evidence.run.privacy
        bound = None if dp is None else allowed_rate(FPR, dp["epsilon"], dp["delta"])
        promise = (
            "Nothing but differential privacy promises anything here."
            if bound is None
            else f"ε allows {bound:.2f} at most."
        )
        findings = []
        for what, attack in (("likelihood ratio", likelihood_ratios), ("loss", lambda s, m: s)):
            ratios, control = attack(scores, member), attack(over_scores, over_member)
            low, high = self._interval(evidence, ratios, member)
            findings.append(
                Finding(
                    metric=f"members found at 1 % false alarms, by {what}",
                    value=true_positive_rate(ratios, member, FPR),
                    low=low,
                    high=high,
                    chance=FPR,
                    control=true_positive_rate(control, over_member, FPR),
                    promised=dp is not None,
                    margin=4 * FPR,
                    bound=bound,
                    note=f"{N_SHADOWS} models trained like this one on half of the records each, all of them targets; at 10 % "
                    f"false alarms {true_positive_rate(ratios, member, 0.1):.2f}, area under the curve "
                    f"{area_under_curve(ratios, member):.2f}. {promise} Control: overfitted models.",
                )
            )
        return [*findings, self._this_model(evidence, scores, member, area_under_curve(control, over_member))]

    def _this_model(self, evidence: Evidence, scores: np.ndarray, member: np.ndarray, control: float) -> Finding:
        """Attack the released model itself: who was trained on, and who was held out for validation?"""
        run = evidence.run
        module = run.model.module(run.key if run.model.header.fingerprint else None)
        data = evidence.judging(keyless=False)
        truth = np.concatenate(
            [np.isin(np.arange(a.n_obs), d.train) for a, d in zip(evidence.sites.values(), data, strict=True)]
        )
        ratios = likelihood_ratio(self._confidences(evidence, module, evidence.task), scores, member)
        rng, n = evidence.rng(self.name, "this model"), len(ratios)
        again = [area_under_curve(ratios[i], truth[i]) for i in (rng.integers(n, size=n) for _ in range(400))]
        dp = run.privacy
        return Finding(
            metric="members told from others in this model, area under the curve",
            value=area_under_curve(ratios, truth),
            low=float(np.nanquantile(again, 0.025)),
            high=float(np.nanquantile(again, 0.975)),
            chance=0.5,
            control=control,
            promised=dp is not None,
            margin=0.2,
            bound=None if dp is None else allowed_area(dp["epsilon"], dp["delta"]),
            note=f"{int(truth.sum())} records that this very model was trained on against {int((~truth).sum())} that it was "
            "validated on. Control: overfitted models.",
        )

    def _shadows(self, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """Return confidences and memberships of the run repeated on halves of each site.

        Under differential privacy a round is one step over all records, wherever they are: one place is quicker.
        """
        if evidence.run.privacy is None:
            return self._models(evidence, evidence.task, together=False)
        return self._models(evidence, evidence.task, together=True)

    def _overfitted(self, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of models that were trained far too long, in one place, with nothing against it."""
        options: dict[str, Any] = {"dropout": 0.0, "weight_decay": 0.0, "validation": 0.0, "lr": 1e-3}
        if evidence.run.privacy is not None:  # whose models are small, and told less, so that they remember less
            options |= {"standardise": "federated", "balance": True, "width": 64, "n_blocks": 2}
        settings: dict[str, Any] = {"rounds": 10, "local_epochs": 10, "patience": 0, "privacy": None}
        plain: dict[str, Any] = {"aggregation": "fedavg", "aggregation_options": {}}
        return self._models(evidence, replace(evidence.task, **options), together=True, **settings, **plain)

    def _models(
        self, evidence: Evidence, task: Task, *, together: bool, **settings: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train models on half of each site's records; return confidence and membership (models, records)."""
        from infl.models.pooling import pool

        first = dict(zip(evidence.sites, np.cumsum([0, *(a.n_obs for a in evidence.sites.values())]), strict=False))
        scores, member = [], []
        for number in range(N_SHADOWS):
            half = self._half(evidence, number)
            tables = {s: a[half[s]] for s, a in evidence.sites.items()}
            places = {s: first[s] + half[s] for s in tables}
            if together:
                tables, places = {"all": pool(tables)}, {"all": np.concatenate(list(places.values()))}
                settings |= {"min_sites": 1, "participation": 1.0}
            recorded = evidence.repeat(tables, task=task, **OPEN, **settings)
            inside = np.zeros(sum(a.n_obs for a in evidence.sites.values()), dtype=bool)
            for s, place in places.items():
                inside[place[recorded.outcome.sites[s].data.train]] = True
            scores.append(self._confidences(evidence, recorded.model.module(None), task))
            member.append(inside)
        return np.stack(scores), np.stack(member)

    def _half(self, evidence: Evidence, number: int) -> dict[str, np.ndarray]:
        rng = evidence.rng(self.name, number)
        return {s: np.sort(rng.permutation(a.n_obs)[: a.n_obs // 2]) for s, a in evidence.sites.items()}

    @staticmethod
    @torch.no_grad()
    def _confidences(evidence: Evidence, module: nn.Module, task: Task) -> np.ndarray:
        """Return the confidence in every record, read as the model's own task reads it."""
        values = []
        for site, adata in evidence.sites.items():
            data: Any = task.read(adata, evidence.panel, site=site, rng=evidence.rng("labels", site))
            x, y = data.batch(np.arange(len(data.train) + len(data.validation)))
            values.append(confidence(module(x), y))
        return np.concatenate(values)

    def _interval(self, evidence: Evidence, ratios: np.ndarray, member: np.ndarray) -> tuple[float, float]:
        """Return a 95 % interval by drawing records, with all models' verdicts on them, anew."""
        rng, n = evidence.rng(self.name, "bootstrap"), ratios.shape[1]
        again = [
            true_positive_rate(ratios[:, i], member[:, i], FPR) for i in (rng.integers(n, size=n) for _ in range(200))
        ]
        return float(np.nanquantile(again, 0.025)), float(np.nanquantile(again, 0.975))
