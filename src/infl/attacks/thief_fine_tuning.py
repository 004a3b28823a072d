"""Does a stolen model file give a head start? Fine-tuning of stolen weights against training from scratch.

A thief with a few labelled samples trains on, in every way that we know of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from infl._threads import one_thread
from infl.attacks._kit.audit_context import AuditContext
from infl.attacks._kit.fine_tuning import FREE, LEARNING_RATES, LOCKED, STOLEN, UNLOCKED, Way
from infl.attacks._kit.starts import starts
from infl.attacks._kit.theft import Task, Theft, Thief, draw
from infl.models.phenotype.task import Phenotype
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from anndata import AnnData


class ThiefFineTuning(Thief):
    """Fine-tune the stolen file in every way that we know of, against training from nothing on the same samples."""

    name: ClassVar[str] = "thief_fine_tuning"
    question: ClassVar[str] = "Does the stolen file save a thief who has some labelled samples any work?"
    stolen: ClassVar[Mapping[str, Way]] = STOLEN
    free: ClassVar[Mapping[str, Way]] = FREE | LOCKED
    unlocked: ClassVar[Mapping[str, Way]] = UNLOCKED

    def applies(self, context: AuditContext) -> bool:
        """Whether the run is of a phenotype, from plain tables with samples to spare."""
        return isinstance(context.task, ClassProbabilities | Phenotype) and self.spared(context)

    def prepare(self, theft: Theft, n: int, case: str) -> Task:
        """Draw labelled samples, and make the weights to begin with."""
        (x, y), file = theft.samples, theft.file
        train, judge = draw(theft.strata, n, theft.rng(self.name, n))
        fresh, loss = file.fresh(theft.number), theft.question.loss
        begin = starts(theft.module, file.model.stored, fresh, file.initial, x, train, y, loss=loss)
        if not isinstance(file.task, ClassProbabilities):  # there a ragged start alone is worth something
            locked = file.locked_anew(file.initial, theft.rng(self.name, "lock"))
            own = starts(theft.module, locked, fresh, file.initial, x, train, y, loss=loss)
            begin |= {f"locked {name}": own[name] for name in ("stored", "clipped", "rescaled", "signs", "distilled")}
        return Task(begin | {"unlocked": file.unlocked}, (x[train], y[train]), (x[judge], y[judge]))

    def described(self, n: int, case: str, how: str) -> tuple[str, str]:
        """Name the best way."""
        return (
            f"balanced accuracy with {n} samples",
            f"The stolen weights trained on in {len(STOLEN)} ways (best: {how}), against starting from "
            "nothing (chance) and from the unlocked model (control).",
        )


def head_start(
    sites: Mapping[str, AnnData], target: str, *, samples: Sequence[int] = (8, 16, 32), seeds: int = 20
) -> dict[int, dict[str, Any]]:
    """Measure the head start of a thief on the default settings.

    Returns
    -------
    dict
        For each number of samples what :func:`infl.attacks._kit.fine_tuning.compare_starts` returns.
    """
    import infl

    class Long(ThiefFineTuning):
        n_trials, learning_rates = seeds, LEARNING_RATES

    run = infl.tl.fit_federated({s: a.copy() for s, a in sites.items()}, target=target, progress=False)
    attack, context = Long(), AuditContext(run, sites)
    with one_thread():
        return {n: attack.compare(attack.trials(context, n)) for n in samples}
