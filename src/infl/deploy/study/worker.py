"""A site's end of an unreliable line, for studies: it accepts one, and runs its steps while messages come and go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from infl import __version__
from infl.deploy.site_worker import DECLINED, other_version
from infl.deploy.study.specification import Study
from infl.errors import FederationError, InflError
from infl.federation.messages import Consent, Done, Heard, Said, StudyOffer, Trouble
from infl.federation.wire import decode, encode

if TYPE_CHECKING:
    from infl.deploy.study.site import StudySite

log = logging.getLogger(__name__)
SLOWEST = 60.0
"""Seconds after which at the latest a message is sent again that has had no answer."""


class _Over(Exception):
    """The attempt has ended."""


class StudyWorker:
    """Keeps a :class:`StudySite` and talks to the coordinator for it.

    Parameters
    ----------
    name, send, note
        As for :class:`infl.deploy.site_worker.SiteWorker`.
    prepare
        Makes the site for a study, or raises an InflError: one line for the site's own log.
    repeat
        Seconds after which a message is sent again, then after twice as many, and so on.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[Study], StudySite],
        send: Callable[[bytes], None],
        *,
        note: Callable[[str], None] = log.error,
        repeat: float = 5.0,
    ) -> None:
        self.name, self.repeat = name, repeat
        self._prepare, self._send, self._note = prepare, send, note
        self._site: StudySite | None = None
        self._offers: list[StudyOffer] = []
        self._heard: dict[tuple[int, int], Heard] = {}
        self._changed, self._stopped = threading.Condition(), False

    def receive(self, content: bytes) -> None:
        """Take what came from the coordinator."""
        try:
            message = decode(content)
        except FederationError as error:
            log.warning("refused a message of the coordinator: %s", error)
            return
        with self._changed:
            if isinstance(message, StudyOffer):
                self._offers.append(message)
            elif isinstance(message, Heard):
                self._heard[(message.step, message.number)] = message
            self._changed.notify_all()

    def stop(self) -> None:
        """Make :meth:`run` return, and a step under way end at its next exchange."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._site is not None:
            self._site.ledger.close()

    def run(self) -> None:
        """Answer offers until stopped; the steps of a study that was accepted run in a thread of their own."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offers or self._stopped)
                if self._stopped:
                    return
                offer = self._offers[-1]
                self._offers.clear()
            self._consider(offer)

    def _consider(self, offer: StudyOffer) -> None:
        try:
            if offer.version != __version__:
                line = other_version(self.name, offer.version)
                self._note(line)
                self._send(encode(Trouble(self.name, 0, line)))
                return
            study = Study.from_json(offer.study.decode())
            begins = self._site is None
            if self._site is None:
                self._site = self._prepare(study)
            elif self._site.study.digest != study.digest:
                raise FederationError(f"{self.name}: another study was offered after one was accepted; refused")
        except UnicodeDecodeError:
            self._trouble(0, f"{self.name}: the study's specification cannot be read")
        except InflError as error:
            self._trouble(0, str(error))
        except Exception:
            log.exception("could not prepare")
            self._trouble(0, f"{self.name}: a defect of infl; see the log at the site")
        else:
            consent = Consent(self.name, __version__, study.digest, "", study.fingerprint, self._site.working.done)
            self._send(encode(consent))
            if begins:
                threading.Thread(target=self._work, args=(self._site,), name="infl study", daemon=True).start()

    def _work(self, site: StudySite) -> None:
        """Do the steps; what ends them is said until the attempt is over, since a message may be lost."""
        seq = len(site.study.steps)
        try:
            site.run(self._exchange)
            last: Done | Trouble = Done(self.name, seq)
        except _Over:
            return
        except InflError as error:
            last = self._reported(site, str(error))
        except Exception:
            log.exception("could not do a step")
            last = self._reported(site, f"{self.name}: a defect of infl; see the log at the site")
        with suppress(_Over):
            while True:
                self._send(encode(last))
                self._wait(lambda: False, self.repeat)

    def _reported(self, site: StudySite, line: str) -> Trouble:
        step = site.working.done
        self._note(f"{self.name}: step {step + 1} of study {site.study.name} ended: {line}")
        with suppress(InflError):  # of a disk that is full the coordinator may hear all the same
            site.ledger.record_other(site.study.run, step + 1, Trouble.entry)
        return Trouble(self.name, step + 1, f"{self.name}: {DECLINED}")

    def _exchange(self, said: Said) -> Heard:
        """Send a message until there is an answer to it."""
        place, content, pause = (said.step, said.number), encode(said), self.repeat
        while True:
            if self._stopped:  # the ledger is closed then
                raise _Over
            self._send(content)
            if self._wait(lambda: place in self._heard, pause):
                with self._changed:
                    heard = self._heard.pop(place)
                    self._heard = {other: kept for other, kept in self._heard.items() if other > place}
                return heard
            pause = min(2 * pause, SLOWEST)

    def _wait(self, true: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: true() or self._stopped, max(0.0, until - time.monotonic()))
            if self._stopped:
                raise _Over
            return true()

    def _trouble(self, seq: int, reason: str) -> None:
        self._note(reason)
        self._send(encode(Trouble(self.name, seq, f"{self.name}: {DECLINED}")))
