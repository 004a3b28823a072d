"""What two rounds tell of a hospital that is in the sum of one of them and not in that of the next.

Whoever opens both sums subtracts them: what the others sent changes little from round to round, what is left is the missing
hospital's part. A coordinator can leave a hospital out whenever it likes, as long as enough others answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from infl.attacks._kit.audit_context import NO_LOCK_NO_SEAL, UNPROTECTED, AuditContext, Recorded, signed
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import correlation, interval
from infl.privacy.seal import dequantise
from infl.privacy.seal.reveal import threshold
from infl.sums.lanes import METRIC_PREFIX, split_sums

if TYPE_CHECKING:
    from infl.federation.coordinator import Transport
    from infl.federation.messages import Plan, Reply

N_ROUNDS = 6
READ = 0.05
"""Relative error up to which a number counts as read."""
GENTLE: dict[str, Any] = {"optimiser": "sgd", "lr": 1e-3, "batch_size": 1 << 20, "dropout": 0.0}
"""Training in which a hospital sends nearly the same in two rounds: of all its samples at once, without dropout, in small steps."""


@dataclass
class Losing:
    """A transport that loses one site's part of every other training round."""

    inner: Transport
    site: str

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Pass on all but what is lost."""
        from infl.federation.messages import Answer

        lost = plan_for(cohort[0])
        for reply in self.inner.ask(cohort, plan_for):
            if not (isinstance(reply, Answer) and reply.site == self.site and lost.round % 2 == 0 and lost.round):
                yield reply

    def holder(self, site: str) -> str:
        """As the transport that loses."""
        return self.inner.holder(site)


class MissingSite(Attack):
    """Subtract the sum of a round without a hospital from that of the round before, with it.

    Examples
    --------
    >>> MissingSite().name, MissingSite.against.value
    ('missing_site', 'curious site')
    """

    name: ClassVar[str] = "missing_site"
    against: ClassVar[Attacker] = Attacker.CURIOUS_SITE
    question: ClassVar[str] = (
        "Does a round with a hospital, less the next round without it, reveal that hospital's update?"
    )

    def applies(self, context: AuditContext) -> bool:
        """Whether a sum opens without one of the sites."""
        settings, n = context.settings, len(context.sites)
        quorum = max(settings.fewest, threshold(n) if settings.seal == "pairwise" else 0)
        return context.sealed and settings.participation == 1 and quorum < n

    def run(self, context: AuditContext) -> list[Finding]:
        """Estimate each hospital's update and its validation numbers, for each two rounds."""
        common: dict[str, Any] = {"rounds": N_ROUNDS, "patience": 0}
        known = {field.name for field in fields(context.task)}
        task = replace(context.task, **{name: value for name, value in GENTLE.items() if name in known})
        gentle = context.repeat(task=task, **common | {"local_epochs": 1} | UNPROTECTED)
        found, control = ([*updates_told(run)] for run in (context.repeat(**common | NO_LOCK_NO_SEAL), gentle))
        finding = Finding(
            metric="share of the missing hospital's update that is read",
            **interval([one.read for one in found]),
            chance=float(np.mean([one.guessed for one in found])),
            control=float(np.mean([one.read for one in control])),
            promised=False,
            margin=0.2,
            note="A coordinator leaves a hospital out of a round, and another one subtracts the two sums; guess: an equal part of one "
            "sum. How much that tells follows from how alike a hospital's updates of two rounds are: control, one small step of "
            "all samples, without dropout. Drawn batches, dropout and more hospitals limit it; privacy= alone bounds it.",
        )
        return [finding] if context.run.privacy else [finding, self._numbers(context, gentle, common)]

    @staticmethod
    def _numbers(context: AuditContext, gentle: Recorded, common: dict[str, Any]) -> Finding:
        """Return the share of the missing hospital's losses and metrics that is opened, with a seal that opens them for any sites, too."""
        last = list(context.sites)[-1]
        lost = context.repeat(line=lambda inner: Losing(inner, last), **common)
        rows = lost.run.history[lost.run.history["n_sites"] < len(context.sites)]
        share = float(rows["loss"].notna().mean())
        return Finding(
            metric="share of the missing hospital's losses and metrics that are read",
            value=share,
            low=share,
            high=share,
            chance=0.0,
            control=float(np.mean([*numbers_told(gentle)])),
            promised=True,
            margin=0.2,
            note=f"The same with losses and metrics, which are opened of all hospitals or of none; read: to {READ:.0%}. Control: "
            "messages without a seal, added as they come.",
        )


@dataclass(frozen=True)
class Told:
    """How near an estimate is to a site's update: 1 less the relative error, at least 0.

    Attributes
    ----------
    read
        Of the difference of two sums.
    guessed
        Of an equal part of the first sum.
    correlation
        Of the difference with the update.
    """

    read: float
    guessed: float
    correlation: float


def nearness(estimate: np.ndarray, true: np.ndarray) -> float:
    """Return 1 less the relative error, at least 0.

    Examples
    --------
    >>> nearness(np.array([3.0, 4.0]), np.array([3.0, 4.0])), nearness(np.zeros(2), np.array([3.0, 4.0]))
    (1.0, 0.0)
    """
    return max(0.0, 1.0 - float(np.linalg.norm(estimate - true) / max(float(np.linalg.norm(true)), 1e-30)))


def updates_told(recorded: Recorded) -> Iterator[Told]:
    """Yield, for each site and two rounds, what the difference of their sums tells of the site's update in the first.

    Parameters
    ----------
    recorded
        An unsealed run: what comes by itself is added here, as sites open it.
    """
    sent: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for update in recorded.updates():
        sent[update.round][update.site] = update.values.astype(float)
    for number in sorted(sent)[:-1]:
        before, after = (sum(sent[n].values(), np.zeros(1)) for n in (number, number + 1))
        for site, true in sent[number].items():
            estimate = before - (after - sent[number + 1][site])
            guess = before / len(sent[number])
            yield Told(nearness(estimate, true), nearness(guess, true), correlation(estimate, true))


def numbers_told(recorded: Recorded) -> Iterator[float]:
    """Yield, for each site and two rounds, which share of its losses and metrics the difference of two sums tells."""
    sent: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for plan, answer in recorded.heard:
        if plan.kind == "train":
            arrays = split_sums(dequantise(signed(answer.words), recorded.packing)[1], recorded.packing)
            parts = [
                np.ravel(v) for name, v in arrays.items() if name == "train_loss" or name.startswith(METRIC_PREFIX)
            ]
            sent[plan.round][answer.site] = np.concatenate(parts)
    for number in sorted(sent)[:-1]:
        before, after = (sum(sent[n].values(), np.zeros(1)) for n in (number, number + 1))
        for site, true in sent[number].items():
            error = np.abs(before - (after - sent[number + 1][site]) - true)
            yield float(np.mean(error[true != 0] <= READ * np.abs(true[true != 0])))
