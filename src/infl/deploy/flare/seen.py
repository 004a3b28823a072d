"""Which sites are connected to the coordinator: for `infl coordinator sites`, and for the security log when that changes."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from infl._files import parse_json, write_atomic
from infl.deploy.flare.console import Console
from infl.deploy.flare.kits import SEEN
from infl.deploy.security_log import coordinator_log
from infl.errors import NoRoomError

LOOKS = 60.0
"""Seconds between two looks."""


class Seen:
    """Looks from time to time.

    Parameters
    ----------
    home
        The coordinator's folder.
    console
        Through which the server is asked.
    """

    def __init__(self, home: Path, console: Console) -> None:
        self.home, self.console = home, console
        self._next, self._up = time.monotonic() + LOOKS, list[str]()

    def look(self) -> None:
        """Look, if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOKS
        path, seen, up = self.home / SEEN, dict[str, float](), sorted(self.console.sites())
        with suppress(OSError, ValueError, TypeError):
            seen = dict(parse_json(path.read_text()))
        seen |= dict.fromkeys(up, round(time.time()))
        with suppress(NoRoomError):
            write_atomic(path, json.dumps(seen).encode(), overwrite=True)
            if up != self._up:
                coordinator_log(self.home).note("connected", sites=up)
        self._up = up
