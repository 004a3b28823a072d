"""A site: it has the data and the key, answers plans, and sends nothing that is not sealed."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from infl import _tell
from infl._device import computing_on
from infl._threads import threads_for
from infl.errors import FederationError, SealError
from infl.federation.due import check_agreed, due_fault
from infl.federation.exchanges import RunView, TrainingSum, metric_arrays
from infl.federation.fitted import read_for_fit
from infl.federation.messages import (
    END_KIND,
    KEYS_KIND,
    REPLAY_KIND,
    REVEAL_KIND,
    Answer,
    Applied,
    Key,
    Plan,
    Reply,
    Reveal,
    Stopped,
    Trouble,
)
from infl.federation.others import Others
from infl.federation.replica import Replica
from infl.federation.rules import AtSite
from infl.federation.training import Trainer
from infl.federation.units import Units
from infl.federation.wire import encode_parts
from infl.privacy.dp import round_key
from infl.privacy.seal import PairwiseSite, epochs_of
from infl.privacy.seal.narrow import FULL, rounding_key
from infl.privacy.seal.reveal import list_digest
from infl.sums.lanes import fitted, join_sums

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.federation.membership import Membership
    from infl.models.locked import LockedModel
    from infl.privacy.account import Account, RunAccount
    from infl.privacy.dp import DP
    from infl.privacy.seal import Ledger


class Site:
    """One participant of a run.

    Parameters
    ----------
    name
        As in the agreement.
    adata
        The site's data; read, not altered.
    replica
        The global model.
    ledger
        Where what leaves the site is written down before it leaves.
    membership
        Who it is and who the others are, between machines (None: all sites are in one process, and nobody is asked).
    on_change
        Called with the site when its state has changed, before anything is answered: the coordinator drops a sum when
        all sites have answered the plan that brought it.
    account
        Of the site's records under differential privacy: asked before the run, charged before anything of them is sealed.
    forgets
        Drop an update when it was sent; when it is asked for again, which is rare, the site trains again.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> from infl.federation.agreement import Agreement
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> from infl.federation.replica import Replica
    >>> site = Site("site_1", sites["site_1"], Replica(agreement, key, task))
    >>> site.name, site.own_model() is None
    ('site_1', True)
    """

    def __init__(
        self,
        name: str,
        adata: AnnData | MuData,
        replica: Replica,
        ledger: Ledger | None = None,
        *,
        membership: Membership | None = None,
        on_change: Callable[[Site], None] = lambda site: None,
        account: Account | None = None,
        forgets: bool = False,
    ) -> None:
        self.name, self.replica, self.ledger, self.on_change = name, replica, ledger, on_change
        self.membership = membership
        self._kept: tuple[int, str] | None = None  # the replica's seq, and the epochs, when it was kept
        a = replica.agreement
        self.data = read_for_fit(replica.task, a.panel, a.seed, adata, name)
        self.units = Units([], []) if a.dp is None else Units.of(a.dp, replica.task, adata, self.data, name)
        self.account = None if a.dp is None or account is None else self._admitted(a.dp, account)
        self._others = (
            None if self.account is None or membership is None else Others(name, self.account.of_site, membership)
        )
        self.pairwise = self._epoch()
        """The key of this start."""
        self.answering = self.pairwise
        """The start in which the exchange under way was answered: this one, or that before the site started again."""
        self.trainer = Trainer(name, self.data, replica)
        """Its rounds, and what never leaves the site."""
        self._forgets = forgets
        self.noise_key = os.urandom(32) if self.account is None else self.account.secret
        """The site's own secret; the other sites could take its noise off again if they knew it."""
        self.revealed = (-1, 0, "")
        """The exchange, its attempt and epochs, whose pairwise masks this site helped to take off last."""
        self._given: tuple[str, Reveal] | None = None  # digest of exchange and list, and what was given for it
        self._pending: tuple[int, np.ndarray, np.ndarray, float] | None = None  # seq, vector, sums, weight

    def _epoch(self, private: bytes | None = None) -> PairwiseSite:
        """Return this start of the site, or an earlier one by its private key."""
        a, m = self.replica.agreement, self.membership
        identity, members = (None, None) if m is None else (m.identity, m.members)
        secret = self.replica.seal_secret
        head = b"" if self.account is None or m is None else self.account.of_site.head()
        return PairwiseSite(self.name, secret, a.run, identity=identity, members=members, private=private, says=head)

    def _admitted(self, dp: DP, account: Account) -> RunAccount:
        """Return the run's part of the site's account, if the budgets of its records have room for the run."""
        a = self.replica.agreement
        noise = dp.least_noise(a.min_sites, a.seal, account.colluders)
        return account.admit(a.digest, self.units.names, noise=noise, sample_rate=dp.sample_rate, rounds=a.rounds)

    def handle(self, plan: Plan) -> Reply | None:
        """Answer a plan (None when the run has ended).

        Raises
        ------
        SealError
            A sum was altered; nothing of it was applied.
        FederationError, KeyringError
            The plan is not of the run that was agreed on.
        """
        with threads_for(self.replica.flat_model.flat.numel()):  # here, for every transport must round alike
            return self._handle(plan)

    def _handle(self, plan: Plan) -> Reply | None:
        replica = self.replica
        check_agreed(self.name, plan, replica.agreement)
        news = [total for total in plan.previous if total.seq > replica.seq]
        replica.catch_up(plan.previous)
        if self._others is not None:
            self._others.credit(news)
        self._check_due(plan)
        self.settle(plan)
        self._meet(plan)
        if self._kept != (state := (replica.seq, epochs_of(self.answering.met))):
            self.on_change(self)
            self._kept = state
        if plan.kind == END_KIND:
            return None
        if plan.kind == REPLAY_KIND:
            return Applied(self.name, plan.seq)
        if plan.kind == KEYS_KIND:
            public = self.pairwise.advertise()
            if self.ledger is not None:  # once in each start and exchange that is due, however often it is asked for
                self.ledger.record_other(plan.run, replica.seq + 1, Key.entry, public)
            return Key(self.name, plan.seq, public)
        if plan.kind.startswith(REVEAL_KIND):
            return self._reveal(plan)
        if plan.kind == "train" and replica.stopped:
            return Stopped(self.name, plan.seq)
        if self._pending is None or self._pending[0] != plan.seq:
            self._pending = (plan.seq, *self._compute(plan))
            if self.trainer.own.after is not None:
                self.on_change(self)  # with what the round left here, before its update is in any sum
        _, vector, sums, weight = self._pending
        if self._forgets:
            self._pending = None
        private, narrow = replica.agreement.dp, replica.packing.width < FULL
        words = replica.seal.seal(
            replica.context(plan),
            self.name,
            vector,
            sums,
            replica.packing,
            weight=weight,
            share=weight if len(vector) and private is None else None,
            clip=private is not None or narrow,
            rounding=rounding_key(replica.agreement.seed, plan.seq, self.name) if narrow else None,
            ledger=self.ledger,
        )
        shares: dict[str, bytes] = {}
        if replica.agreement.seal == "pairwise":
            shares = self.pairwise.cover(replica.context(plan), words)
        return Answer(self.name, plan.run, plan.seq, plan.attempt, plan.key_version, plan.fingerprint, words, shares)

    def _meet(self, plan: Plan) -> None:
        """Take the keys of the sites' last starts from a plan; this site's own must be among them."""
        sealed = self.membership is not None and self.replica.sealed
        if plan.kind in (END_KIND, KEYS_KIND, REPLAY_KIND) or not (sealed or self.replica.agreement.seal == "pairwise"):
            return
        if not plan.kind.startswith(REVEAL_KIND):
            self.pairwise.meet(plan.peers)
            if self._others is not None:
                self._others.witness(plan.peers)
            self.answering = self.pairwise
        else:
            self.answering.meet(plan.peers)

    def _reveal(self, plan: Plan) -> Reveal:
        """Return what takes the pairwise masks off one sum of an exchange; asked again, the same."""
        context = self.replica.context(plan)
        agreed = list_digest(context, plan.answered).hex()
        if self._given is not None and self._given[0] != agreed and self._given[1].seq == plan.seq:
            raise SealError(
                f"{self.name}: refused; shares of this exchange were already given for another list of sites"
            )
        if self._given is None or self._given[0] != agreed:
            reveal = Reveal(self.name, plan.seq, self.answering.reveal(context, plan.answered, plan.shares))
            self.revealed, self._given = (plan.seq, plan.attempt, plan.epochs), (agreed, reveal)
            self.on_change(self)  # before the ledger's line: whoever dies between them gives the same again
        reveal = self._given[1]
        if self.ledger is not None:
            size = sum(map(len, encode_parts(reveal)))
            self.ledger.record_reveal(plan.seq, context, plan.answered, size)
        return reveal

    def note_refusal(self) -> None:
        """Write down that a plan is refused, once an exchange however often it is asked for, before that is sent."""
        if self.ledger is not None:
            self.ledger.record_other(self.replica.agreement.run, self.replica.seq + 1, Trouble.entry)

    def settle(self, plan: Plan) -> None:
        """Let what stays here be that of the global model which `plan` brought."""
        kind = plan.kind.removeprefix(REVEAL_KIND)
        if kind not in (KEYS_KIND, REPLAY_KIND):  # they are asked for at any time, of the site as it is
            self.trainer.settle(plan, kind)

    def _check_due(self, plan: Plan) -> None:
        """Refuse a plan for anything but the exchange that comes next in the programme that this site computed."""
        if fault := due_fault(plan, self.replica, opened=self._has_opened):
            raise FederationError(f"{self.name}: the plan is not as agreed ({fault}); refused")

    def _has_opened(self, plan: Plan) -> bool:
        """Whether a sum of the plan's exchange but not of its attempt was opened with this site's help."""
        if self.revealed[0] == plan.seq:
            return self.revealed[1:] != (plan.attempt, plan.epochs)
        return self.ledger is not None and self.ledger.revealed(
            plan.run, plan.seq
        )  # it may know more than old files do

    def _compute(self, plan: Plan) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the update (locked, flat; empty outside training), the sums and the update's weight."""
        replica, packing = self.replica, self.replica.packing
        with computing_on(replica.device):
            update, arrays, weight = self._values(plan)
        due = replica.due
        if due is None or due.sum is None or not due.sum.marked:
            return update, join_sums(arrays, packing), weight
        update, sums, fits = fitted(update, arrays, packing, len(plan.cohort), weight=weight)
        if not fits:
            what = f"round {plan.round}" if plan.round else f"the sums for {plan.kind!r}"
            _tell.warning(f"{self.name}: what it had for {what} was not finite or out of range, and counts as zero")
            self.trainer.own.leave_out()  # what stays here goes with the update
        return update, sums, weight

    def _values(self, plan: Plan) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
        """Return the update, the sums by name and the update's weight, as they are."""
        replica, empty, due = self.replica, np.empty(0, dtype=np.float32), self.replica.due
        assert due is not None and due.sum is not None  # the plan was compared with it
        if isinstance(due.sum, TrainingSum):
            dp = replica.agreement.dp
            return self._trained(plan) if dp is None else (self._noisy_gradient(dp, plan), {}, 1.0)
        if replica.lacks:
            return empty, {name: np.zeros(shape) for name, shape in due.sum.shapes.items()}, 1.0
        n = len(self.data.train if replica.agreement.dp is None else self.units.records)
        module = replica.module(self.trainer.own.now.weights)
        view = RunView(self.data, module, n, lambda: self.trainer.judge(plan))
        return empty, dict(due.sum.local(view, replica.private)), 1.0

    def _trained(self, plan: Plan) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
        """Return the update of a training round, its sums by name and the update's weight."""
        replica, n = self.replica, len(self.data.train)
        arrays = metric_arrays(self.trainer.judge(plan))
        if replica.agreement.cohort_size < len(replica.agreement.sites):
            arrays["n"] = np.asarray(float(n))
        rows, loss = self.trainer.update(plan)
        if replica.gain is not None:
            rows.div_(replica.gain)
        arrays["train_loss"] = np.asarray(loss * n)
        if replica.rule.importance is not None:
            factor = replica.rule.importance(self._seen(loss))
            arrays["importance"] = np.asarray(n * factor)
            rows[0].mul_(factor)
        return rows.flatten().numpy(), arrays, n / replica.n_total

    def _seen(self, loss: float) -> AtSite:
        """Return what this site's factor in the average may follow from."""
        replica = self.replica
        last = replica.rows[-1]["loss"] if replica.rows else float("nan")
        return AtSite(
            loss=loss,
            n=len(self.data.train),
            excess=self.trainer.own.now.excess,
            last=last if isfinite(last) else 1.0,
            mean_n=replica.n_total / len(replica.agreement.sites),
        )

    def _noisy_gradient(self, dp: DP, plan: Plan) -> np.ndarray:
        """Return the noisy gradient of a round, which is charged first; the same whenever it is asked for after the same sums."""
        replica = self.replica
        key = round_key(self.noise_key, replica.agreement.digest, plan.seq, replica.chain)
        if self.account is not None:
            self.account.charge(key)
        return self.trainer.noisy_gradient(dp, plan, self.units.records, key)

    def own_model(self) -> LockedModel | None:
        """Return this site's whole model, where weights or moments stay here; else None."""
        replica, kept = self.replica, self.replica.task.local_arrays(self.data)
        return replica.model(self.trainer.own.now.weights, kept) if replica.flat_model.local.total or kept else None

    def state(self) -> dict[str, Any]:
        """Return what the site must remember beside the replica and what its trainer keeps: its secrets of the run."""
        return {
            "noise_key": self.noise_key,
            "revealed": self.revealed,
            "epoch": None if self.membership is None else (self.answering.private, self.answering.met),
            "given": None if self.membership is None else self._given,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.noise_key = state["noise_key"]
        self.revealed, self._given = state["revealed"], state["given"]
        if state["epoch"] is not None and self.membership is not None and state["epoch"][1]:
            private, met = state["epoch"]
            self.answering = self._epoch(private)
            self.answering.meet(met)
