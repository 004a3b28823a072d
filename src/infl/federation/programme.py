"""The programme of a run: all its exchanges, in order, as each site computes them from the agreement that it consented to.

A coordinator says which exchange it asks for. A site knows which one is due, and answers no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from infl.errors import SettingsError
from infl.federation.exchanges import TrainingSum, close_sum, count_sum, judge_sum, training_sum
from infl.federation.messages import END_KIND, KEYS_KIND, REPLAY_KIND, REVEAL_KIND, Total
from infl.federation.seeds import generator
from infl.privacy.seal import Packing

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.federation.messages import Plan
    from infl.models.task import Task
    from infl.nn.flat import Layout
    from infl.sums import FederatedSum

MAX_ATTEMPTS = 12
"""At one exchange."""


@dataclass(frozen=True)
class Exchange:
    """One sum over sites: what, in which round, packed how.

    Attributes
    ----------
    kind
        What is summed: ``"count"``, ``"train"``, ``"judge"``, or a task's own sum.
    round
        Training round, 0 before and after.
    packing
        Arrays and their first scales.
    of_all
        The sum counts only if all sites are in it.
    sum, step
        The sum that it is a step of, counted from 0 (None: a plan that asks for no sum).

    Examples
    --------
    >>> Exchange("close", 0, Packing(())).packing.n64
    0
    """

    kind: str
    round: int
    packing: Packing
    of_all: bool = False
    sum: FederatedSum | TrainingSum | None = field(default=None, compare=False, repr=False)
    step: int = 0


@dataclass(frozen=True)
class Programme:
    """All exchanges of a run: count, set-up sums, rounds, last judgement, final sums, and a last one without numbers.

    Parameters
    ----------
    task, agreement, shared
        The run, and which weights its sites share.

    Examples
    --------
    >>> import infl
    >>> from infl.federation.agreement import Agreement
    >>> from infl.federation.replica import Replica
    >>> sites = infl.datasets.khan_sites()
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> programme = Replica(agreement, key, task).programme
    >>> [exchange.kind for exchange in programme.exchanges]
    ['count', 'means', 'deviations', 'train', 'train', 'judge', 'temperature', 'confidence', 'close']
    >>> programme.due(4, rounds=1, stopped=True).kind
    'judge'
    """

    task: Task
    agreement: Agreement
    shared: Layout

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All exchanges, in order.

        Raises
        ------
        SettingsError
            A task's sums cannot be agreed on beforehand, or have the same name.
        """
        task, agreement, panel = self.task, self.agreement, self.agreement.panel
        _check_sums(task, panel)

        def steps(*sums: FederatedSum, of_all: bool = False) -> list[Exchange]:
            return [
                Exchange(kind, 0, one.packing, of_all, one, step)
                for one in sums
                for step, kind in enumerate(one.exchanges)
            ]

        private, train = agreement.dp is not None, training_sum(task, agreement, self.shared)
        return (  # all later sums build on those before the first round
            *steps(count_sum(task, panel, private=private), *task.before(panel), of_all=True),
            *(Exchange(train.name, number, train.packing, sum=train) for number in range(1, agreement.rounds + 1)),
            *steps(*([] if private else [judge_sum(task, panel)]), *task.after(panel), close_sum()),
        )

    def due(self, done: int, *, rounds: int, stopped: bool) -> Exchange | None:
        """Return the next exchange (None: the run is over).

        Parameters
        ----------
        done
            Sums that were applied.
        rounds
            How many of them were of training rounds.
        stopped
            No further round is due.
        """
        before = next(i for i, exchange in enumerate(self.exchanges) if exchange.round)
        skipped = self.agreement.rounds - rounds if stopped and done >= before else 0
        return self.exchanges[done + skipped] if done + skipped < len(self.exchanges) else None

    def fault(self, asked: Plan | Total, due: Exchange | None) -> str:
        """Return in what a plan or a sum differs from the exchange that is due; empty if in nothing."""
        if due is None:
            return "the run is over"
        if (asked.kind, asked.round) != (due.kind, due.round):
            return f"{due.kind!r} of round {due.round} is due, not {asked.kind!r} of round {asked.round}"
        if asked.cohort != cohort_of(self.agreement, due):
            return "other sites are asked than agreed"
        if isinstance(asked, Total) and due.of_all and asked.responders != asked.cohort:
            return f"{due.kind!r} is not of all sites"
        if not 0 <= asked.attempt < MAX_ATTEMPTS:
            return f"attempt {asked.attempt} is one too many"
        lanes = due.packing.lanes_of(all_sites=not isinstance(asked, Total) or asked.responders == asked.cohort)
        if asked.lanes != lanes:
            return f"{asked.lanes} words are asked for, agreed was {lanes}"
        return ""

    def opening_fault(self, answered: tuple[str, ...], cohort: tuple[str, ...], due: Exchange | None) -> str:
        """Return why the pairwise masks are not taken off the sum of these sites; empty if they are."""
        if answered != tuple(site for site in cohort if site in set(answered)):
            return "sites that were not asked, or in another order"
        least = len(cohort) if due is None or due.of_all else self.agreement.quorum
        if len(answered) < least:
            return f"a sum of {len(answered)} sites is to be opened, agreed were at least {least}"
        return ""


def _check_sums(task: Task, panel: Mapping[str, object]) -> None:
    """Refuse sums whose number follows from their values, and exchanges that are called alike or as another message is."""
    sums = (*task.before(panel), *task.after(panel))
    for one in sums:
        if one.until is not None:
            raise SettingsError(
                f"model {task.name!r}: the steps of its sum {one.name!r} end by what they find, and a run's exchanges are agreed "
                "on beforehand: leave until= out"
            )
    own = [kind for one in sums for kind in one.exchanges]
    of_every_run = [
        TrainingSum.name,
        *(one.name for one in (count_sum(task, panel), judge_sum(task, panel), close_sum())),
    ]
    kinds = [*of_every_run, KEYS_KIND, END_KIND, REPLAY_KIND, *own]
    twice = [kind for kind in own if kinds.count(kind) > 1 or kind.startswith(REVEAL_KIND)]
    if twice:
        raise SettingsError(f"model {task.name!r}: two exchanges are called {twice[0]!r}: give its sums other names")


def cohort_of(agreement: Agreement, exchange: Exchange) -> tuple[str, ...]:
    """Return which sites are asked in an exchange, in order."""
    sites, size = agreement.sites, agreement.cohort_size
    if not exchange.round or size == len(sites):
        return sites
    chosen = generator(agreement.seed, "cohort", exchange.round).choice(len(sites), size, replace=False)
    return tuple(sites[i] for i in sorted(chosen))
