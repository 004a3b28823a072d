"""The coordinator: it asks sites, adds what they send, and passes sums on. It has no key, no data and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from infl.errors import FederationError
from infl.federation.agreement import Agreement
from infl.federation.gathered import Gathered
from infl.federation.messages import (
    END_KIND,
    KEYS_KIND,
    REPLAY_KIND,
    REVEAL_KIND,
    Applied,
    Key,
    Plan,
    Reply,
    Reveal,
    Stopped,
    Total,
    context_of,
    linked,
)
from infl.federation.programme import MAX_ATTEMPTS, Exchange, cohort_of
from infl.privacy.seal import Packing, Revealed, epochs_of, uncover

MAX_TOTALS = 4
"""Most sums in one message; a site that lacks more is sent the others before it is asked again."""


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
class Opening:
    """A sum whose pairwise masks are coming off. Sites give their parts once, so it is kept before any is asked for.

    Attributes
    ----------
    total
        The sum, masked.
    peers
        What the sites had advertised.
    shares
        What they sent to each other along with their messages, encrypted.
    """

    total: Total
    peers: Mapping[str, bytes]
    shares: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True)
class Progress:
    """Where a run is; with the sums that some site has not seen yet, all that a coordinator must keep.

    Attributes
    ----------
    position
        Number of exchanges of the programme that are done (rounds that early stopping saved count as done).
    seq
        Number of the next exchange.
    totals
        Sums that some site has not applied.
    chain
        Digest of all sums so far (pairwise seal).
    opening
        The sum of the next exchange, where only its masks have to come off (pairwise seal, between machines).

    Examples
    --------
    >>> Progress().position, Progress().totals
    (0, ())
    """

    position: int = 0
    seq: int = 0
    totals: tuple[Total, ...] = ()
    chain: str = ""
    opening: Opening | None = None


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
    on_change
        Called with the new :class:`Progress` after each exchange, before anybody sees its sum; may return an equal one to go
        on with, whose sums are not in memory.
    applied
        How many sums each site has applied already (default: unknown; it is sent all that are kept).
    between_machines
        Sites start and start again on their own: each brings a key that it made at its start, and what is being opened is
        kept (:class:`Opening`).

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
    ['count', 'means', 'deviations', 'train', 'train', 'judge', 'temperature', 'confidence', 'close']
    """

    def __init__(
        self,
        agreement: Agreement,
        exchanges: tuple[Exchange, ...],
        transport: Transport,
        *,
        progress: Progress | None = None,
        on_change: Callable[[Progress], Progress | None] = lambda progress: None,
        applied: Mapping[str, int] | None = None,
        between_machines: bool = False,
    ) -> None:
        self.agreement, self.exchanges, self.transport = agreement, exchanges, transport
        self.between_machines = between_machines
        self.progress, self.on_change = progress or Progress(), on_change
        self.interrupted = False
        self._seen = {transport.holder(site): n - 1 for site, n in (applied or {}).items()}
        self._peers: dict[str, bytes] = {}
        self._complete = False  # everybody answered last time, so nobody has started again

    def run(self) -> Iterator[Exchange]:
        """Do the exchanges one after the other, yielding each when it is done; the last sum is delivered too."""
        keyed = self.agreement.seal == "pairwise" or (self.between_machines and self.agreement.seal != "none")
        while self.progress.position < len(self.exchanges) and not self.interrupted:
            if keyed and not self._complete:
                self._collect_keys()
            exchange = self.exchanges[self.progress.position]
            total = self._exchange(exchange)
            if total is None:  # early stopping: the next exchange that is no training round
                position = next(i for i, e in enumerate(self.exchanges) if i > self.progress.position and not e.round)
                self.progress = replace(self.progress, position=position)
                continue
            oldest = min((self._seen.get(self.transport.holder(s), -1) for s in self.agreement.sites), default=-1)
            self.progress = Progress(
                self.progress.position + 1,
                self.progress.seq + 1,
                (*(t for t in self.progress.totals if t.seq > oldest), total),
                self._chain(exchange, total),
            )
            del total
            self.progress = self.on_change(self.progress) or self.progress
            yield exchange
        if not self.interrupted:
            last, cohort = Exchange(END_KIND, 0, Packing(())), self._brought_up(self.agreement.sites)
            for _ in self.transport.ask(cohort, lambda site: self._plan(site, last, (), 0)):
                pass

    def interrupt(self) -> None:
        """End after the exchange under way, without the last sum being delivered."""
        self.interrupted = True

    def _chain(self, exchange: Exchange, total: Total) -> str:
        """Return the sites' chain after a sum, which taking pairwise masks off the next one needs."""
        if self.agreement.seal != "pairwise":
            return ""
        context = context_of(self.agreement.run, total, exchange.packing, self.agreement.digest, self.progress.chain)
        return linked(self.progress.chain, context, total)

    def _exchange(self, exchange: Exchange) -> Total | None:
        if (opening := self.progress.opening) is not None:  # of an attempt at the run before
            masked = opening.total.words.copy()
            self._uncover(exchange, replace(opening, total=replace(opening.total, words=masked)))
            return replace(opening.total, words=masked)
        cohort = cohort_of(self.agreement, exchange)
        for attempt in range(MAX_ATTEMPTS):
            total, shares = self._collect(exchange, cohort, attempt)
            if total is None:
                return None
            if self.agreement.seal != "pairwise":
                return total
            opening = Opening(total, self._peers, shares)
            if self.between_machines:
                self.on_change(replace(self.progress, opening=opening))
            if self._uncover(exchange, opening):
                return total
        raise FederationError(f"sites were lost in {MAX_ATTEMPTS} attempts at one exchange: check their connections")

    def _collect(
        self, exchange: Exchange, cohort: tuple[str, ...], attempt: int
    ) -> tuple[Total | None, Mapping[str, Mapping[str, bytes]]]:
        """Ask the cohort once; return the sum (None: training has stopped), and what sites sent each other to open it."""
        plans: dict[int, Plan] = {}  # one for all sites that have seen the same sums: with many sites it is long

        def plan_for(site: str) -> Plan:
            seen = self._seen.get(self.transport.holder(site), -1)
            if seen not in plans:
                plans[seen] = self._plan(site, exchange, cohort, attempt)
            return plans[seen]

        gathered = Gathered(plan_for(cohort[0]))
        for reply in self.transport.ask(self._brought_up(cohort), plan_for):
            sites = gathered.asked_of(reply)
            self._seen |= dict.fromkeys(map(self.transport.holder, sites), self.progress.seq - 1)
            if isinstance(reply, Stopped):
                return None, {}
            gathered.take(reply)
            del reply  # its buffer goes before the next one comes
        responders = gathered.responders
        self._check_enough(exchange, cohort, responders)
        self._complete = responders == cohort
        words = gathered.words
        assert words is not None  # for the type checker: enough sites answered
        words = words if self._complete else words.of_some()
        seq, epochs = self.progress.seq, epochs_of(self._peers)
        return Total(seq, exchange.kind, exchange.round, attempt, cohort, responders, words, epochs), gathered.shares

    def _brought_up(self, cohort: tuple[str, ...]) -> tuple[str, ...]:
        """Send sites that were away for long the sums that they lack, some at a time; return who lacks only a few now."""
        replay = Exchange(REPLAY_KIND, 0, Packing(()))

        def lacking(site: str) -> int:
            return sum(t.seq > self._seen.get(self.transport.holder(site), -1) for t in self.progress.totals)

        behind = tuple(site for site in cohort if lacking(site) > MAX_TOTALS)
        while behind:
            plans = {site: self._plan(site, replay, (), 0) for site in behind}
            going_on = []
            for reply in self.transport.ask(behind, plans.__getitem__):
                if isinstance(reply, Applied) and reply.site in plans:
                    self._seen[self.transport.holder(reply.site)] = plans[reply.site].previous[-1].seq
                    going_on.append(reply.site)
            behind = tuple(site for site in going_on if lacking(site) > MAX_TOTALS)
        return tuple(site for site in cohort if lacking(site) <= MAX_TOTALS)

    def _collect_keys(self) -> None:
        """Ask every site for the public key that it made when it started; one that is away counts as lost until it has one."""
        sites, empty, self._peers = self.agreement.sites, Exchange(KEYS_KIND, 0, Packing(())), {}
        for reply in self.transport.ask(self._brought_up(sites), lambda site: self._plan(site, empty, sites, 0)):
            if isinstance(reply, Key):
                self._peers[reply.site] = reply.public

    def _uncover(self, exchange: Exchange, opening: Opening) -> bool:
        """Have the pairwise masks taken off a sum, in place.

        Where sites were lost meanwhile: False in one process, and another attempt may be due; between machines an error, and
        the next attempt at the run asks for their parts again.
        """
        total, responders = opening.total, opening.total.responders
        asked = replace(exchange, kind=REVEAL_KIND + exchange.kind)

        def plan(site: str) -> Plan:
            mine = {sender: boxes[site] for sender, boxes in opening.shares.items() if site in boxes}
            known = self._plan(site, asked, total.cohort, total.attempt)
            return replace(known, answered=responders, shares=mine, peers=opening.peers)

        given: list[Revealed] = []
        for reply in self.transport.ask(responders, plan):
            if isinstance(reply, Reveal) and reply.seq == self.progress.seq and reply.site in responders:
                given.append(reply.revealed)
        run, agreement = self.agreement.run, self.agreement.digest
        context = context_of(run, total, exchange.packing, agreement, self.progress.chain)
        try:
            uncover(context, total.words, given, responders, opening.peers)
        except FederationError:
            if not self.between_machines:
                return False
            missing = [s for s in responders if s not in {revealed.site for revealed in given}]
            raise FederationError(
                f"{', '.join(missing[:8]) or 'sites'} gave no part to open the sum of exchange {total.seq}: it is opened when "
                "they are back"
            ) from None
        return True

    def _check_enough(self, exchange: Exchange, cohort: tuple[str, ...], responders: tuple[str, ...]) -> None:
        missing = [site for site in cohort if site not in responders]
        needed = len(cohort) if exchange.of_all else self.agreement.quorum
        if len(responders) < needed:
            raise FederationError(
                f"only {len(responders)} of {len(cohort)} sites answered, {needed} are needed; missing: "
                f"{', '.join(missing[:8])}"
            )

    def _plan(self, site: str, exchange: Exchange, cohort: tuple[str, ...], attempt: int) -> Plan:
        a, seen = self.agreement, self._seen.get(self.transport.holder(site), -1)
        lacking = tuple(total for total in self.progress.totals if total.seq > seen)
        return Plan(
            run=a.run,
            seq=self.progress.seq,
            kind=exchange.kind,
            round=exchange.round,
            attempt=attempt,
            cohort=cohort,
            lanes=exchange.packing.lanes,
            agreement=a.digest,
            key_version=a.key_version,
            fingerprint=a.fingerprint,
            previous=lacking[:MAX_TOTALS],
            peers=self._peers,
        )
