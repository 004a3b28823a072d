"""FLARE's server, asked to run attempts until a run is finished."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

from infl.deploy.attempt import FINAL_STATES, REQUEST_AGAIN, REQUEST_LEAVE, REQUEST_STOP, Agreed, Status
from infl.deploy.flare.checks import check_port
from infl.deploy.flare.console import Console, over
from infl.deploy.flare.consortium import consortium_of
from infl.deploy.flare.daemon import SERVER_PROCESS, Daemon
from infl.deploy.flare.job import write_job
from infl.deploy.flare.seen import Seen
from infl.deploy.folders import alone
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.deploy.security_log import coordinator_log
from infl.deploy.study.attempt import StudyFolder, is_study
from infl.errors import FederationError, NoRoomError, UnreachableError
from infl.federation.agreement import Agreement

log = logging.getLogger(__name__)
AGAIN, SELDOM = 10.0, 120.0
"""Seconds before the third attempt in a row that moves nothing, doubled for each one more, and most of them. The second follows at
once, and so does one when other sites are up than before."""
LEAST_ROOM = 8 << 20
"""Free bytes at the coordinator that an attempt needs."""
STARTING, LEAVING = 120.0, 3.0
"""Seconds that the engine has to begin an attempt, and to end a job whose attempt has ended, before the job is aborted: after
a cut, FLARE waits for minutes for sites that do not know that the job is over."""


class Run(Protocol):
    """What attempts need of a run, on this disk or on another machine."""

    what: ClassVar[str]
    unit: ClassVar[str]
    """What it is, and what its status counts."""

    @property
    def agreement(self) -> Agreed:
        """What was agreed on."""

    @property
    def status(self) -> Status:
        """Last known status."""

    @property
    def position(self) -> int:
        """Number of finished exchanges."""

    @property
    def requested(self) -> str:
        """What the running attempt was asked for."""

    def save_status(self, status: Status) -> None:
        """Note a status."""

    def request(self, what: str) -> None:
        """Ask the running attempt to end."""

    def clear_request(self) -> None:
        """Forget what was asked for."""

    def follow(self, job: str | None) -> None:
        """Note which of the engine's jobs is the running attempt."""


class Attempts:
    """Submits attempts at a run until it is finished or stopped.

    Parameters
    ----------
    run
        The run.
    console
        Through which jobs are submitted.
    name
        Of the run.
    patience
        How long the coordinator waits for sites.
    say
        Called with each line for a person to read.
    """

    brings_agreement = False
    """Whether a job has to bring the specification along."""

    def __init__(self, run: Run, console: Console, name: str, patience: Patience, say: Callable[[str], None]) -> None:
        self.run, self.console, self.name, self.patience, self.say = run, console, name, patience, say
        self.agreement = run.agreement
        self.stopping = False
        self._job: str | None = None
        self._missing: list[str] = []
        self._waits, self._up = "", set[str]()
        self._position, self._still, self._next = 0, 0, float("-inf")  # attempts in a row that moved nothing; when next
        self._enough: float | None = None  # since when enough sites are up
        self._before = 0  # attempts when the job was submitted
        self._idle: float | None = None  # since when the job does nothing for the run
        self._away: dict[str, float] = {}  # when lost sites were last heard of

    def work(self, poll: float, give_up: float) -> Status:
        """Work until the run is finished or stopped, or :meth:`stop` was called and the attempt has ended.

        Raises
        ------
        FederationError
            Nothing moved for `give_up` seconds.
        """
        moved, before = time.monotonic(), self.run.status
        while True:
            self.tend()
            if self.stopping and not self.run.requested:
                self.say(f"ending after this {self.run.unit}; Ctrl-C again ends at once")
                self.run.request(REQUEST_LEAVE)
            self._step()
            status = self.run.status
            if (status.position, status.state) != (before.position, before.state):
                self._tell(before, status)
            if status.position != before.position:
                moved = time.monotonic()
            if status.state in FINAL_STATES or (self.stopping and self._job is None):
                return status
            before = status
            if time.monotonic() - moved > give_up:
                raise (UnreachableError if self._missing else FederationError)(self._why(status))
            time.sleep(poll)

    def tend(self) -> None:
        """Look after what the attempts need."""

    def _step(self) -> None:
        """Submit a job when none runs, or ask the running one to end for the sake of sites that came back."""
        status = self.run.status
        if self._job is not None:
            state = self.console.state(self._job)
            if over(state):
                status = self.run.status
                self._over()
                if status.state in ("offered", "running"):
                    self._note(state="ended", message=f"the engine: {state}")
                return
            if self._is_idle(status):
                self.console.abort(self._job)
                self._over()
                return
            if status.state == "running" and not self.run.requested and (back := self._returned(status)):
                self.say(f"{', '.join(back)} came back: they take part after this {self.run.unit}")
                self.run.request(REQUEST_AGAIN)
            return
        if self.run.requested == REQUEST_STOP:
            self._note(state="stopped", message="")
            return
        if self.stopping:
            return
        up = [site for site in self.console.sites() if site in self.agreement.sites]
        needed = len(self.agreement.sites) if self.run.position == 0 else self.agreement.quorum
        missing = sorted(set(self.agreement.sites) - set(up))
        self._missing, now = missing, time.monotonic()
        if set(up) != self._up:  # somebody came, or went and will have come back
            self._up, self._next = set(up), now
        if len(up) < needed:
            self._enough = None
            self._wait(f"for sites: {', '.join(missing[:8])}")
            return
        self._enough = self._enough or now
        if self._missing and now - self._enough < self.patience.silence:
            return  # the others may be on their way
        if now < self._next:
            self._wait(f"{self._delay():.0f} s: the last {self._still} attempts moved nothing")
            return
        if obstacle := self.obstacle():
            self._wait(obstacle)
            return
        self._enough, self._waits = None, ""
        self.run.clear_request()
        with tempfile.TemporaryDirectory() as folder:
            agreement = self.agreement if self.brings_agreement and isinstance(self.agreement, Agreement) else None
            job = write_job(
                Path(folder) / self.name, self.name, up, min_sites=self.agreement.quorum, patience=self.patience,
                agreement=agreement,
            )  # fmt: skip
            self._before, self._position = status.attempts, self.run.position
            self._follow(self.console.submit(job))

    def obstacle(self) -> str:
        """Say what an attempt must wait for beside sites."""
        return ""

    def _wait(self, what: str) -> None:
        """Say and note what is waited for, once."""
        if what != self._waits:
            self._waits = what
            self.say(f"waits {what}")
            self._note(waits=what)

    def _over(self) -> None:
        """Settle when the next attempt may be made: at once, but after several that moved nothing."""
        self._follow(None)
        self._still = self._still + 1 if self.run.position == self._position else 0
        self._next = time.monotonic() + self._delay()

    def _delay(self) -> float:
        return 0.0 if self._still < 2 else min(AGAIN * 2.0 ** (self._still - 2), SELDOM)

    def _is_idle(self, status: Status) -> bool:
        """Return whether the job under way does nothing for the run, and has not for longer than it takes."""
        now, begun = time.monotonic(), status.attempts > self._before
        if begun and status.state in ("offered", "running"):
            self._idle = None
            return False
        self._idle = self._idle or now
        return now - self._idle > (LEAVING if begun else STARTING)

    def _returned(self, status: Status) -> list[str]:
        """Return lost sites whose FLARE process was heard of after they were."""
        away = {s: row["silent"] for s, row in status.sites.items() if not row["up"] or row["trouble"] == "lost"}
        now = time.monotonic()
        self._away = {s: self._away.get(s, now - silent) for s, silent in away.items()}
        heard = self.console.sites()  # looked at all the time, or the time of a change is not known
        return [s for s, lost in self._away.items() if heard.get(s, lost) > lost + 1.0]

    def stop(self) -> None:
        """End after the exchange under way; whoever starts again goes on there. Only a flag is set: signal handlers call it."""
        self.stopping = True

    def _note(self, **changes: Any) -> None:
        self.run.save_status(self.run.status.now(**changes))

    def _leave(self) -> None:
        if self._job is not None and self.run.status.state not in FINAL_STATES:
            self.console.abort(self._job)
        self._follow(None)

    def _follow(self, job: str | None) -> None:
        self._job, self._idle, self._away = job, None, {}
        self.run.follow(job)

    def _tell(self, before: Status, status: Status) -> None:
        if status.round != before.round:
            up = sum(row["up"] for row in status.sites.values())
            self.say(f"{self.run.unit} {status.round} of {status.rounds}, {up} of {len(self.agreement.sites)} sites up")
        if status.state != before.state:
            self.say(f"{status.state}: {status.message}" if status.message else status.state)

    def _why(self, status: Status) -> str:
        why = status.message or (f"not up: {', '.join(self._missing[:8])}" if self._missing else "nothing moves")
        return f"{self.run.what} {self.name}: {why}; start it again to go on where it is"


class Supervisor(Attempts):
    """Brings a run to its end at the coordinator, and keeps FLARE's server up meanwhile.

    Parameters
    ----------
    home
        The coordinator's folder.
    name
        Name of the run.
    patience
        How long the coordinator waits for sites (default: what the run's folder says).
    say
        Called with each line for a person to read.
    """

    def __init__(
        self, home: Path, name: str, *, patience: Patience | None = None, say: Callable[[str], None] = log.info
    ) -> None:
        folder = home / "runs" / name
        self.run: RunFolder | StudyFolder = StudyFolder(folder) if is_study(folder) else RunFolder(folder)
        super().__init__(self.run, Console(home / "admin"), name, patience or self.run.patience, say)
        self._seen = Seen(home, self.console)
        self.home, self.daemon = home, Daemon(home / "kit", SERVER_PROCESS, home / "server.log")

    def go(self, *, resume: bool = False, poll: float = 1.0, give_up: float = float("inf")) -> Status:
        """Work until the run is finished or stopped, or nothing moved for `give_up` seconds.

        A run that was stopped stays so, unless `resume`.

        Raises
        ------
        FederationError
            It gave up (the line names the sites that are missing), or the port is taken.
        FileError
            Another process works for this coordinator.
        """
        with alone(self.home, wait=0, doing=self.name):
            self.run.clear_request()
            if resume:
                self.run.resume()
            elif self.run.requested == REQUEST_STOP:
                if self.run.status.state not in FINAL_STATES:  # it was asked to while nobody worked for it
                    self._note(state="stopped", message="")
                return self.run.status
            if self.run.status.state == "finished" and not self.run.status.lacking:
                return self.run.status
            if self.run.status.state == "stopped" or self.run.status.lacking:
                self._note(state="ended", message="", deliveries=0)
            self.run.check_version()
            self.daemon.clear()
            check_port(consortium_of(self.home))
            if tolerance := self.agreement.tolerance():
                self.say(tolerance)
            self._log("started", run=self.name, digest=self.agreement.digest, resume=resume)
            try:
                return self.work(poll, give_up)
            finally:
                self._log("ended", run=self.name, state=self.run.status.state)
                self._leave()
                self.console.close()
                self.daemon.stop()

    def obstacle(self) -> str:
        """Say whether there is room on the disk."""
        if shutil.disk_usage(self.run.folder).free >= LEAST_ROOM:
            return ""
        return f"for room: less than {LEAST_ROOM / 1e6:.0f} MB are free at {self.run.folder}, make some"

    def _note(self, **changes: Any) -> None:
        with suppress(NoRoomError):  # before the next attempt this is said
            super()._note(**changes)

    def tend(self) -> None:
        """Keep the server up."""
        if self.daemon.ensure() and self.daemon.starts > 1:
            self.say("the server died and was started again")
            self._leave()
        self._seen.look()

    def _log(self, event: str, **what: Any) -> None:
        with suppress(NoRoomError):
            coordinator_log(self.home).note(event, **what)
