"""FLARE's processes: kept alive here, and asked to run attempts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from infl.deploy.attempt import AGAIN, OVER, STOP, RunFolder, Status
from infl.deploy.flare import require_flare
from infl.deploy.flare.checks import check_port
from infl.deploy.flare.console import Console, over
from infl.deploy.flare.job import write_job
from infl.deploy.flare.kits import consortium_of
from infl.deploy.folders import alone
from infl.deploy.remote import Patience
from infl.errors import FederationError, FileError

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement

log = logging.getLogger(__name__)
SERVER, CLIENT = "server", "client"
STARTING, LEAVING = 120.0, 3.0
"""Seconds that the engine has to begin an attempt, and to end a job whose attempt has ended, before the job is aborted: after
a cut, FLARE waits for minutes for sites that do not know that the job is over."""


class Daemon:
    """FLARE's long-lived process of a participant; started again whenever it dies.

    Parameters
    ----------
    kit
        The participant's kit.
    role
        ``"server"`` or ``"client"``.
    output
        File for what it prints.
    """

    def __init__(self, kit: Path, role: str, output: Path) -> None:
        require_flare()
        if not (kit / "startup" / f"fed_{role}.json").exists():
            raise FileError(f"{kit} is no {role} kit: see `infl coordinator init`, `infl site install`")
        self.kit, self.role, self.output = kit.resolve(), role, output
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._begun = 0.0

    def ensure(self) -> bool:
        """Start the process unless it runs; return whether it had to be started."""
        if self.process is not None and self.process.poll() is None:
            return False
        if time.monotonic() - self._begun < min(30.0, 2.0 ** max(0, self.starts - 3)):
            return False  # one that dies at once is not started again at once
        self.clear()
        settings = ["secure_train=true", "org=infl", "config_folder="]
        if self.role == CLIENT:
            settings.append(f"uid={self._name()}")
        command = [sys.executable, "-m", "infl.deploy.flare.process"]
        command += [f"nvflare.private.fed.app.{self.role}.{self.role}_train"]
        command += ["-m", str(self.kit), "-s", f"fed_{self.role}.json", "--set", *settings]
        path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), os.environ.get("PATH"))))
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={"MALLOC_ARENA_MAX": "2"} | os.environ | {"PATH": path},
            )  # fmt: skip
        self.starts, self._begun = self.starts + 1, time.monotonic()
        return True

    def clear(self) -> None:
        """End what an infl that was killed left behind: FLARE's processes of this kit go on without it."""
        import psutil

        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if str(self.kit) in command and any(word.startswith("nvflare.") for word in command):
                with suppress(psutil.Error):
                    process.kill()
                    process.wait(5.0)

    def keep(
        self,
        until: threading.Event,
        *,
        poll: float = 1.0,
        say: Callable[[str], None] = log.info,
        each: Callable[[], None] = lambda: None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the process up until told otherwise, then end it: all that a site does on its own.

        `begin` is called once, when no other process does so, and `each` every `poll` seconds.

        Raises
        ------
        FileError
            Another process does so for this site.
        """
        with alone(self.kit.parent, wait=0):
            begin()
            try:
                while not until.is_set():
                    if self.ensure() and self.starts > 1:
                        say("the engine's process died and was started again")
                    until.wait(poll)
                    each()
            finally:
                self.stop()

    def _name(self) -> str:
        return json.loads((self.kit / "startup" / "fed_client.json").read_text())["client"]["fqsn"]

    def stop(self) -> None:
        """End the process and those that it started."""
        if self.process is None:
            return
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(seconds)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


class Run(Protocol):
    """A run as whoever makes attempts at it sees it: on this disk, or at another machine."""

    @property
    def agreement(self) -> Agreement:
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

    def keep_status(self, status: Status) -> None:
        """Note a status."""

    def request(self, what: str) -> None:
        """Ask the running attempt to end."""

    def clear_request(self) -> None:
        """Forget what was asked for."""

    def follow(self, job: str | None) -> None:
        """Be told which of the engine's jobs is the running attempt."""


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
        Tells a person.
    """

    brings_agreement = False
    """Whether a job has to bring the specification along."""

    def __init__(self, run: Run, console: Console, name: str, patience: Patience, say: Callable[[str], None]) -> None:
        self.run, self.console, self.name, self.patience, self.say = run, console, name, patience, say
        self.agreement = run.agreement
        self.stopping = False
        self._job: str | None = None
        self._missing: list[str] = []
        self._enough: float | None = None  # since when enough sites are up
        self._before = 0  # attempts when the job was submitted
        self._idle: float | None = None  # since when the job does nothing for the run
        self._away: dict[str, float] = {}  # when lost sites were last heard of

    def work(self, poll: float, give_up: float) -> Status:
        """Work until the run is finished or stopped; a FederationError when nothing moved for `give_up` seconds."""
        moved, before = time.monotonic(), self.run.status
        while True:
            self.tend()
            self._step()
            status = self.run.status
            if (status.position, status.state) != (before.position, before.state):
                self._tell(before, status)
            if status.position != before.position:
                moved = time.monotonic()
            if status.state in OVER:
                return status
            before = status
            if time.monotonic() - moved > give_up:
                raise FederationError(self._why(status))
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
                self._follow(None)
                if status.state in ("offered", "running"):
                    self._note(state="ended", message=f"the engine: {state}")
                return
            if self._is_idle(status):
                self.console.abort(self._job)
                self._follow(None)
                return
            if status.state == "running" and not self.run.requested and (back := self._returned(status)):
                self.say(f"{', '.join(back)} came back: they take part after this round")
                self.run.request(AGAIN)
            return
        if self.stopping or self.run.requested == STOP:
            self._note(state="stopped", message="")
            return
        up = [site for site in self.console.sites() if site in self.agreement.sites]
        needed = len(self.agreement.sites) if self.run.position == 0 else self.agreement.quorum
        missing = sorted(set(self.agreement.sites) - set(up))
        if len(up) < needed:
            if missing != self._missing:
                self.say(f"waits for sites: {', '.join(missing[:8])}")
            self._enough, self._missing = None, missing
            return
        self._missing = missing
        self._enough = self._enough or time.monotonic()
        if self._missing and time.monotonic() - self._enough < self.patience.silence:
            return  # the others may be on their way
        self._enough = None
        self.run.clear_request()
        with tempfile.TemporaryDirectory() as folder:
            job = write_job(
                Path(folder) / self.name, self.name, up, min_sites=self.agreement.quorum, patience=self.patience,
                agreement=self.agreement if self.brings_agreement else None,
            )  # fmt: skip
            self._before = status.attempts
            self._follow(self.console.submit(job))

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
        """End the run after the exchange under way; it can be resumed."""
        self.stopping = True
        self.run.request(STOP)

    def _note(self, **changes: Any) -> None:
        self.run.keep_status(Status(**{**vars(self.run.status), **changes}))

    def _leave(self) -> None:
        if self._job is not None and self.run.status.state not in OVER:
            self.console.abort(self._job)
        self._follow(None)

    def _follow(self, job: str | None) -> None:
        self._job, self._idle, self._away = job, None, {}
        self.run.follow(job)

    def _tell(self, before: Status, status: Status) -> None:
        if status.round != before.round:
            up = sum(row["up"] for row in status.sites.values())
            self.say(f"round {status.round} of {status.rounds}, {up} of {len(self.agreement.sites)} sites up")
        if status.state != before.state:
            self.say(f"{status.state}: {status.message}" if status.message else status.state)

    def _why(self, status: Status) -> str:
        why = status.message or (f"not up: {', '.join(self._missing[:8])}" if self._missing else "nothing moves")
        return f"run {self.name}: {why}; start it again to go on where it is"


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
        Tells a person.
    """

    def __init__(
        self, home: Path, name: str, *, patience: Patience | None = None, say: Callable[[str], None] = log.info
    ) -> None:
        run = RunFolder(home / "runs" / name)
        super().__init__(run, Console(home / "admin"), name, patience or run.patience, say)
        self.home, self.daemon = home, Daemon(home / "kit", SERVER, home / "server.log")

    def go(self, *, poll: float = 1.0, give_up: float = float("inf")) -> Status:
        """Work until the run is finished or stopped, or nothing moved for `give_up` seconds.

        Raises
        ------
        FederationError
            It gave up, and says who is missing; or the port is taken.
        FileError
            Another process works for this coordinator.
        """
        with alone(self.home, wait=0):
            self.run.clear_request()
            if self.run.status.state == "stopped" or self.run.status.lacking:
                self._note(state="ended", message="", deliveries=0)
            self.daemon.clear()
            check_port(consortium_of(self.home))
            if said := self.agreement.tolerance():
                self.say(said)
            try:
                return self.work(poll, give_up)
            finally:
                self._leave()
                self.console.close()
                self.daemon.stop()

    def tend(self) -> None:
        """Keep the server up."""
        if self.daemon.ensure() and self.daemon.starts > 1:
            self.say("the server died and was started again")
            self._leave()
