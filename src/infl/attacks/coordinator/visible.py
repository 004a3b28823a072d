"""What can be seen of sealed messages: whether a hospital answers, what, how long it is, and how often it is asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from infl.attacks._kit.consortium import Consortium, seen, some_of
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks.coordinator.plans import ChosenScale
from infl.errors import FederationError, InflError, InflWarning
from infl.federation.messages import Trouble
from infl.models.registry import known_tasks

if TYPE_CHECKING:
    from infl._types import Data
    from infl.attacks._kit.audit_context import AuditContext

Seen = list[tuple[Any, ...]]


def times(factor: float) -> Callable[[Any], Any]:
    """Multiply all values."""
    return lambda x: x * np.float32(factor)


WORLDS: dict[str, Callable[[Any], Any]] = {
    "values a hundred million times as large": times(1e8),
    "values a hundred million times as small": times(1e-8),
    "values half as large": times(0.5),
    "values a thousand times as large": times(1e3),
    "all values zero": times(0.0),
}
"""What a hospital's values may be instead. A task takes those of its units: counts are whole, logarithms are no counts."""


class RefusalOracle(Attack):
    """Run the same script of true and false plans on two sets of data of one shape, and compare all that can be seen.

    From refusals of scales alone, single hospitals' counts, losses and sums were once read to a thousandth.
    """

    name: ClassVar[str] = "refusal_oracle"
    against: ClassVar[Attacker] = Attacker.DEVIATING
    question: ClassVar[str] = "Do a hospital's replies (whether, what, how often) depend on its data?"

    def applies(self, context: AuditContext) -> bool:
        """Whether there is a seal, and the sites have a matrix of values that can be changed."""
        known = context.sealed and len(context.sites) > 2 and context.task.name in known_tasks()
        return known and all(hasattr(adata, "X") and adata.X is not None for adata in context.sites.values())

    def run(self, context: AuditContext) -> list[Finding]:
        """Compare the run's data with each changed version of one hospital's."""
        data = some_of(context)
        usual, differences, refused = self._seen(context, data), {}, []
        for what, change in WORLDS.items():
            first, *others = data.items()
            other = first[1].copy()
            other.X = change(other.X)
            changed = {first[0]: other, **dict(others)}
            if taken(context, changed):
                differences[what] = difference(usual, self._seen(context, changed))
            else:
                refused.append(what)
        if not differences:
            return []
        worst = max(differences, key=lambda what: differences[what])
        came = f"Seen most of: {worst}." if differences[worst] else "Nothing was different."
        not_tried = (
            f" Not in the task's units, so such a hospital takes no part: {', '.join(refused)}." if refused else ""
        )
        answered = np.mean([kind != Trouble.__name__ for *_, kind, _ in usual])
        return [
            Finding(
                metric="share of what is seen that depends on the data",
                value=differences[worst],
                low=differences[worst],
                high=differences[worst],
                chance=0.0,
                control=float(answered),
                promised=True,
                margin=0.0,
                note=f"The same {len(usual)} messages were sent to hospitals with the run's data and with others of the same shape "
                f"({', '.join(differences)}); kinds, sizes, order and repetitions of replies are compared. {came} Control: the "
                f"share of messages that were answered at all.{not_tried}",
            )
        ]

    @staticmethod
    def _seen(context: AuditContext, data: dict[str, Data]) -> Seen:
        """Return what is seen of an honest run, with lies about scales in its second round."""
        with Consortium(context, data) as hospitals, suppress(FederationError):  # a run that ends early is seen to
            due = hospitals.until("train", 2)
            for name, plan in due.items():
                for what, lie in ChosenScale.plans.items():
                    hospitals.transcript.append((name, what, *seen(hospitals[name].tell(lie(plan)))))
            hospitals.until("nothing")
        return hospitals.transcript


def taken(context: AuditContext, data: dict[str, Data]) -> bool:
    """Whether the run's task takes data: a hospital with others declines the run, and says no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        try:
            panel = context.task.agree(data)
            for site, adata in data.items():
                context.task.read(adata, panel, site=site, rng=context.rng(site))
        except InflError:
            return False
    return True


def difference(first: Seen, second: Seen) -> float:
    """Return the share of entries in which two lists differ.

    Examples
    --------
    >>> difference([("a", 1), ("b", 2)], [("a", 1), ("b", 3), ("c", 0)])
    0.6666666666666666
    """
    pairs = list(zip_longest(first, second))
    return float(np.mean([a != b for a, b in pairs])) if pairs else 0.0
