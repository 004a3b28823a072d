"""A site's end of an unreliable line: it accepts a run, answers plans one after the other, and sends signs of life meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from infl import __version__
from infl.errors import FederationError, InflError
from infl.federation.agreement import Agreement
from infl.federation.messages import Alive, Consent, Done, Offer, Plan, Trouble
from infl.federation.site import Site
from infl.federation.wire import decode, encode

log = logging.getLogger(__name__)


DECLINED = "it declined, or could not answer; why stands in the site's own log"
"""All that the coordinator learns: a reason could reveal something of the data."""


def other_version(name: str, coordinator: str) -> str:
    """Return the line of a site, which the coordinator may learn, about another version of infl there."""
    return f"{name} has infl {__version__}, the coordinator {coordinator}: install one version everywhere"


class SiteWorker:
    """Keeps a :class:`Site` and talks to the coordinator for it.

    Parameters
    ----------
    name
        The site's name, as it is enrolled.
    prepare
        Makes the site for a specification, or raises an InflError: one line for the site's own log.
    send
        Sends bytes to the coordinator; returns at once, and may lose them.
    finish
        Called when the last sum was applied.
    note
        Called with the reason why the site declined, or could not answer.
    watch
        Called with the site after each message that it answered.
    beat
        Seconds between two signs of life.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[Agreement], Site],
        send: Callable[[bytes], None],
        *,
        finish: Callable[[Site], None] = lambda site: None,
        note: Callable[[str], None] = log.error,
        watch: Callable[[Site], None] = lambda site: None,
        beat: float = 1.0,
    ) -> None:
        self.name, self.beat = name, beat
        self._prepare, self._send, self._finish, self._note = prepare, send, finish, note
        self._watch = watch
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._alive = Alive(name, 0, 0, "")
        self._site: Site | None = None
        self._stopped, self._pulse = threading.Event(), threading.Event()

    def receive(self, content: bytes) -> None:
        """Take what came from the coordinator."""
        self._inbox.put(content)

    def stop(self) -> None:
        """Make :meth:`run` and :meth:`signs_of_life` return."""
        self._stopped.set()
        self._pulse.set()
        self._inbox.put(None)

    def signs_of_life(self) -> None:
        """Send :class:`Alive` until stopped; in a thread of its own."""
        while not self._stopped.is_set():
            self._send(encode(self._alive))
            self._pulse.wait(self.beat)
            self._pulse.clear()

    def run(self) -> None:
        """Answer what comes until stopped."""
        while (content := self._inbox.get()) is not None and not self._stopped.is_set():
            self.answer(content)

    def answer(self, content: bytes) -> None:
        """Answer one message of the coordinator, if an answer is due."""
        try:
            message = decode(content)
        except FederationError as error:
            log.warning("refused a message of the coordinator: %s", error)
            return
        if isinstance(message, Offer):
            self._consider(message)
        elif isinstance(message, Plan):
            self._answer(message)
            self._forget(content)
        else:
            log.warning("refused a message of the coordinator: %s is not for sites", type(message).__name__)

    def _forget(self, content: bytes) -> None:
        """Drop what was asked again while it was being answered."""
        waiting = []
        with suppress(queue.Empty):
            while True:
                waiting.append(self._inbox.get_nowait())
        for other in waiting:
            if other != content:
                self._inbox.put(other)

    def _consider(self, offer: Offer) -> None:
        try:
            if offer.version != __version__:
                self._say(Trouble(self.name, 0, other_version(self.name, offer.version)), tell=True)
                return
            try:
                agreement = Agreement.from_json(offer.agreement.decode())
            except (ValueError, TypeError, KeyError):
                raise FederationError(f"{self.name}: the run's specification cannot be read") from None
            if self._site is None:
                self._site = self._prepare(agreement)
            elif self._site.replica.agreement.digest != agreement.digest:
                raise FederationError(f"{self.name}: another run was offered after one was accepted; refused")
        except InflError as error:
            self._say(Trouble(self.name, 0, str(error)))
        except (ValueError, TypeError, KeyError):
            log.exception("could not prepare")
            unfit = f"{self.name}: the run's options do not fit the task or the site's data; see the log at the site"
            self._say(Trouble(self.name, 0, unfit))
        except Exception:
            log.exception("could not prepare")
            self._say(Trouble(self.name, 0, f"{self.name}: a defect of infl; see the log at the site"))
        else:
            mine = agreement.digest, agreement.panel_digest, agreement.fingerprint
            self._say(Consent(self.name, __version__, *mine, applied=self._site.replica.seq + 1))

    def _answer(self, plan: Plan) -> None:
        if self._site is None:
            return  # nothing was accepted yet; the coordinator offers the run before it asks
        self._alive = Alive(self.name, plan.seq, plan.attempt, plan.kind)
        try:
            reply: Any = self._site.handle(plan)
            if reply is None:
                self._finish(self._site)
                reply = Done(self.name, plan.seq)
        except InflError as error:
            reply = Trouble(self.name, plan.seq, str(error))
        except Exception:
            log.exception("could not answer exchange %d", plan.seq)
            reply = Trouble(self.name, plan.seq, f"{self.name}: a defect of infl; see the log at the site")
        if isinstance(reply, Trouble):
            with suppress(InflError):  # of a disk that is full the coordinator may hear all the same
                self._site.note_refusal()
        self._say(reply)
        self._pulse.set()
        self._watch(self._site)

    def _say(self, message: Any, *, tell: bool = False) -> None:
        if isinstance(message, Trouble):
            self._note(message.reason)
        if isinstance(message, Trouble) and not tell:
            message = replace(message, reason=f"{self.name}: {DECLINED}")
        self._send(encode(message))
