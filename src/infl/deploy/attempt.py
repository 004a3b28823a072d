"""One attempt at a run or a study, whatever the engine, whatever happened before: its folder, its status, how it ends.

All that counts is in the folder. An attempt ends when what it works for is finished, when too few sites are left, or when it is
asked to end; the next one goes on where the folder is.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import TypeAdapter

from infl import __version__
from infl._files import explained, parse_json, read_own, write_atomic
from infl.deploy.folders import alone
from infl.deploy.remote import Patience, RemoteTransport
from infl.deploy.security_log import coordinator_log
from infl.errors import FederationError, FileError, InflError, NoRoomError
from infl.federation.messages import Consent

log = logging.getLogger(__name__)
REQUEST_STOP, REQUEST_AGAIN, REQUEST_LEAVE = "stop", "again", "leave"
"""Requests to a running attempt: end, and begin no other one until somebody resumes; end so that sites which came back take part
in the next; end because the coordinator's process does."""
NO_TROUBLE = ("", "lost", "too late")
"""What is said of a site that is away, or of one without trouble."""
DAY, BEAT = 86_400.0, 5.0
"""Seconds."""
FINAL_STATES = ("finished", "stopped")
"""States that no further attempt follows."""


class Agreed(Protocol):
    """What attempts need to know of what was agreed on."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of all sites."""

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""

    @property
    def quorum(self) -> int:
        """How many of them an attempt needs."""

    def tolerance(self) -> str:
        """Say in one line how many may be away."""


@dataclass(frozen=True)
class Status:
    """What is known of a run from outside.

    Attributes
    ----------
    state
        ``new``, ``offered``, ``running``, ``ended`` (another attempt is due), ``stopped``, ``finished``.
    round, rounds
        Last finished round, of how many.
    position, exchanges
        Finished exchanges, of how many.
    sites
        Of each: whether it is up, seconds since it was heard of (at most a day), what is wrong, bytes from and to it.
    message
        Why the attempt ended.
    attempts
        How many there were.
    pid, updated
        Process of the attempt, and when this was written (seconds since 1970).
    seconds
        Duration of the last rounds.
    lacking, deliveries
        Sites that have not got the last sum yet, and how often it was sent round.
    waits
        What the next attempt waits for.
    since
        When the state became what it is (seconds since 1970).
    """

    state: str = "new"
    round: int = 0
    rounds: int = 0
    position: int = 0
    exchanges: int = 0
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    message: str = ""
    attempts: int = 0
    pid: int = 0
    updated: float = 0.0
    seconds: tuple[float, ...] = ()
    lacking: tuple[str, ...] = ()
    deliveries: int = 0
    waits: str = ""
    since: float = 0.0

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Status:
        """Return a status from plain values."""
        numbers = [raw[name] for name in ("round", "rounds", "position", "attempts", "deliveries", "updated", "since")]
        rows = [row[name] for row in raw["sites"].values() for name in ("up", "silent", "in", "out")]
        if not all(isinstance(number, (int, float)) for number in (*numbers, *rows, *raw["seconds"])):
            raise TypeError
        texts = [raw[name] for name in ("state", "message", "waits")] + [
            row["trouble"] for row in raw["sites"].values()
        ]
        if not all(isinstance(text, str) for text in (*texts, *raw["lacking"])):
            raise TypeError
        return cls(**{**raw, "seconds": tuple(raw["seconds"]), "lacking": tuple(raw["lacking"])})

    def now(self, **changes: Any) -> Status:
        """Return what it is after some changes, with the time."""
        at = time.time()
        if changes.get("state", self.state) != self.state or changes.get("waits", self.waits) != self.waits:
            changes["since"] = at
        return replace(self, updated=at, **changes)


class AttemptFolder(ABC):
    """A run or study at the coordinator, on disk.

    Parameters
    ----------
    folder
        Made if it is missing.
    """

    what: ClassVar[str]
    unit: ClassVar[str]
    """What it is, and what its status counts."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        with explained(self.folder, "make"):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    @abstractmethod
    def agreement(self) -> Agreed:
        """What was agreed on."""

    @property
    @abstractmethod
    def position(self) -> int:
        """Number that grows with every exchange."""

    @property
    def status(self) -> Status:
        """Last known status."""
        path = self.folder / "status.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return Status()
        except OSError as error:
            raise FileError.of(f"cannot read {path}", error) from error
        try:
            return Status.from_json(parse_json(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise FileError(f"{path} is damaged: remove it, the {self.what} goes on by its other files") from None

    def follow(self, job: str | None) -> None:
        """Nothing to note: what is on this disk can be followed without knowing the engine's job."""
        return None

    def save_status(self, status: Status) -> None:
        """Write the status."""
        write_atomic(self.folder / "status.json", json.dumps(asdict(status), indent=1).encode(), overwrite=True)

    @property
    def patience(self) -> Patience:
        """How long the coordinator waits for sites."""
        path = self.folder / "waiting.json"
        if not path.exists():
            return Patience()
        return read_own(path, TypeAdapter(Patience).validate_python, "remove it, and start the run's file anew")

    def save_patience(self, patience: Patience) -> None:
        """Write down how long the coordinator waits for sites."""
        write_atomic(self.folder / "waiting.json", json.dumps(asdict(patience)).encode(), overwrite=True)

    def check_version(self) -> None:
        """Note which version of infl begins; later, refuse to go on with another one.

        Raises
        ------
        FederationError
            Another one began.
        """
        path = self.folder / "version"
        if not path.exists():
            write_atomic(path, __version__.encode())
        elif (began := path.read_text(errors="replace").strip()) != __version__:
            raise FederationError(
                f"{self.what} {self.folder.name} was begun with infl {began[:20]}, and here is {__version__}: install infl=={began[:20]} "
                "everywhere to finish it, or begin anew under another name"
            )

    def request(self, what: str) -> None:
        """Ask the running attempt to end after the exchange under way; a stop holds until :meth:`resume`, whatever is started."""
        name = "stop" if what == REQUEST_STOP else "request"
        write_atomic(self.folder / name, what.encode(), overwrite=True)

    @property
    def requested(self) -> str:
        """What was asked for."""
        for path in (self.folder / "stop", self.folder / "request"):
            with suppress(FileNotFoundError):
                return path.read_text(errors="replace")
        return ""

    def clear_request(self) -> None:
        """Forget what was asked for, but not a stop."""
        (self.folder / "request").unlink(missing_ok=True)

    def resume(self) -> None:
        """Forget a stop."""
        (self.folder / "stop").unlink(missing_ok=True)


class Attempt(ABC):
    """One attempt over a transport.

    Parameters
    ----------
    folder
        Of the run or study.
    transport
        To the sites.
    """

    def __init__(self, folder: AttemptFolder, transport: RemoteTransport) -> None:
        self.folder, self.transport = folder, transport
        self._status, self._writes = folder.status, threading.Lock()

    def go(self) -> Status:
        """Go on as far as it goes; never raises an InflError, the status says what happened."""
        with alone(self.folder.folder):
            self._note(state="offered", attempts=self._status.attempts + 1, message="", pid=os.getpid(), waits="")
            try:
                state, message = self._work()
            except InflError as error:
                state, message = "ended", self._explained(str(error))
            if state == "ended" and self.folder.requested == REQUEST_STOP:
                state = "stopped"
            try:
                self._note(state=state, message=message, pid=0)
            except NoRoomError as error:  # who started the attempt says so, and waits until there is room
                log.error("%s: %s", message, error)
            return self._status

    def note_consents(self, consents: Mapping[str, Consent], digest: str) -> None:
        """Write into the coordinator's security log who takes part, and who declined."""
        home = self.folder.folder.parent.parent
        declined = sorted(name for name, p in self.transport.peers.items() if p.trouble not in NO_TROUBLE)
        if not (home / "consortium.json").exists():
            return
        with suppress(NoRoomError):
            coordinator_log(home).note(
                "consents", what=self.folder.folder.name, digest=digest, sites=sorted(consents), declined=declined
            )

    def beat(self) -> None:
        """Note that the attempt lives and who is up; another thread calls it every :data:`BEAT` seconds."""
        with suppress(NoRoomError):
            self._note()

    @abstractmethod
    def _work(self) -> tuple[str, str]:
        """Do it; return state and message."""

    def _note(self, **changes: Any) -> None:
        with self._writes:
            if changes or self._status.pid:  # a beat that comes late changes nothing
                self._status = self._status.now(sites=self._sites(), **changes)
                self.folder.save_status(self._status)

    def _sites(self) -> dict[str, dict[str, Any]]:
        lost = set(self.transport.lost())
        return {
            name: {
                "up": name not in lost, "silent": round(min(self.transport.silent(name), DAY), 1), "trouble": p.trouble,
                "in": p.bytes_in, "out": p.bytes_out,
            }
            for name, p in self.transport.peers.items()
        }  # fmt: skip

    def _explained(self, message: str) -> str:
        """Add what the sites said."""
        reasons = [p.trouble for p in self.transport.peers.values() if p.trouble not in NO_TROUBLE]
        return str(FederationError("; ".join([message, *reasons])))


def check_consents(consents: Mapping[str, Consent], **agreed: str) -> None:
    """Refuse sites that understood something else than what was agreed on, a text of each field of their consents.

    Raises
    ------
    FederationError
        Which site it is, and in what it differs.
    """
    for site, consent in consents.items():
        for name, here in agreed.items():
            if (said := getattr(consent, name)) != here:
                raise FederationError(f"{site} differs in {name}: {said[:40]!r}, here {here[:40]!r}")
