"""A site's connection to the coordinator, as FLARE's own process has it: up, down and since when, or refused.

Nothing is sent to find out: the operating system knows which connections a process has, and FLARE's log has what became of
the last registration. What is found stands in the site's folder, for `infl site status` in another terminal.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from infl._files import parse_json, write_atomic
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.daemon import Daemon
from infl.deploy.flare.proxy import first_place
from infl.errors import FederationError, InflError

UP, DOWN, REFUSED = "up", "down", "refused"
EVERY = 5.0
"""Seconds between two looks."""
TAIL = 1 << 16
"""Bytes at the end of FLARE's log that are looked through."""
_REGISTRATION = re.compile(r"Successfully registered client|registration rejected: (.*)")


@dataclass(frozen=True)
class Line:
    """A site's connection.

    Attributes
    ----------
    state
        ``"up"``, ``"down"`` or ``"refused"``.
    since
        Seconds since 1970.
    """

    state: str
    since: float

    @classmethod
    def read(cls, home: Path) -> Line | None:
        """Return what a site that is up noted last; None where it never did."""
        try:
            line = cls(**parse_json((home / "line.json").read_text()))
            return line if line.state in (UP, DOWN, REFUSED) and 0 <= line.since < 1e11 else None
        except (OSError, ValueError, TypeError):
            return None

    def words(self, where: str) -> str:
        """Say it in one line."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return {
            UP: f"connected to the coordinator, {where}, since {since}",
            DOWN: f"waits for the coordinator, {where}, since {since}",
            REFUSED: f"shut out by the coordinator, {where}, since {since}: ask there; a site comes back under another name",
        }[self.state]


class Lookout:
    """Looks at a site's connection from time to time, and says what changes.

    Parameters
    ----------
    daemon
        The site's process of FLARE.
    consortium
        Where the coordinator is.
    say
        Called with a line for a person.
    connected
        Whether the process is connected to a port (default: what the operating system says).
    """

    def __init__(
        self,
        daemon: Daemon,
        consortium: Consortium,
        say: Callable[[str], None],
        *,
        connected: Callable[[Daemon, int], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.daemon, self.consortium, self.say = daemon, consortium, say
        self.line: Line | None = None
        self._connected, self._clock, self._next = connected or is_connected, clock, float("-inf")

    def look(self) -> None:
        """Look, if it is time."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + EVERY
        if refusal(self.daemon.kit):
            state = REFUSED
        else:
            state = UP if self._connected(self.daemon, first_place(self.consortium).port) else DOWN
        if self.line is not None and state == self.line.state:
            return
        self.line = Line(state, time.time())
        with suppress(InflError):  # on a full disk the console says it all the same
            write_atomic(self.daemon.kit.parent / "line.json", json.dumps(asdict(self.line)).encode(), overwrite=True)
        self.say(self.line.words(f"{self.consortium.host}:{self.consortium.port}"))


def refusal(kit: Path) -> str:
    """Return why the coordinator refused the last registration of a site; empty if it did not."""
    try:
        with (kit / "log.txt").open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL))
            found = _REGISTRATION.findall(log.read().decode(errors="replace"))
    except OSError:
        return ""
    return found[-1].strip() if found else ""


def check_admitted(kit: Path) -> str:
    """Say that the coordinator did not refuse the last registration, as far as this site knows.

    Raises
    ------
    FederationError
        It did.
    """
    if why := refusal(kit):
        raise FederationError(
            f"the coordinator shut this site out ({why[:80]}): ask there; a site comes back under another name"
        )
    return "the coordinator did not shut this site out"


def is_connected(daemon: Daemon, port: int) -> bool:
    """Whether FLARE's process has a connection to a port of another machine."""
    import psutil

    if daemon.process is None:
        return False
    try:
        lines = psutil.Process(daemon.process.pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(line.status == psutil.CONN_ESTABLISHED and line.raddr and line.raddr.port == port for line in lines)
