"""The coordinator's end of an unreliable line to sites on other machines: who is up, who is late, who must be asked again.

What carries the bytes (:mod:`infl.deploy.flare`, a test) gives a function that sends, and calls :meth:`receive`. Every
site sends :class:`Alive` all the time, from a thread that training does not hold up; liveness follows from that alone, so
a dead site costs a round a few seconds once and nothing afterwards.
"""

from __future__ import annotations

import logging
import queue
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from infl._parameters import Kind, Real
from infl.errors import FederationError
from infl.federation.messages import (
    END_KIND,
    KEYS_KIND,
    REPLAY_KIND,
    REVEAL_KIND,
    Alive,
    Answer,
    Applied,
    Consent,
    Done,
    Key,
    Offer,
    Plan,
    Reply,
    Reveal,
    Said,
    Stopped,
    StudyOffer,
    Trouble,
)
from infl.federation.wire import decode, encode_parts

log = logging.getLogger(__name__)
SMALL = 1 << 20
"""Bytes that any message may have beside its words."""
SLOWEST = 6
"""A site is asked again after `Patience.repeat` seconds, then after twice as many, and so on, doubled at most so often."""


@dataclass(frozen=True)
class Patience:
    """How long the coordinator waits, in seconds.

    Attributes
    ----------
    silence
        A site that was not heard of for so long counts as lost until it is heard of again.
    repeat
        A site that is up and has not answered is asked again after this, then after twice as long, and so on.
    first
        Deadline of an exchange of a kind that was not timed before.
    least, factor
        Afterwards: `factor` times the median time that sites took, at least `least`.
    consent
        For sites to accept the run.
    """

    silence: float = 15.0
    repeat: float = 5.0
    first: float = 3600.0
    least: float = 60.0
    factor: float = 4.0
    consent: float = 120.0

    parameters: ClassVar[dict[str, Kind]] = {
        **dict.fromkeys(("silence", "repeat", "first", "least", "consent"), Real(0, open="low")),
        "factor": Real(1),
    }
    """What each may be."""


@dataclass
class Peer:
    """What the coordinator knows of a site.

    Attributes
    ----------
    heard
        When it was last heard of, in seconds of the clock (−∞: never).
    alive
        What it last reported to be doing.
    declined
        It does not take part in this attempt.
    trouble
        Why it declined, or could not answer last time.
    bytes_in, bytes_out
        Bytes from and to it.
    """

    heard: float = float("-inf")
    alive: Alive | None = None
    declined: bool = False
    trouble: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class _Due:
    """A plan that was sent and not answered."""

    plan: Plan
    sent: float = float("-inf")
    times: int = 0


class RemoteTransport:
    """Moves messages between the coordinator and sites that come and go.

    Parameters
    ----------
    sites
        Their names.
    send
        Sends bytes, in parts, to a site; returns at once, and may lose them.
    patience
        How long to wait.
    clock
        Seconds.
    """

    def __init__(
        self,
        sites: tuple[str, ...],
        send: Callable[[str, list[memoryview]], None],
        patience: Patience | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peers = {site: Peer() for site in sites}
        self.patience = patience or Patience()
        self._send, self._clock, self._inbox = send, clock, queue.SimpleQueue[tuple[str, Any]]()
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=32))
        self.limit, self._stopped = SMALL, threading.Event()
        self.refused, self.done = 0, set[str]()
        self._offer: list[memoryview] = []
        self._accepted = set[str]()

    # -- the line --------------------------------------------------------------------------------------------------
    def receive(self, site: str, content: bytes) -> None:
        """Take what came from `site`, a name that the line vouches for; what is no message of its own is dropped."""
        try:
            if site not in self.peers:
                raise FederationError(f"{site!r} is not a site of this run")
            message = decode(content, limit=self.limit)
            if not isinstance(
                message, Alive | Answer | Applied | Consent | Done | Key | Reveal | Said | Stopped | Trouble
            ):
                raise FederationError(f"{type(message).__name__} does not come from a site")
            if message.site != site:
                raise FederationError(f"it used the name of {message.site!r}")
        except FederationError as error:
            self.refused += 1
            log.warning("refused a message of %s: %s", site, error)
            return
        self._inbox.put((site, (message, len(content))))

    def stop(self) -> None:
        """Make whatever waits end with a FederationError."""
        self._stopped.set()
        self._inbox.put(("", None))

    def lost(self, sites: tuple[str, ...] | None = None) -> list[str]:
        """Return which sites are not heard of."""
        return [s for s in sites or tuple(self.peers) if self.silent(s) > self.patience.silence]

    def silent(self, site: str) -> float:
        """Return the seconds since a site was last heard of; infinity before the first time."""
        return self._clock() - self.peers[site].heard

    def leave_out(self, site: str, why: str) -> None:
        """Ask a site nothing more in this attempt."""
        self.peers[site].declined, self.peers[site].trouble = True, why

    # -- before the first exchange ---------------------------------------------------------------------------------
    def offer(
        self, offer: Offer | StudyOffer, *, enough: Callable[[Mapping[str, Consent]], bool]
    ) -> dict[str, Consent]:
        """Offer the run to all sites and return who accepted.

        Waits until every site said yes or no, or one that was there is lost; once `enough` said yes, only as long as a lost
        site may be silent.
        """
        answers: dict[str, Consent] = {}
        self._offer, asked = encode_parts(offer), dict.fromkeys(self.peers, float("-inf"))
        begun = self._clock()
        while (now := self._clock()) - begun < self.patience.consent:
            waiting = [s for s in self.peers if s not in answers and not self.peers[s].declined]
            if not waiting or (enough(answers) and now - begun > self.patience.silence):
                break
            given_up = 3 * self.patience.silence  # while data are read, signs of life may be late
            if any(given_up < self.silent(site) < float("inf") for site in self.peers):
                break
            for site in waiting:
                if now - asked[site] >= self.patience.repeat:
                    asked[site] = now
                    self._put(site, self._offer)
            site, message = self._next()
            if isinstance(message, Consent):
                answers[site] = message
                self._accepted.add(site)
            elif isinstance(message, Trouble):
                self.peers[site].declined = True
        return answers

    # -- exchanges -------------------------------------------------------------------------------------------------
    def holder(self, site: str) -> str:
        """Every site has a replica of its own."""
        return site

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Send each site its plan and yield the answers as they come, until all that are up answered or are too late."""
        begun, due, encoded = self._clock(), dict[str, _Due](), dict[int, tuple[Plan, list[memoryview]]]()
        for site in cohort:
            plan = plan_for(site)
            if self.peers[site].declined:
                continue
            due[site] = _Due(plan)
            self.limit = SMALL + 4 * plan.lanes[0] + 8 * sum(plan.lanes[1:]) + (len(cohort) << 10)
            self.peers[site].trouble = ""
        kind = plan.kind if cohort else ""
        deadline = begun + self._deadline(kind)
        while due and self._clock() < deadline:
            self._go_on()
            self._ask_again(due, encoded)
            if all(s in self.lost() for s in due):
                break
            site, message = self._next()
            if isinstance(message, Consent):
                self._accepted.add(site)
            if site not in due or isinstance(message, Consent):
                continue
            if isinstance(message, Trouble) and self._has_no_run(site):
                self.peers[site].declined = True
                del due[site]
            elif isinstance(message, Trouble) and message.seq == due[site].plan.seq:
                del due[site]
            elif _answers(message, due[site].plan):
                wrong = _misfit(message, due.pop(site).plan)
                if wrong:  # an answer that fits nothing costs its site this exchange, and the others nothing
                    self.refused += 1
                    self.peers[site].trouble = f"{site} sent {wrong}; left out of this exchange"
                    log.warning(self.peers[site].trouble)
                    continue
                self._seconds[kind].append(self._clock() - begun)
                if isinstance(message, Done):
                    self.done.add(site)
                else:
                    yield message
            del message  # its buffer goes before the next one comes
        for site in due:
            why = "lost" if site in self.lost() else "too late"
            self.peers[site].trouble = self.peers[site].trouble or why
            log.warning("%s: %s in exchange %d (%s)", site, why, due[site].plan.seq, kind)

    def _deadline(self, kind: str) -> float:
        past, patience = self._seconds[kind], self.patience
        return max(patience.least, patience.factor * statistics.median(past)) if past else patience.first

    def _ask_again(self, due: Mapping[str, _Due], encoded: dict[int, tuple[Plan, list[memoryview]]]) -> None:
        """Send plans to sites that are up and have not answered: something may have been lost, or it takes them long."""
        now, lost = self._clock(), set(self.lost())
        for site, d in due.items():
            if site in lost or now - d.sent < self.patience.repeat * 2 ** min(d.times - 1, SLOWEST):
                continue
            if (
                id(d.plan) not in encoded
            ):  # one that several sites get is encoded once, and kept, so the id stays its own
                encoded[id(d.plan)] = d.plan, encode_parts(d.plan)
            d.sent, d.times = now, d.times + 1
            if self._has_no_run(site):
                self._put(site, self._offer)
            self._put(site, encoded[id(d.plan)][1])

    def _has_no_run(self, site: str) -> bool:
        """Whether a site, whose process began when enough others had said yes, has not accepted the run yet."""
        return bool(self._offer) and site not in self._accepted

    def _put(self, site: str, content: list[memoryview]) -> None:
        self.peers[site].bytes_out += sum(map(len, content))
        self._send(site, content)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise FederationError("the run was stopped")

    def _next(self) -> tuple[str, Any]:
        """Wait a little for a message; liveness messages are recorded, not returned."""
        try:
            site, item = self._inbox.get(timeout=min(1.0, self.patience.repeat))
        except queue.Empty:
            return "", None
        self._go_on()
        message, size = item
        peer = self.peers[site]
        peer.heard, peer.bytes_in = self._clock(), peer.bytes_in + size
        if isinstance(message, Alive):
            peer.alive = message
            return "", None
        if isinstance(message, Trouble):
            peer.trouble = message.reason
            log.warning("%s: %s", site, message.reason)
        return site, message


def _answers(message: Any, plan: Plan) -> bool:
    """Whether a message is what this plan asks for; one to an earlier plan that comes late is not."""
    if message.seq != plan.seq:
        return False
    if plan.kind == KEYS_KIND:
        return isinstance(message, Key)
    if plan.kind.startswith(REVEAL_KIND):
        return isinstance(message, Reveal)
    if plan.kind == END_KIND:
        return isinstance(message, Done)
    if plan.kind == REPLAY_KIND:
        return isinstance(message, Applied)
    return isinstance(message, Stopped) or (isinstance(message, Answer) and message.attempt == plan.attempt)


def _misfit(message: Any, plan: Plan) -> str:
    """Return what is wrong with an answer to a plan, empty if nothing is."""
    if isinstance(message, Reveal) and message.revealed.site != message.site:
        return "shares in another's name"
    if not isinstance(message, Answer):
        return ""
    if message.run != plan.run:
        return "an answer to another run"
    if (message.key_version, message.fingerprint) != (plan.key_version, plan.fingerprint):
        return f"an answer under key version {message.key_version} ({message.fingerprint[:40]})"
    found, due = message.words.lanes, plan.lanes
    return "" if found == due else f"{found} words where {due} are due"
