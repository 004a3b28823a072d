"""A run with all sites in one process: the transport, and everything around it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infl import _tell
from infl.errors import FederationError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import Coordinator, Progress, Transport
from infl.federation.replica import Replica
from infl.federation.report import last_metrics, round_bar, say
from infl.federation.run import FederatedRun
from infl.federation.site import Site
from infl.federation.stacked import StackedTrainer, stackable
from infl.privacy.seal import Ledger
from infl.privacy.seal.ledger import LEDGER_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from infl._types import Data
    from infl.federation.messages import Plan, Reply
    from infl.federation.start import Start
    from infl.keys import Keyring
    from infl.models.task import Task


UPDATES = 1 << 25
"""Most bytes of updates that all sites of one process keep until the next exchange; of more they keep none."""


class LocalTransport:
    """Calls one site after the other.

    Parameters
    ----------
    sites
        By name. They share one replica.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> from infl.federation.agreement import Agreement
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> from infl.federation.coordinator import Coordinator
    >>> replica = Replica(agreement, key, task)
    >>> transport = LocalTransport({name: Site(name, adata, replica) for name, adata in sites.items()})
    >>> first = next(Coordinator(agreement, replica.programme.exchanges, transport).run())
    >>> first.kind
    'count'
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Yield each site's answer."""
        for name in cohort:
            reply = self.sites[name].handle(plan_for(name))
            if reply is not None:
                yield reply

    def holder(self, site: str) -> str:
        """All sites share one replica."""
        return "shared"


@dataclass(frozen=True)
class Outcome:
    """A finished run with what made it, for those who write results or look on."""

    run: FederatedRun
    replica: Replica
    sites: Mapping[str, Site]


def run_in_process(
    agreement: Agreement,
    task: Task,
    tables: Mapping[str, Data],
    key: Keyring | None,
    *,
    start: Start | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = False,
    wrap: Callable[[Transport], Transport] = lambda transport: transport,
    stacked: bool = True,
    device: torch.device | str = "cpu",
) -> Outcome:
    """Run an agreement with all sites in this process; writes nothing into the sites' objects.

    `wrap` may put something between coordinator and sites: an eavesdropper, a lossy line. `stacked=False` trains one site
    after the other, as machines of their own do, to the same bits.

    Parameters
    ----------
    agreement
        The run's specification.
    task
        That the agreement is about.
    tables
        The sites' data by name; not altered.
    key
        Key ring of the sites (None: neither lock nor seal).
    start
        The model that the run begins with, where the agreement names one.
    checkpoint, resume
        Folder where every round is kept, and whether to go on from there.
    progress
        Show a progress bar.
    wrap
        Puts something between coordinator and sites.
    stacked
        Train sites in a stack where that gives the same bits.
    device
        Where all of them compute.

    Returns
    -------
    Outcome
        The run, its replica and its sites.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> outcome = run_in_process(agreement, task, sites, key)
    >>> len(outcome.run.history), outcome.run.model.header.lock
    (2, 'field')
    """
    store = None if checkpoint is None else Checkpoint(checkpoint)
    if resume and store is None:
        raise SettingsError("resume=True needs checkpoint=, the folder of the run to go on with")
    resuming = store is not None and resume and store.exists
    if store is not None and not resuming:
        store.begin(agreement)
    elif store is not None:
        agreement = store.agreement(agreement)
    run = LocalRun(
        agreement,
        task,
        tables,
        key,
        start=start,
        store=store,
        resuming=resuming,
        wrap=wrap,
        stacked=stacked,
        device=device,
    )
    with round_bar(agreement.rounds, progress) as show, _interruptible(run.coordinator, store):
        for number in run.rounds():
            show(number, run.replica.rows)
            _tell.debug(f"round {number} of {agreement.rounds}: {last_metrics(run.replica.rows)}")
    return run.outcome()


class LocalRun:
    """A run with all sites in this process, from round to round.

    Parameters
    ----------
    agreement, task, tables, key, start, wrap, stacked, device
        As for :func:`run_in_process`.
    store
        Keeps every round.
    resuming
        Go on where the store has come to.

    Attributes
    ----------
    replica, members, coordinator
        Of the run.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> run = LocalRun(Agreement.new(task, task.agree(sites), sites, key, rounds=2), task, sites, key)
    >>> list(run.rounds()), len(run.outcome().run.history)
    ([1, 2], 2)
    """

    def __init__(
        self,
        agreement: Agreement,
        task: Task,
        tables: Mapping[str, Data],
        key: Keyring | None,
        *,
        start: Start | None = None,
        store: Checkpoint | None = None,
        resuming: bool = False,
        wrap: Callable[[Transport], Transport] = lambda transport: transport,
        stacked: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.agreement = agreement
        self.replica = replica = Replica(agreement, key, task, start=start, device=device)
        self._ledgers = {name: _ledger(store, name, replica) for name in agreement.sites}
        forget = 4 * replica.flat_model.shared.total * agreement.cohort_size > UPDATES
        self.members = {
            name: Site(name, tables[name], replica, of, forgets=forget) for name, of in self._ledgers.items()
        }
        trainers = {name: member.trainer for name, member in self.members.items()}
        if stacked and stackable(replica):
            stack = StackedTrainer(trainers, forget=forget)
            for trainer in trainers.values():
                trainer.join(stack)
        state = Progress()
        if store is not None:
            store.note_data(replica, self.members)
        if store is not None and resuming:
            store.restore_sites(replica, self.members)
            state = store.progress()
        self.coordinator = Coordinator(
            agreement,
            replica.programme.exchanges,
            wrap(LocalTransport(self.members)),
            progress=state,
            on_change=_saving(store, replica, self.members),
        )
        self._seconds: list[float] = []

    def rounds(self) -> Iterator[int]:
        """Do all exchanges that are left, yielding the number of each training round when it is done."""
        clock = time.perf_counter()
        for exchange in self.coordinator.run():
            if exchange.round:
                self._seconds.append(time.perf_counter() - clock)
                yield exchange.round
                clock = time.perf_counter()

    def ledger(self) -> pd.DataFrame:
        """Return what left the sites so far."""
        import pandas as pd

        rows = [row | {"site": name} for name, ledger in self._ledgers.items() for row in ledger.rows()]
        return pd.DataFrame(rows, columns=[*LEDGER_COLUMNS, "site"])

    def outcome(self) -> Outcome:
        """Return the finished run with what made it."""
        own = {name: member.own_model() for name, member in self.members.items()}
        return Outcome(FederatedRun.of(self.replica, self.ledger(), self._seconds, own), self.replica, self.members)


def _ledger(store: Checkpoint | None, name: str, replica: Replica) -> Ledger:
    key = replica.key.subkey("ledger", version=replica.agreement.key_version) if replica.key else bytes(32)
    return Ledger(None if store is None else store.ledger_path(name), key, run=replica.agreement.run)


def _saving(
    store: Checkpoint | None, replica: Replica, sites: Mapping[str, Site]
) -> Callable[[Progress], Progress | None]:
    def save(progress: Progress) -> Progress | None:
        if store is None:
            return None
        store.save_sites(replica, sites)  # sites first: an exchange that is not on record is simply asked for again
        return store.save_progress(progress)

    return save


@contextmanager
def _interruptible(coordinator: Coordinator, store: Checkpoint | None) -> Iterator[None]:
    """Let Ctrl-C end the run after the exchange under way; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        coordinator.interrupt()
        signal.signal(signal.SIGINT, before)
        say("ending after this round; press Ctrl-C again to end at once")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if coordinator.interrupted:
        done = coordinator.progress.position
        remedy = (
            f"go on with checkpoint={str(store.folder)!r}, resume=True"
            if store
            else "nothing was kept; pass checkpoint= to be able to go on next time"
        )
        raise FederationError(f"interrupted after {done} of {len(coordinator.exchanges)} exchanges; {remedy}")
