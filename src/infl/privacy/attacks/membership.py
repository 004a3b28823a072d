"""Were you in it? Membership inference by likelihood ratios against shadow models (LiRA)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from infl.privacy.attacks.contract import Attack, Attacker, Finding

if TYPE_CHECKING:
    from infl.privacy.attacks.evidence import Evidence

N_SHADOWS = 16
FPR = 0.01


def confidence(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the logit of the true class's probability (n,), which is nearly Gaussian."""
    p = np.clip(probability[np.arange(len(labels)), labels], 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def likelihood_ratios(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attack each model with all the others as shadows.

    Parameters
    ----------
    scores
        Confidence of each model in each record (models, records).
    member
        Whether the record trained the model (models, records).

    Returns
    -------
    Log-likelihood ratios of membership and the truth, flat over models and records.

    References
    ----------
    Carlini et al., Membership inference attacks from first principles, IEEE S&P 2022 (online attack, one variance for
    all records, as they advise for few shadow models).
    """
    ratios = np.empty_like(scores)
    for m in range(len(scores)):
        others = np.delete(np.arange(len(scores)), m)
        s, inside = scores[others], member[others]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_in = np.where(inside, s, 0).sum(0) / inside.sum(0)
            mean_out = np.where(~inside, s, 0).sum(0) / (~inside).sum(0)
            sd_in = np.sqrt(np.where(inside, (s - mean_in) ** 2, 0).sum() / max(inside.sum(), 1)) + 1e-6
            sd_out = np.sqrt(np.where(~inside, (s - mean_out) ** 2, 0).sum() / max((~inside).sum(), 1)) + 1e-6
            log_in = -((scores[m] - mean_in) ** 2) / (2 * sd_in**2) - np.log(sd_in)
            log_out = -((scores[m] - mean_out) ** 2) / (2 * sd_out**2) - np.log(sd_out)
        ratios[m] = log_in - log_out
    good = np.isfinite(ratios)
    return ratios[good], member[good]


def true_positive_rate(ratios: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """Return the share of members found at a threshold that at most `fpr` of the others pass.

    Examples
    --------
    >>> true_positive_rate(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False]), 0.01)
    1.0
    """
    out = np.sort(ratios[~member])[::-1]
    threshold = out[int(np.floor(fpr * len(out)))]
    return float((ratios[member] > threshold).mean())


class Membership(Attack):
    """LiRA on the released model, as somebody who may use it."""

    name: ClassVar[str] = "membership"
    against: ClassVar[Attacker] = Attacker.MODEL_USER
    question: ClassVar[str] = "Can a user of the model tell whether somebody's record trained it?"

    def applies(self, evidence: Evidence) -> bool:
        """Whether the task is a classifier."""
        return evidence.task.name == "classifier"

    def run(self, evidence: Evidence) -> list[Finding]:
        """Train shadows as the run was trained, and overfitted ones as the control."""
        settings = {"lock": "none", "seal": "none", "strength": 0.0}
        value, interval = self._attack(evidence, evidence.task, dict(settings))
        overfitted = replace(evidence.task, dropout=0.0, weight_decay=0.0, validation=0.0, lr=3e-3)  # type: ignore[call-arg]
        control, _ = self._attack(evidence, overfitted, settings | {"local_epochs": 5, "patience": 0, "privacy": None})
        dp = evidence.run.privacy
        bound = "" if dp is None else f" ε bounds it by {min(1.0, np.exp(dp['epsilon']) * FPR + dp['delta']):.2f}."
        return [
            Finding(
                metric="members found at 1 % false alarms",
                value=value,
                low=interval[0],
                high=interval[1],
                chance=FPR,
                control=control,
                promised=dp is not None,
                margin=4 * FPR,
                note=f"{N_SHADOWS} shadow models, each also a target. Only differential privacy promises something here.{bound}",
            )
        ]

    def _attack(self, evidence: Evidence, task: Any, settings: dict[str, Any]) -> tuple[float, tuple[float, float]]:
        full = {s: task.read(a, evidence.panel, site=s, rng=evidence.rng("labels")) for s, a in evidence.sites.items()}
        labels = np.concatenate([d.labels.numpy() for d in full.values()])
        scores, member = [], []
        for shadow in range(N_SHADOWS):
            rng = evidence.rng(self.name, shadow)
            inside = {s: rng.random(a.n_obs) < 0.5 for s, a in evidence.sites.items()}
            parts = {s: a[inside[s]] for s, a in evidence.sites.items() if inside[s].sum() >= 2}
            recorded = evidence.repeat(sites=parts, task=task, seed=shadow, min_sites=min(3, len(parts)), **settings)
            module, private = recorded.outcome.replica.module(), recorded.outcome.replica.private
            with torch.no_grad():
                outputs = [
                    task.infer(module, task.read(a, evidence.panel, site=s), private)["probability"]
                    for s, a in evidence.sites.items()
                ]
            scores.append(confidence(np.concatenate(outputs).astype(float), labels))
            # validation records were chosen among those inside; only what was trained on is a member
            trained = []
            for s, a in evidence.sites.items():
                mask = np.zeros(a.n_obs, dtype=bool)
                if s in recorded.outcome.sites:
                    mask[np.flatnonzero(inside[s])[recorded.outcome.sites[s].data.train]] = True
                trained.append(mask)
            member.append(np.concatenate(trained))
        table, truth = np.stack(scores), np.stack(member)
        ratios, who = likelihood_ratios(table, truth)
        rate = true_positive_rate(ratios, who, FPR)
        rng = evidence.rng(self.name, "bootstrap")
        again = []
        for _ in range(200):
            rows = rng.integers(len(ratios), size=len(ratios))
            again.append(true_positive_rate(ratios[rows], who[rows], FPR))
        return rate, (float(np.quantile(again, 0.025)), float(np.quantile(again, 0.975)))
