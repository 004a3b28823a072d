"""The coordinator's administrator: asks FLARE's server to run and end jobs, and for their state.

FLARE's session lives in a process of its own, ``python -m infl.deploy.flare.console KIT``, which reads a request a line and
answers with a line, both JSON: a session that is closed while its connection is being made waits for ever, as it does when
the network is cut for long, and a process can be ended.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from infl.deploy.flare import require_flare
from infl.deploy.flare.kits import ADMIN_NAME
from infl.deploy.flare.process import ENVIRONMENT
from infl.errors import UnreachableError

log = logging.getLogger(__name__)
HEARTBEATS = 25.0
"""Seconds in which FLARE's client says twice that it is connected."""
PROGRAM = (sys.executable, "-m", "infl.deploy.flare.console")
FIRST, NEXT = 60.0, 20.0
"""Seconds that the first answer of a process may take, which loads FLARE, and the next ones."""


class Console:
    """Asks FLARE's server for things, as the coordinator's administrator.

    Parameters
    ----------
    kit
        The admin kit.
    """

    def __init__(self, kit: Path) -> None:
        require_flare()
        self.kit = kit
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._patience = FIRST
        self._heard: dict[str, tuple[float, float]] = {}

    def ask(self, what: str, *arguments: Any) -> Any:
        """Return what a call on FLARE's session gives, see :data:`CALLS`; None while the server cannot be reached."""
        try:
            process = self._started()
            assert process.stdin is not None
            process.stdin.write(json.dumps([what, *arguments]) + "\n")
            process.stdin.flush()
            answer = json.loads(self._answers.get(timeout=self._patience))
        except (OSError, ValueError, queue.Empty) as error:
            log.debug("the session did not answer: %s: %s", type(error).__name__, error)
            self.close()
            return None
        self._patience = NEXT
        if "error" in answer:
            log.debug("the server did not answer: %s", answer["error"])
        return answer.get("value")

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [*PROGRAM, str(self.kit.resolve())], text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT | os.environ,
                cwd=self.kit,  # FLARE looks for a file in all folders below the one that it is started in
            )  # fmt: skip
            self._answers, self._patience = queue.SimpleQueue(), FIRST
            threading.Thread(target=_forward, args=(self._process.stdout, self._answers), daemon=True).start()
        return self._process

    def sites(self) -> dict[str, float]:
        """Return which sites are connected, and when each was last seen to be heard of, by this process's own clock."""
        states = self.ask("sites")
        if states is None:
            return {}
        now, before = time.monotonic(), self._heard
        self._heard = {n: before[n] if n in before and before[n][1] == at else (now, at) for n, at in states.items()}
        return {name: at for name, (at, _) in self._heard.items() if now - at < HEARTBEATS}

    def submit(self, job: Path) -> str | None:
        """Start a job and return its name."""
        return self.ask("submit", str(job))

    def state(self, job: str) -> str | None:
        """Return what FLARE says of a job."""
        return self.ask("state", job)

    def abort(self, job: str) -> None:
        """End a job that may have lost its processes."""
        self.ask("abort", job)

    def wait_for_sites(self, sites: Iterable[str], *, seconds: float) -> None:
        """Wait until sites are connected.

        Raises
        ------
        UnreachableError
            They are not; says which.
        """
        if not _until(lambda: set(sites) <= set(self.sites()), seconds):
            missing = sorted(set(sites) - set(self.sites()))
            raise UnreachableError(f"not connected after {seconds:.0f} s: {', '.join(missing[:8])}")

    def wait_for_end(self, job: str, *, seconds: float) -> str | None:
        """Wait until a job has ended, and return its state; None when it has not."""
        ended = _until(lambda: over(self.state(job)), seconds)
        return self.state(job) if ended else None

    def close(self) -> None:
        """Close the session."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout):
                with suppress(OSError):
                    end.close()  # type: ignore[union-attr]


def over(state: str | None) -> bool:
    """Return whether FLARE says that a job has ended."""
    return state is not None and (state.startswith("FINISHED") or "ABORTED" in state)


def _forward(lines: IO[str], answers: queue.SimpleQueue[str]) -> None:
    with suppress(ValueError, OSError):  # closed from the other side
        for line in lines:
            answers.put(line)
    answers.put("")  # ended: whoever waits need not wait any longer


def _until(true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


# -- the process ------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[..., Any]] = {
    "sites": lambda session: {c.name: float(c.last_connect_time or 0) for c in session.get_connected_client_list()},
    "submit": lambda session, job: session.submit_job(job),
    "state": lambda session, job: session.get_job_status(job),
    "abort": lambda session, job: session.abort_job(job) or True,
    "tell": lambda session, job, topic, data: session.do_app_command(job, topic, data),
    "disable": lambda session, site: session.disable_client(site) or True,
}


def main(kit: str) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FLARE prints is no answer
    from nvflare.fuel.flare_api.api_spec import JobNotFound, JobNotRunning
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    session = None
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            session = session or new_secure_session(ADMIN_NAME, kit, timeout=5.0, auto_login_max_tries=1)
            answer = {"value": CALLS[what](session, *arguments)}
        except (JobNotFound, JobNotRunning):
            pass
        except Exception as error:  # noqa: BLE001 - whatever FLARE raises: the server is away, and will be back
            answer = {"error": f"{type(error).__name__}: {error}"}
            with suppress(Exception):
                if session is not None:
                    session.close()
            session = None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # threads of FLARE's would keep it


if __name__ == "__main__":
    main(sys.argv[1])
