"""A run that is asked for from a notebook at one of the sites; the coordinator is another machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl.deploy.attempt import FINAL_STATES, REQUEST_LEAVE, Status
from infl.deploy.flare import require_flare
from infl.deploy.flare.console import Console
from infl.deploy.flare.engine import Attempts
from infl.deploy.remote import Patience
from infl.deploy.runfile import read_panel
from infl.deploy.site_folder import SiteFolder
from infl.errors import FederationError, FileError
from infl.federation.report import say

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring

FRESH = 0.5
"""Seconds for which an answer of the coordinator is taken to hold."""
TRIES = 2
"""Attempts that may end without having moved a run that was begun."""


@dataclass(frozen=True)
class FlareEngine:
    """Runs a fit over enrolled sites; see :func:`infl.engines.flare`."""

    kit: Path
    site: Path
    panel_file: Path | None = None
    give_up: float = float("inf")
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        require_flare()
        if not (self.kit / "startup" / "fed_admin.json").exists():
            raise FileError(f"{self.kit} is no admin kit: it is the folder 'admin' that `infl coordinator init` makes")
        if not (self.site / "kit").is_dir():
            raise FileError(f"{self.site} is no enrolled site's folder: `infl site enrol`, `infl site install`")

    def panel(self) -> dict[str, Any] | None:
        """Return features and classes of all sites, if they were given."""
        return None if self.panel_file is None else read_panel(self.panel_file)

    def fit(
        self, agreement: Agreement, key: Keyring | None, *, tell: Callable[[str], None] = say, poll: float = 0.5
    ) -> FederatedRun:
        """Run a specification to its end, and return what arrived at this site.

        Raises
        ------
        FederationError
            A site declined, too few are up, or this site was away when the run ended; one line says which.
        """
        site_folder, console = SiteFolder(self.site), Console(self.kit)
        run = DistantRun(agreement, site_folder, console)
        attempts = _FromNotebook(run, console, f"notebook_{agreement.run[:12]}", self.patience, tell)
        try:
            status = attempts.work(poll, self.give_up)
        except KeyboardInterrupt:
            run.request(REQUEST_LEAVE)
            raise FederationError("interrupted: the run ends after the round under way") from None
        finally:
            attempts.leave()
            console.close()
        if status.state != "finished" or not site_folder.has_result(agreement):
            raise FederationError(f"the run ended, but {self.site} has no model: {status.message or 'it was away'}")
        return site_folder.result(agreement, key)


class _FromNotebook(Attempts):
    brings_agreement = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._ended: list[tuple[int, int]] = []

    def tend(self) -> None:
        """End when attempts do not move anything: a site that declines will decline again."""
        status = self.run.status
        if status.state == "ended" and (status.attempts, status.position) not in self._ended:
            self._ended.append((status.attempts, status.position))
        tries = TRIES if status.position else 1
        if [position for _, position in self._ended].count(status.position) >= tries:
            raise FederationError(status.message or "the run does not move")

    def leave(self) -> None:
        """End what still runs."""
        self._leave()


class DistantRun:
    """A run whose coordinator is another machine: its job is asked where it is.

    Parameters
    ----------
    agreement
        The specification.
    site_folder
        This site, which knows when the run is finished.
    console
        Reaches the coordinator.
    """

    what, unit = "run", "round"

    def __init__(self, agreement: Agreement, site_folder: SiteFolder, console: Console) -> None:
        self.agreement, self.requested = agreement, ""
        self._site_folder, self._console = site_folder, console
        self._status, self._asked = Status(rounds=agreement.rounds), float("-inf")
        self._job: str | None = None

    @property
    def status(self) -> Status:
        """What the job said last; asked again after a moment."""
        if self._job is not None and time.monotonic() - self._asked > FRESH:
            self._ask("")
        if (
            self._job is None
            and self._status.state not in FINAL_STATES
            and self._site_folder.has_result(self.agreement)
        ):
            self._status = replace(self._status, state="finished", round=self.agreement.rounds, message="")
        return self._status

    @property
    def position(self) -> int:
        """Number of finished exchanges."""
        return self.status.position

    def save_status(self, status: Status) -> None:
        """Note a status."""
        self._status = status

    def request(self, what: str) -> None:
        """Ask the running attempt to end after the exchange under way."""
        self.requested = what
        self._ask(what)

    def clear_request(self) -> None:
        """Forget what was asked for."""
        self.requested = ""

    def follow(self, job: str | None) -> None:
        """Ask this job from now on."""
        self._job = job

    def _ask(self, request: str) -> None:
        from infl.deploy.flare.controller import COMMAND

        job, self._asked = self._job, time.monotonic()
        if job is None:
            return
        answer = self._console.ask("tell", job, COMMAND, {"request": request})
        if isinstance(answer, dict) and "state" in answer:
            self._status = Status.from_json(answer)
