"""FLARE's processes, kept alive."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from infl._files import parse_json
from infl.deploy.flare import require_flare
from infl.deploy.flare.leftovers import clear_jobs
from infl.deploy.flare.process import ENVIRONMENT
from infl.deploy.folders import alone
from infl.deploy.journal import bound
from infl.errors import FileError

log = logging.getLogger(__name__)
SERVER_PROCESS, CLIENT_PROCESS = "server", "client"
LIVED, SELDOM = 20.0, 300.0
"""Seconds: a process that dies sooner was not worth starting; most between two starts of such."""
EVERY = 600.0
"""Seconds between two times that leftovers are removed."""


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
        self._begun, self._cleared, self._died_at_once = 0.0, float("-inf"), 0
        self._died: float | None = None

    def ensure(self) -> bool:
        """Start the process unless it runs; return whether it had to be started."""
        if time.monotonic() - self._cleared > EVERY:
            self._cleared = time.monotonic()
            clear_jobs(self.kit)
            for grows in (self.kit / "audit.log", self.output):  # FLARE writes to them without end
                bound(grows)
        if self.process is not None and self.process.poll() is None:
            return False
        if self.process is not None and self._died is None:
            self._died = time.monotonic()
            self._died_at_once = self._died_at_once + 1 if self._died - self._begun < LIVED else 0
        if time.monotonic() - self._begun < min(SELDOM, 2.0 ** max(0, self._died_at_once - 2)):
            return False  # one that dies at once is not started again at once
        self.clear()
        bound(self.output)
        settings = ["secure_train=true", "org=infl", "config_folder="]
        if self.role == CLIENT_PROCESS:
            settings.append(f"uid={self._name()}")
        command = [sys.executable, "-m", "infl.deploy.flare.process"]
        command += [f"nvflare.private.fed.app.{self.role}.{self.role}_train"]
        command += ["-m", str(self.kit), "-s", f"fed_{self.role}.json", "--set", *settings]
        path = os.pathsep.join(filter(None, (str(Path(sys.executable).parent), os.environ.get("PATH"))))
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=ENVIRONMENT | os.environ | {"PATH": path},
            )  # fmt: skip
        self.starts, self._begun, self._died = self.starts + 1, time.monotonic(), None
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

    def keep_up(
        self,
        until: threading.Event,
        *,
        poll: float = 1.0,
        say: Callable[[str], None] = log.info,
        each: Callable[[], None] = lambda: None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the process up until `until` is set, then end it: all that a site does on its own.

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
        return parse_json((self.kit / "startup" / "fed_client.json").read_text())["client"]["fqsn"]

    def stop(self) -> None:
        """End the process and those that it started, those of jobs too: they have sessions of their own."""
        if self.process is None:
            return
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.clear()
