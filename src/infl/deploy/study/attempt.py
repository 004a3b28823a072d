"""The coordinator's attempt at a study: it offers it, answers what sites say, and ends when all have kept the last step."""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

from infl import __version__
from infl._files import explained, write_atomic
from infl.deploy.attempt import REQUEST_AGAIN, REQUEST_LEAVE, REQUEST_STOP, Attempt, AttemptFolder, check_consents
from infl.deploy.remote import RemoteTransport
from infl.deploy.study.desk import Desk, Disagreement
from infl.deploy.study.specification import Study
from infl.errors import FederationError, FileError, SettingsError
from infl.federation.messages import Consent, Said, StudyOffer, Trouble

log = logging.getLogger(__name__)
LARGEST = 1 << 31
"""Bytes of a message of an enrolled site; how large a sum is, only the sites know before."""
EVERY = 1.0
"""Seconds between two notes of who is up."""


class StudyFolder(AttemptFolder):
    """A study at the coordinator, on disk.

    Parameters
    ----------
    folder
        Made if it is missing.
    """

    what: ClassVar[str] = "study"
    unit: ClassVar[str] = "step"

    def begin(self, study: Study) -> None:
        """Write down what was agreed on."""
        if self.exists:
            raise FileError(f"{self.folder} already has a study: choose another name")
        write_atomic(self.folder / "study.json", study.to_json().encode())

    @property
    def exists(self) -> bool:
        """Whether a study was begun here."""
        return is_study(self.folder)

    @property
    def agreement(self) -> Study:
        """What was agreed on."""
        path = self.folder / "study.json"
        with explained(path, "read"):
            text = path.read_text(errors="replace")
        try:
            return Study.from_json(text)
        except SettingsError:
            raise FileError(
                f"{path} is damaged: put it back from a backup; without it the study cannot go on"
            ) from None

    def desk(self) -> Desk:
        """Return what combines the messages of the step under way."""
        return Desk(self.agreement, self.folder / "heard")

    @property
    def position(self) -> int:
        """Number that grows with every exchange."""
        return self.desk().position


class StudyTransport(RemoteTransport):
    """Moves messages of a study. What sites say while others are still asked to take part is kept."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.limit = LARGEST
        self._early: deque[Said] = deque()

    def _next(self) -> tuple[str, Any]:
        site, message = super()._next()
        if isinstance(message, Said):
            self._early.append(message)
            return "", None
        return site, message

    def hear(self) -> Said | Trouble | None:
        """Wait a little for what a site says, or that it cannot do a step."""
        if not self._early:
            _, message = self._next()
            if isinstance(message, Trouble):
                return message
        return self._early.popleft() if self._early else None

    def tell(self, site: str, content: bytes) -> None:
        """Send a message to a site."""
        self._put(site, [memoryview(content)])


class StudyAttempt(Attempt):
    """Runs a :class:`Desk` on a study's folder over a transport.

    Parameters
    ----------
    folder
        The study's folder.
    transport
        To the sites.
    """

    def __init__(self, folder: StudyFolder, transport: StudyTransport) -> None:
        super().__init__(folder, transport)
        self.study, self.desk, self.line = folder.agreement, folder.desk(), transport

    def _work(self) -> tuple[str, str]:
        study, desk = self.study, self.desk
        self._note(rounds=len(study.steps), exchanges=len(study.steps), position=desk.position, round=desk.done)
        offer = StudyOffer(__version__, study.to_json().encode())
        consents = self.line.offer(offer, enough=lambda consents: len(consents) == len(study.sites))
        self.note_consents(consents, study.digest)
        self._check(consents)
        self._note(state="running", message="")
        noted = time.monotonic()
        while not desk.finished:
            message = self.line.hear()
            if isinstance(message, Trouble):
                return "stopped", self._explained(
                    f"step {message.seq} could not be done at {message.site}, and is kept nowhere"
                )
            if message is not None:
                try:
                    self._combine(message)
                except Disagreement as error:
                    return "stopped", str(error)
            if time.monotonic() - noted > EVERY:
                self._note(position=desk.position)
                noted = time.monotonic()
            if lost := self.line.lost():
                raise FederationError(f"{', '.join(lost)} was lost; the step under way begins again when all are back")
            requested = self.folder.requested
            desk.close(requested in (REQUEST_STOP, REQUEST_LEAVE))
            if requested == REQUEST_AGAIN:
                return "ended", ""
            if desk.closed and desk.waits:
                self._note(round=desk.written)
                return "ended", ""
        return "finished", ""

    def _combine(self, said: Said) -> None:
        done = self.desk.done
        try:
            answers = self.desk.hear(said)
        except Disagreement:
            raise
        except FederationError as error:
            log.warning("refused a message of %s: %s", said.site, error)
            return
        if self.desk.done != done:  # before the sites hear of it: after the last step they may leave
            self._note(round=self.desk.done, position=self.desk.position)
        for site, content in answers:
            self.line.tell(site, content)

    def _check(self, consents: dict[str, Consent]) -> None:
        study = self.study
        check_consents(consents, version=__version__, agreement=study.digest, fingerprint=study.fingerprint)
        if missing := [site for site in study.sites if site not in consents]:
            raise FederationError(f"not ready: {', '.join(missing[:8])}")


def is_study(folder: Path) -> bool:
    """Whether a coordinator's folder of a run has a study."""
    return (folder / "study.json").exists()
