"""The coordinator: it asks sites, adds what they send, and passes sums on. It has no key, no data and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from infl.errors import FederationError, KeyringError
from infl.federation.agreement import Agreement
from infl.federation.messages import (
    END,
    KEYS,
    REVEAL,
    SNAPSHOT,
    Answer,
    Key,
    Plan,
    Refusal,
    Reply,
    Reveal,
    Snapshot,
    Stopped,
    Total,
    context_of,
    linked,
)
from infl.federation.packings import WIDEN
from infl.federation.programme import MAX_ATTEMPTS, Exchange, cohort_of
from infl.privacy.seal import Packing, Revealed, Words, add, uncover

MAX_TOTALS = 4
"""Sums that are kept for sites that were away; then a snapshot takes their place."""


class Transport(Protocol):
    """Moves messages between the coordinator and the sites.

    Examples
    --------
    >>> from infl.federation.local import LocalTransport
    >>> LocalTransport({}).holder("site_1")  # sites of one process share one replica
    'shared'
    """

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Send each site its plan and yield the answers as they come; a lost site yields nothing."""

    def holder(self, site: str) -> str:
        """Name of the replica that `site` uses; sites in one process share one."""


@dataclass(frozen=True)
class Progress:
    """Where a run is; with the sums that some site has not seen yet, all that a coordinator must keep.

    Attributes
    ----------
    position
        Number of exchanges of the programme that are done (rounds that early stopping saved count as done).
    seq
        Number of the next exchange.
    widened
        How often the scale of each array of training rounds was widened.
    totals
        Sums that some site has not seen, after the snapshot if there is one.
    snapshot
        The model after an earlier sum, for sites that were away for long; encrypted under the sites' key.
    chain
        Digest of all sums so far (pairwise seal).

    Examples
    --------
    >>> Progress().position, Progress().totals
    (0, ())
    """

    position: int = 0
    seq: int = 0
    widened: tuple[str, ...] = ()
    totals: tuple[Total, ...] = ()
    snapshot: Snapshot | None = None
    chain: str = ""


class Coordinator:
    """Runs a programme over a transport.

    Parameters
    ----------
    agreement
        The run's specification.
    exchanges
        Of its :class:`~infl.federation.programme.Programme`.
    transport
        Moves the messages.
    progress
        Where to go on (default: at the beginning).
    keep
        Called with the new :class:`Progress` after each exchange, before anybody sees its sum; may return an equal one to go
        on with, whose sums are not in memory.

    Attributes
    ----------
    interrupted
        Set it to end after the exchange under way.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> from infl.federation.agreement import Agreement
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> from infl.federation.local import LocalTransport
    >>> from infl.federation.replica import Replica
    >>> from infl.federation.site import Site
    >>> replica = Replica(agreement, key, task)
    >>> transport = LocalTransport({name: Site(name, adata, replica) for name, adata in sites.items()})
    >>> exchanges = replica.programme.exchanges
    >>> [exchange.kind for exchange in Coordinator(agreement, exchanges, transport).run()]
    ['count', 'means', 'deviations', 'train', 'train', 'judge', 'temperature']
    """

    def __init__(
        self,
        agreement: Agreement,
        exchanges: tuple[Exchange, ...],
        transport: Transport,
        *,
        progress: Progress | None = None,
        keep: Callable[[Progress], Progress | None] = lambda progress: None,
    ) -> None:
        self.agreement, self.exchanges, self.transport = agreement, exchanges, transport
        self.progress, self.keep = progress or Progress(), keep
        self.interrupted = False
        self._seen: dict[str, int] = {}
        self._peers: dict[str, bytes] = {}

    def run(self) -> Iterator[Exchange]:
        """Do the exchanges one after the other, yielding each when it is done; the last sum is delivered too."""
        if self.agreement.seal == "pairwise":
            self._collect_keys()
        while self.progress.position < len(self.exchanges) and not self.interrupted:
            exchange = self.exchanges[self.progress.position]
            total, widened = self._exchange(exchange)
            if total is None:  # early stopping: the next exchange that is no training round
                position = next(i for i, e in enumerate(self.exchanges) if i > self.progress.position and not e.round)
                self.progress = replace(self.progress, position=position)
                continue
            oldest = min((self._seen.get(self.transport.holder(s), -1) for s in self.agreement.sites), default=-1)
            self.progress = Progress(
                self.progress.position + 1,
                self.progress.seq + 1,
                widened,
                (*(t for t in self.progress.totals if t.seq > oldest), total),
                self.progress.snapshot,
                self._chain(total),
            )
            if len(self.progress.totals) > MAX_TOTALS:
                self._take_snapshot(total)
            del total
            self.progress = self.keep(self.progress) or self.progress
            yield exchange
        if not self.interrupted:
            last = Exchange(END, 0, Packing(()))
            for _ in self.transport.ask(self.agreement.sites, lambda site: self._plan(site, last, (), 0, last.packing)):
                pass

    def _chain(self, total: Total) -> str:
        """Return the sites' chain after a sum, which taking pairwise masks off the next one needs."""
        if self.agreement.seal != "pairwise":
            return ""
        context = context_of(self.agreement.run, total, self.agreement.digest, self.progress.chain)
        return linked(self.progress.chain, context, total)

    def _exchange(self, exchange: Exchange) -> tuple[Total | None, tuple[str, ...]]:
        cohort = cohort_of(self.agreement, exchange)
        widened = self.progress.widened
        for attempt in range(MAX_ATTEMPTS):
            packing = exchange.packing
            for name in {f.name for f in packing.fields} & set(widened):
                packing = packing.coarser([name], WIDEN * widened.count(name))
            words, responders, refused = self._collect(exchange, cohort, attempt, packing)
            if responders is None:
                return None, widened
            if words is not None and not refused:
                return (
                    Total(
                        self.progress.seq, exchange.kind, exchange.round, attempt, cohort, responders, packing, words
                    ),
                    widened,
                )
            widened = (*widened, *sorted(refused))  # nothing refused: a site was lost while the pairwise masks came off
        if not refused:
            raise FederationError(
                f"sites were lost in {MAX_ATTEMPTS} attempts at one exchange: check their connections"
            )
        raise FederationError(
            f"{', '.join(sorted(refused)[:3])} left the agreed range {MAX_ATTEMPTS} times: training diverges; "
            "lower lr=, or scale the data"
        )

    def _collect(
        self, exchange: Exchange, cohort: tuple[str, ...], attempt: int, packing: Packing
    ) -> tuple[Words | None, tuple[str, ...] | None, set[str]]:
        """Ask the cohort once; return the sum, who is in it (None: training has stopped) and what was out of range."""
        words: Words | None = None
        asked, answered = set(cohort), set[str]()
        refused: set[str] = set()
        shares: dict[str, Mapping[str, bytes]] = {}
        plans: dict[int, Plan] = {}  # one for all sites that have seen the same sums: with many sites it is long

        def plan_for(site: str) -> Plan:
            seen = self._seen.get(self.transport.holder(site), -1)
            if seen not in plans:
                plans[seen] = self._plan(site, exchange, cohort, attempt, packing)
            return plans[seen]

        for reply in self.transport.ask(cohort, plan_for):
            if reply.site not in asked or reply.seq != self.progress.seq or reply.site in answered:
                raise FederationError(f"an answer of {reply.site!r} to exchange {reply.seq} was not asked for; refused")
            self._seen[self.transport.holder(reply.site)] = self.progress.seq - 1
            if isinstance(reply, Stopped):
                return None, None, set()
            if isinstance(reply, Refusal):
                refused |= set(reply.fields)
                continue
            if not isinstance(reply, Answer):
                raise FederationError(f"{reply.site} sent {type(reply).__name__} where an answer was due; refused")
            self._check_answer(reply, attempt, packing)
            answered.add(reply.site)
            words, shares[reply.site] = add(words, reply.words), reply.shares
            del reply  # its buffer goes before the next one comes
        responders = tuple(site for site in cohort if site in answered)
        if not refused:
            self._check_enough(exchange, cohort, responders)
        if self.agreement.seal == "pairwise" and words is not None and not refused:
            words = self._uncover(exchange, cohort, attempt, packing, words, responders, shares)
        return words, responders, refused

    def _take_snapshot(self, total: Total) -> None:
        """Have a site of the last sum send the model after it, and let go of the sums before: some site is away."""
        wanted, progress = Exchange(SNAPSHOT, 0, Packing(())), self.progress
        for site in total.responders:
            for reply in self.transport.ask((site,), lambda site: self._plan(site, wanted, (), 0, wanted.packing)):
                if isinstance(reply, Snapshot):
                    snapshot = replace(reply, seq=total.seq)
                    self.progress = replace(progress, totals=(total,), snapshot=snapshot)
                    return

    def _collect_keys(self) -> None:
        """Ask every site for its public key of the pairwise seal."""
        sites, empty = self.agreement.sites, Exchange(KEYS, 0, Packing(()))
        for reply in self.transport.ask(sites, lambda site: self._plan(site, empty, sites, 0, empty.packing)):
            if isinstance(reply, Key):
                self._peers[reply.site] = reply.public

    def _uncover(
        self,
        exchange: Exchange,
        cohort: tuple[str, ...],
        attempt: int,
        packing: Packing,
        words: Words,
        responders: tuple[str, ...],
        shares: Mapping[str, Mapping[str, bytes]],
    ) -> Words | None:
        """Have the pairwise masks taken off a sum; None where a site was lost meanwhile and another attempt is due."""
        opening = replace(exchange, kind=REVEAL + exchange.kind)

        def plan(site: str) -> Plan:
            mine = {sender: boxes[site] for sender, boxes in shares.items() if site in boxes}
            return replace(self._plan(site, opening, cohort, attempt, packing), answered=responders, shares=mine)

        given: list[Revealed] = []
        for reply in self.transport.ask(responders, plan):
            if isinstance(reply, Reveal) and reply.seq == self.progress.seq and reply.site in responders:
                given.append(reply.revealed)
        plan_of_all = self._plan(cohort[0], exchange, cohort, attempt, packing)
        context = context_of(self.agreement.run, plan_of_all, self.agreement.digest, self.progress.chain)
        try:
            return uncover(context, words, given, responders)
        except FederationError:
            return None

    def _check_answer(self, reply: Answer, attempt: int, packing: Packing) -> None:
        a = self.agreement
        if (reply.key_version, reply.fingerprint) != (a.key_version, a.fingerprint):
            raise KeyringError(
                f"{reply.site} used key version {reply.key_version} ({reply.fingerprint or 'none'}), the run has "
                f"{a.key_version} ({a.fingerprint or 'none'}): give that site the run's key"
            )
        if (reply.run, reply.attempt) != (a.run, attempt) or len(reply.words.low) != packing.n32:
            raise FederationError(f"{reply.site} answered to another run or attempt; refused")

    def _check_enough(self, exchange: Exchange, cohort: tuple[str, ...], responders: tuple[str, ...]) -> None:
        missing = [site for site in cohort if site not in responders]
        needed = len(cohort) if exchange.kind == "count" else self.agreement.min_sites
        if len(responders) < needed:
            raise FederationError(
                f"only {len(responders)} of {len(cohort)} sites answered, {needed} are needed; missing: "
                f"{', '.join(missing[:8])}"
            )

    def _plan(self, site: str, exchange: Exchange, cohort: tuple[str, ...], attempt: int, packing: Packing) -> Plan:
        a, seen, snapshot = self.agreement, self._seen.get(self.transport.holder(site), -1), self.progress.snapshot
        return Plan(
            run=a.run,
            seq=self.progress.seq,
            kind=exchange.kind,
            round=exchange.round,
            attempt=attempt,
            cohort=cohort,
            packing=packing,
            agreement=a.digest,
            key_version=a.key_version,
            fingerprint=a.fingerprint,
            previous=tuple(total for total in self.progress.totals if total.seq > seen),
            snapshot=snapshot.state if snapshot is not None and snapshot.seq > seen else b"",
            peers=self._peers,
        )
