"""What an attack is: who attacks, what they hold and want, and how it is judged.

An attack is first a test of itself: it must succeed on an unprotected run of the same data (the control). If it does
not, for lack of data or of a model worth attacking, its row says "not judged", which never counts as a pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from infl.attacks._kit.evidence import Evidence


class Attacker(StrEnum):
    """Who attacks. All know the source code, the run's specification and everything else that is public.

    Examples
    --------
    >>> Attacker.THIEF.value
    'thief of a model file'
    """

    COORDINATOR = "coordinator"
    DEVIATING = "deviating coordinator"
    THIEF = "thief of a model file"
    FORMER_MEMBER = "former member"
    MODEL_USER = "model user"
    CURIOUS_SITE = "curious site"
    COLLUSION = "coordinator + one site"


class Status(StrEnum):
    """What a finding means.

    Examples
    --------
    >>> [status.value for status in Status]
    ['holds', 'leak', 'not promised', 'not judged']
    """

    HOLDS = "holds"
    BROKEN = "leak"
    NOT_PROMISED = "not promised"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Finding:
    """One row of an audit.

    Attributes
    ----------
    metric
        What `value`, `chance` and `control` measure; one scale, more is better for the attacker.
    value
        What the attack got from the run.
    low, high
        95 % confidence interval of `value`.
    chance
        What guessing gets.
    control
        The same attack on an unprotected run (for wrong keys and the like: the accuracy with the right key; for lies that a
        site is to refuse: the share of honest messages that it answers).
    promised
        Whether the run's protections promise to defeat this attack.
    margin
        By how much above chance `control` must be for the attack to count as working, and `low` may be before the
        protection counts as leaking.
    note
        One line in plain words for a data steward.
    bound
        What a promise allows at most, where that is more than chance (membership under differential privacy).

    Examples
    --------
    >>> common = {"metric": "accuracy", "chance": 0.5, "control": 0.9, "margin": 0.1, "note": "", "promised": True}
    >>> print(Finding(value=0.51, low=0.48, high=0.54, **common).status)
    holds
    >>> print(Finding(value=0.70, low=0.65, high=0.75, **common).status)
    leak
    """

    metric: str
    value: float
    low: float
    high: float
    chance: float
    control: float
    promised: bool
    margin: float
    note: str
    bound: float | None = None

    @property
    def status(self) -> Status:
        """Judge the finding: the control first."""
        if not self.control > self.chance + self.margin:
            return Status.NOT_JUDGED
        allowed = self.chance + self.margin * 0.2
        if self.low <= (allowed if self.bound is None else max(allowed, self.bound)):
            return Status.HOLDS
        return Status.BROKEN if self.promised else Status.NOT_PROMISED


class Attack(ABC):
    """Base of all attacks. A third party registers a subclass under the entry point group ``infl.attacks``.

    Examples
    --------
    >>> import infl
    >>> attack = infl.attacks.load_attack("wrong_key")
    >>> attack.name, attack.quick
    ('wrong_key', True)
    """

    name: ClassVar[str]
    against: ClassVar[Attacker]
    question: ClassVar[str]
    """What the attack asks, in plain words."""
    quick: ClassVar[bool] = False
    """Whether the preset ``attacks="quick"`` has it."""

    @abstractmethod
    def applies(self, evidence: Evidence) -> bool:
        """Whether the attack makes sense for the run's task and settings."""

    @abstractmethod
    def run(self, evidence: Evidence) -> list[Finding]:
        """Attack, and attack the control."""
