"""What a site writes down: for the people there, what happened; and the security log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from infl.deploy.journal import Journal
from infl.deploy.security_log import SecurityLog
from infl.errors import InflError, NoRoomError

if TYPE_CHECKING:
    from infl.keys import Identity


class SiteLog:
    """A site's two logs.

    Parameters
    ----------
    home
        The site's folder.
    identity
        Opens the site's identity, or raises.
    """

    def __init__(self, home: Path, identity: Callable[[], Identity]) -> None:
        self.journal = Journal(home / "events.jsonl")
        self.security = SecurityLog(home / "security.jsonl", self._key)
        self._identity = identity
        self._secret: bytes | None = None

    def note(self, line: str) -> None:
        """Write down for the people at the site what happened."""
        self.journal.append({"event": "".join(c if c.isprintable() else "?" for c in line)})

    def events(self) -> list[str]:
        """Return what was noted, one line each: when, and what."""
        return [f"{row.get('time', '?')} {row.get('event', '?')}" for row in self.journal.rows()]

    def offered(self, specification: Path, digest: str) -> None:
        """Note that a run or study is offered here, the first time that it is."""
        if not specification.exists():
            self.security.note("offered", what=specification.stem, run=specification.parent.name, digest=digest)

    def consented(self, digest: str, *, asked: bool) -> None:
        """Note that the site takes part, and by whose yes."""
        self.security.note("consented", digest=digest, by="a person" if asked else "the policy")

    def refused(self, why: str) -> None:
        """Note what the site did not take part in, or could not answer; on a full disk, go on without."""
        with suppress(NoRoomError):
            self.note(why)
            self.security.note("refused", why=why)

    def _key(self) -> bytes | None:
        """Return what seals the security log; None where this process cannot open the site's identity."""
        if self._secret is None:
            with suppress(InflError):
                self._secret = self._identity().subkey("log")
        return self._secret
