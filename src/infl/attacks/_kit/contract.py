"""What an attack is: who attacks, what they hold and want, and how it is judged.

An attack is first a test of itself: it must succeed on an unprotected run of the same data (the control). If it does
not, for lack of data or of a model worth attacking, its row says "not judged", which never counts as a pass. That an attack got
nothing has to be shown as well: an interval that reaches further above chance than a margin is "inconclusive".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from infl.attacks._kit.statistics import trials_for

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext


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
    ['holds', 'leak', 'not promised', 'not judged', 'inconclusive', 'cannot tell']
    """

    HOLDS = "holds"
    BROKEN = "leak"
    NOT_PROMISED = "not promised"
    NOT_JUDGED = "not judged"
    INCONCLUSIVE = "inconclusive"
    CANNOT_TELL = "cannot tell"


LARGEST_MARGIN = 0.2
"""Above chance, on a scale of accuracy or correlation: no attack that may have got more is said to have got nothing."""


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
        By how much above chance `control` must be for the attack to count as working. The protection holds if `high` is no
        further above chance than this (or :data:`LARGEST_MARGIN`), and leaks if `low` is by more than a fifth of it.
    note
        One line in plain words for a data steward.
    bound
        What a promise allows at most, where that is more than chance (membership under differential privacy).
    provable
        The most that the attack can show where it succeeds entirely. If that is less than `bound`, it cannot tell whether the
        promise is kept.
    trials
        Number of independent trials (or records, or features) that the interval is over.

    Examples
    --------
    >>> common = {"metric": "accuracy", "chance": 0.5, "control": 0.9, "margin": 0.1, "note": "", "promised": True}
    >>> print(Finding(value=0.51, low=0.48, high=0.54, **common).status)
    holds
    >>> print(Finding(value=0.70, low=0.65, high=0.75, **common).status)
    leak
    >>> wide = Finding(value=0.52, low=0.24, high=0.80, trials=6, **common)
    >>> print(wide.status, wide.needed)
    inconclusive 46
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
    provable: float | None = None
    trials: int | None = None

    @property
    def limit(self) -> float:
        """How high `high` may be where the protection holds."""
        return self._at_least_what_is_promised(self.chance + min(self.margin, LARGEST_MARGIN))

    @property
    def allowed(self) -> float:
        """How high `low` may be where the protection does not leak."""
        return self._at_least_what_is_promised(self.chance + self.margin * 0.2)

    @property
    def status(self) -> Status:
        """Judge the finding: the control first, then what is shown to leak, then what is shown to hold."""
        if not self.control > self.chance + self.margin:
            return Status.NOT_JUDGED
        if self.low > self.allowed:
            return Status.BROKEN if self.promised else Status.NOT_PROMISED
        if self.bound is not None and self.provable is not None and self.provable < self.bound:
            return Status.CANNOT_TELL
        return Status.HOLDS if self.high <= self.limit else Status.INCONCLUSIVE

    @property
    def passed(self) -> bool:
        """Whether no promise is broken or undecided."""
        undecided = self.status in (Status.INCONCLUSIVE, Status.CANNOT_TELL)
        return self.status in (Status.HOLDS, Status.NOT_PROMISED) or (undecided and not self.promised)

    @property
    def needed(self) -> int | None:
        """How many trials would decide, if `value` and their spread stayed as they are; None where it is decided, or not known."""
        if self.status is not Status.INCONCLUSIVE or not self.trials:
            return None
        return trials_for(
            self.trials, (self.high - self.low) / 2, max(self.limit - self.value, self.value - self.allowed)
        )

    @property
    def said(self) -> str:
        """The note, with what an undecided finding lacks."""
        if self.status is Status.CANNOT_TELL:
            return f"{self.note} It could show {self.provable:.3g} at most, less than the {self.bound:.3g} that is promised."
        if self.needed is None:
            return self.note
        return f"{self.note} Undecided by {self.trials} trials, up to a limit of {self.limit:.3g}: it takes about {self.needed}."

    def _at_least_what_is_promised(self, value: float) -> float:
        return value if self.bound is None else max(value, self.bound)


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
    def applies(self, context: AuditContext) -> bool:
        """Whether the attack makes sense for the run's task and settings."""

    @abstractmethod
    def run(self, context: AuditContext) -> list[Finding]:
        """Attack, and attack the control."""
