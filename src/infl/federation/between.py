"""A run in which every process has one site and nobody asks: all go through the programme, and a channel adds what they send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from infl.federation.agreement import Agreement
from infl.federation.local import Outcome
from infl.federation.messages import END_KIND, Answer, Plan, Total
from infl.federation.programme import Exchange
from infl.federation.replica import Replica
from infl.federation.run import FederatedRun
from infl.federation.site import Site
from infl.privacy.seal import Ledger, Packing, add
from infl.privacy.seal.ledger import LEDGER_COLUMNS

if TYPE_CHECKING:
    import torch

    from infl._types import Data
    from infl.data.consortium import Consortium
    from infl.keys import Keyring
    from infl.models.task import Task
    from infl.privacy.seal import MaskedArrays


def run_between(
    agreement: Agreement,
    task: Task,
    sites: Consortium[Data],
    key: Keyring,
    *,
    min_holders: int = 1,
    device: torch.device | str = "cpu",
) -> Outcome:
    """Run an agreement over a consortium; writes nothing into the sites' objects.

    All sites are in every sum. What a process sends follows from the agreement and its data, so one that was cut off runs it again
    from the beginning and sends the same.

    Parameters
    ----------
    agreement, task
        The run, under the group seal, and its task.
    sites
        What this process has of them.
    key
        Key ring of the sites.
    min_holders
        Fewest sites that must have a feature or class before anything of it is summed.
    device
        Where this process computes.

    Returns
    -------
    Outcome
        The run with this process's part of the ledger, and this process's sites.
    """
    replica = Replica(agreement, key, task, min_holders=min_holders, device=device)
    ledger = Ledger(None, key.subkey("ledger", version=agreement.key_version), run=agreement.run)
    members = {name: Site(name, adata, replica, ledger) for name, adata in sites.items()}
    previous: tuple[Total, ...] = ()
    while (due := replica.due) is not None:
        plan = _plan(agreement, due, replica.seq + 1, previous)
        words: MaskedArrays | None = None
        for member in members.values():
            answer = member.handle(plan)
            assert isinstance(answer, Answer)
            words = add(words, answer.words)
        assert words is not None
        words = sites.channel.add(f"fit: {due.kind} {replica.context(plan).digest().hex()}", words)
        previous = (Total(plan.seq, due.kind, due.round, 0, plan.cohort, plan.cohort, words),)
        replica.catch_up(previous)
    end = _plan(agreement, Exchange(END_KIND, 0, Packing(())), replica.seq + 1, previous)
    for member in members.values():
        member.handle(end)
    own = next(iter(members), "")
    rows = pd.DataFrame([row | {"site": own} for row in ledger.rows()], columns=[*LEDGER_COLUMNS, "site"])
    run = FederatedRun.of(replica, rows, site_models={name: member.own_model() for name, member in members.items()})
    return Outcome(run, replica, members)


def _plan(agreement: Agreement, due: Exchange, seq: int, previous: tuple[Total, ...]) -> Plan:
    a, ends = agreement, due.kind == END_KIND
    cohort = () if ends else a.sites
    return Plan(
        a.run, seq, due.kind, due.round, 0, cohort, due.packing.lanes, a.digest, a.key_version, a.fingerprint, previous
    )
