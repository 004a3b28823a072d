"""Were you in it? Membership by a handful of reference models: the robust attack of Zarifzadeh, Liu and Shokri (RMIA).

A record is compared with others of the population: is it likelier under this model than under models at large, by more than
they are? That needs the mean of a few reference models only, where a likelihood ratio needs a distribution over many.

References
----------
Zarifzadeh, Liu, Shokri, Low-cost high-power membership inference attacks, ICML 2024: the online attack; its offline correction
where no reference model was trained on the record. Probabilities at a temperature, as they advise for models that are sure.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.special import expit

from infl.attacks._kit.audit_context import AuditContext
from infl.attacks._kit.contract import Attacker, Finding
from infl.attacks._kit.shadows import Shadow, overfitted, shadows, stacked
from infl.attacks.membership import AREA_UNDER_CURVE, OfMembership

N_MODELS = 8
N_REFERENCES = 4
"""Models that the attacker trains for each target."""
TEMPERATURE = 4.0
"""Probabilities are softened by it: a model that is sure of all its records would tell none of them from another."""
GAMMA = 1.0
"""By which factor a record must be ahead of another."""
OFFLINE = 0.3
"""How much of a model's chance a record has without having trained it: the paper's a."""


def relative_likelihood(target: np.ndarray, references: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return each record's chance under a model over its chance under models at large. ``(records,)``

    Parameters
    ----------
    target
        The model's probability of each record's class. ``(records,)``
    references
        That of reference models. ``(references, records)``
    member
        Whether the record trained the reference model. ``(references, records)``

    Examples
    --------
    >>> references, member = np.array([[0.8], [0.4]]), np.array([[True], [False]])
    >>> relative_likelihood(np.array([0.9]), references, member).round(6).tolist()
    [1.5]
    """
    inside, out = member.sum(0), (~member).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        with_, without = (np.where(m, references, 0).sum(0) / n for m, n in ((member, inside), (~member, out)))
    at_large = (with_ + without) / 2
    at_large = np.where(inside == 0, ((1 + OFFLINE) * without + 1 - OFFLINE) / 2, at_large)
    return target / np.maximum(np.where(out == 0, with_, at_large), 1e-12)


def share_beaten(relative: np.ndarray, gamma: float = GAMMA) -> np.ndarray:
    """Return the share of the other records that each record is ahead of, by the factor `gamma`. ``(records,)``

    Examples
    --------
    >>> share_beaten(np.array([3.0, 1.0, 2.0])).tolist()
    [1.0, 0.0, 0.5]
    """
    ahead = relative[:, None] >= gamma * relative[None, :]
    np.fill_diagonal(ahead, False)
    return ahead.sum(1) / max(len(relative) - 1, 1)


def scores(models: list[Shadow]) -> np.ndarray:
    """Attack each model with the few that come after it, in turn: (models, records)."""
    probability, member = expit(stacked(models, "confidence") / TEMPERATURE), stacked(models, "member")
    found, n = [], len(models)
    for number in range(n):
        references = [(number + 1 + i) % n for i in range(N_REFERENCES)]
        found.append(
            share_beaten(relative_likelihood(probability[number], probability[references], member[references]))
        )
    return np.stack(found)


class Rmia(OfMembership):
    """RMIA with few reference models, as somebody who may use the released model.

    Examples
    --------
    >>> Rmia().name, Rmia.against.value
    ('rmia', 'model user')
    """

    name: ClassVar[str] = "rmia"
    against: ClassVar[Attacker] = Attacker.MODEL_USER
    question: ClassVar[str] = "Can a user of the model who trains a handful of models tell whether a record trained it?"

    def run(self, context: AuditContext) -> list[Finding]:
        """Attack models trained as the run was, and overfitted ones as the control."""
        models, control = shadows(context, N_MODELS), overfitted(context, N_MODELS)
        return [self.found(context, f"{N_REFERENCES} reference models", scores, models, control, AREA_UNDER_CURVE)]
