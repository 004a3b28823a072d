"""A substitute for the key: a field over the stored weights, fitted on a tenth of the labelled data.

The lock is a reparametrisation, so a thief may search for its multiplier and term instead of the weights: whatever opens the
file well enough would do. The substitute has the lock's own form, or a simpler one with fewer numbers.

References
----------
Zhou, Lan, Liu, Yosinski, Deconstructing lottery tickets: zeros, signs, and the supermask, NeurIPS 2019: signs alone, trained
over fixed random weights, make a working network, so the same fields over fresh weights are part of what needs no theft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from infl.attacks._kit.fine_tuning import FREE, Way
from infl.attacks._kit.substitute_fields import FIELDS
from infl.attacks._kit.theft import Task, Theft, Thief, draw
from infl.attacks._kit.weights import rescaled

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

SHARE = 0.1
"""Of all labelled data, that the thief has."""


class ForgedKey(Thief):
    """Fit substitute fields over the stolen weights, against training from scratch and the same fields over other weights.

    Those need no theft: fresh ones, the public start, and the public start under a lock of the thief's own, which is as ragged as a
    stolen file.

    Examples
    --------
    >>> ForgedKey.stolen["a field of gains"].field
    'gains'
    """

    name: ClassVar[str] = "forged_key"
    question: ClassVar[str] = "Can a key that works be fitted to the file with a tenth of the labelled data?"
    stolen: ClassVar[Mapping[str, Way]] = {f"a field of {f}": Way("rescaled", field=f) for f in FIELDS}
    free: ClassVar[Mapping[str, Way]] = {name: FREE[name] for name in ("scratch", "public start")} | {
        f"{start}, a field of {f}": Way(start, field=f)
        for f in FIELDS
        for start in ("scratch", "initial", "locked start")
    }
    unlocked: ClassVar[Mapping[str, Way]] = {"unlocked, a field of gains": Way("unlocked", field="gains")}
    n_trials: ClassVar[int] = 6
    learning_rates: ClassVar[Sequence[float]] = (5e-3,)

    def samples_for(self, context: AuditContext) -> int:
        """Return a tenth of the samples, and at least one of each class."""
        return max(round(SHARE * sum(a.n_obs for a in context.sites.values())), len(context.panel["classes"]))

    def prepare(self, theft: Theft, n: int, case: str) -> Task:
        """Draw labelled samples; stored weights are brought to the usual spread first, which is public."""
        (x, y), file = theft.samples, theft.file
        train, judge = draw(y.numpy(), n, theft.rng(self.name))
        fresh = file.fresh(theft.number)
        begin = {
            "rescaled": rescaled(file.model.stored, fresh),
            "scratch": fresh,
            "initial": file.initial,
            "locked start": rescaled(file.locked_anew(file.initial, theft.rng(self.name, "lock")), fresh),
            "unlocked": file.unlocked,
        }
        return Task(begin, (x[train], y[train]), (x[judge], y[judge]))

    def described(self, n: int, case: str, how: str) -> tuple[str, str]:
        """Name the best field."""
        return (
            f"balanced accuracy with {n} samples, key forged",
            f"{len(FIELDS)} kinds of substitute fields fitted over the stored weights (best: {how}), against training from "
            "nothing and the same fields over weights that need no theft (chance). Control: over the unlocked weights.",
        )
