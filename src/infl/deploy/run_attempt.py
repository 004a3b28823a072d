"""One attempt of a coordinator at finishing a run: whatever the engine, whatever happened before.

All that counts is in the run's folder. An attempt ends when the run is finished, when too few sites are left, or when it is
asked to end; the next one goes on at the exchange after the last finished one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infl import __version__
from infl._files import explained, write_atomic
from infl.deploy.folders import alone
from infl.deploy.remote import Patience, RemoteTransport
from infl.errors import FederationError, InflError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import Coordinator, Progress
from infl.federation.initial import build_flat_model
from infl.federation.messages import Consent, Offer, Total
from infl.federation.programme import Exchange, Programme
from infl.models.registry import task_from_json

log = logging.getLogger(__name__)
REQUEST_STOP, REQUEST_AGAIN = "stop", "again"
"""Requests to a running attempt: end for good; end so that sites which came back take part in the next."""
DELIVERIES = 3
"""How often the last sum is sent round before a run counts as finished without a site that is away."""
DAY = 86_400.0
FINAL_STATES = ("finished", "stopped")
"""States that no further attempt follows."""


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

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Status:
        """Return a status from plain values."""
        return cls(**{**raw, "seconds": tuple(raw["seconds"]), "lacking": tuple(raw["lacking"])})


class RunFolder:
    """A run at the coordinator, on disk.

    Parameters
    ----------
    folder
        Made if it is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.store = Path(folder), Checkpoint(folder)

    @property
    def agreement(self) -> Agreement:
        """What was agreed on."""
        path = self.folder / "agreement.json"
        with explained(path, "read"):
            return Agreement.from_json(path.read_text())

    @property
    def status(self) -> Status:
        """Last known status."""
        try:
            raw = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return Status()
        return Status.from_json(raw)

    @property
    def position(self) -> int:
        """Number of finished exchanges."""
        return self.store.progress().position

    def follow(self, job: str | None) -> None:
        """A run whose state is on this disk can be followed without knowing the engine's job."""

    def save_status(self, status: Status) -> None:
        """Write the status."""
        write_atomic(self.folder / "status.json", json.dumps(asdict(status), indent=1).encode(), overwrite=True)

    @property
    def patience(self) -> Patience:
        """How long the coordinator waits for sites."""
        path = self.folder / "waiting.json"
        if not path.exists():
            return Patience()
        with explained(path, "read"):
            return Patience(**json.loads(path.read_text()))

    def save_patience(self, patience: Patience) -> None:
        """Write down how long the coordinator waits for sites."""
        write_atomic(self.folder / "waiting.json", json.dumps(asdict(patience)).encode(), overwrite=True)

    def record(self, total: Total, **more: Any) -> None:
        """Append who was in a sum to ``exchanges.jsonl``, before the sum counts as done."""
        row = {"time": round(time.time(), 3), "seq": total.seq, "kind": total.kind, "round": total.round}
        row |= {"attempt": total.attempt, "cohort": total.cohort, "responders": total.responders}
        with explained(self.folder, "write to"), (self.folder / "exchanges.jsonl").open("a") as lines:
            lines.write(json.dumps(row | more) + "\n")

    def exchanges(self) -> list[dict[str, Any]]:
        """Return what was recorded, one row per exchange; for one that was repeated, the last."""
        path = self.folder / "exchanges.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [*{row["seq"]: row for row in rows}.values()]

    def request(self, what: str) -> None:
        """Ask the running attempt to end after the exchange under way."""
        write_atomic(self.folder / "request", what.encode(), overwrite=True)

    @property
    def requested(self) -> str:
        """What was asked for."""
        path = self.folder / "request"
        return path.read_text() if path.exists() else ""

    def clear_request(self) -> None:
        """Forget what was asked for."""
        (self.folder / "request").unlink(missing_ok=True)


class RunAttempt:
    """Runs a :class:`~infl.federation.coordinator.Coordinator` on a run's folder over a transport.

    Parameters
    ----------
    run
        The run's folder.
    transport
        To the sites.
    """

    def __init__(self, run: RunFolder, transport: RemoteTransport) -> None:
        self.run, self.transport = run, transport
        self._status = run.status
        self._clock = self._begun = 0.0

    def go(self) -> Status:
        """Go on with the run as far as it goes; never raises an InflError, the status says what happened."""
        with alone(self.run.folder):
            self._note(state="offered", attempts=self._status.attempts + 1, message="", pid=os.getpid())
            try:
                state, message = self._work()
            except InflError as error:
                state, message = "ended", self._explained(str(error))
            if self.run.requested == REQUEST_STOP and state != "finished":
                state = "stopped"
            self._note(state=state, message=message, pid=0)
            return self._status

    def _work(self) -> tuple[str, str]:
        agreement = self.run.agreement
        task = task_from_json(agreement.task, agreement.options)
        exchanges = Programme(task, agreement, build_flat_model(task, agreement).shared).exchanges
        progress = self.run.store.progress()
        self._note(rounds=agreement.rounds, exchanges=len(exchanges), position=progress.position)
        needed = len(agreement.sites) if progress.position == 0 else agreement.quorum
        offer = Offer(__version__, agreement.to_json().encode())
        consents = self.transport.offer(offer, enough=lambda consents: len(consents) >= needed)
        self._check(consents, agreement, needed)
        applied = {site: consent.applied for site, consent in consents.items()}
        coordinator = Coordinator(
            agreement,
            exchanges,
            self.transport,
            progress=progress,
            on_change=self._save_progress,
            applied=applied,
            between_machines=True,
        )
        self._note(state="running")
        self._clock = self._begun = time.monotonic()
        for exchange in coordinator.run():
            self._after(exchange, coordinator)
            coordinator.interrupted = bool(self.run.requested)
        if coordinator.interrupted:
            return "ended", ""
        return self._delivered(agreement)

    def _delivered(self, agreement: Agreement) -> tuple[str, str]:
        """The last sum was sent round: a site that was away is given some more chances to get it."""
        lacking = tuple(s for s in agreement.sites if s not in self.transport.done)
        self._note(lacking=lacking, deliveries=self._status.deliveries + 1)
        if not lacking:
            return "finished", ""
        message = f"{', '.join(lacking[:8])} lacks the model: `infl run resume` when it is up"
        return ("finished" if self._status.deliveries >= DELIVERIES else "ended"), message

    def _save_progress(self, progress: Progress) -> Progress:
        if progress.opening is not None:
            return self.run.store.save_progress(progress)
        total, now = progress.totals[-1], time.monotonic()
        self.run.record(total, seconds=round(now - self._begun, 4))
        self._begun = now
        return self.run.store.save_progress(progress)

    def _check(self, consents: dict[str, Consent], agreement: Agreement, needed: int) -> None:
        """Version, specification, panel and key, before the first round."""
        for site, consent in consents.items():
            mine = Consent(site, __version__, agreement.digest, agreement.panel_digest, agreement.fingerprint)
            for name in ("version", "agreement", "panel", "fingerprint"):
                if getattr(consent, name) != getattr(mine, name):
                    raise FederationError(
                        f"{site} differs in {name}: {getattr(consent, name)[:40]!r}, here {getattr(mine, name)[:40]!r}"
                    )
        if len(consents) < needed:
            missing = [s for s in agreement.sites if s not in consents]
            raise FederationError(
                f"{len(consents)} of {len(agreement.sites)} sites are ready, {needed} are needed; missing: "
                f"{', '.join(missing[:8])}"
            )

    def _after(self, exchange: Exchange, coordinator: Coordinator) -> None:
        now = time.monotonic()
        changes: dict[str, Any] = {"position": coordinator.progress.position}
        if exchange.round:
            changes |= {"round": exchange.round, "seconds": (*self._status.seconds[-49:], round(now - self._clock, 3))}
        self._clock = now
        self._note(**changes)

    def _note(self, **changes: Any) -> None:
        lost = set(self.transport.lost())
        sites = {
            name: {
                "up": name not in lost, "silent": round(min(self.transport.silent(name), DAY), 1), "trouble": p.trouble,
                "in": p.bytes_in, "out": p.bytes_out,
            }
            for name, p in self.transport.peers.items()
        }  # fmt: skip
        self._status = Status(**{**asdict(self._status), "sites": sites, "updated": time.time(), **changes})
        self.run.save_status(self._status)

    def _explained(self, message: str) -> str:
        """Add what the sites said."""
        reasons = [p.trouble for p in self.transport.peers.values() if p.trouble not in ("", "lost", "too late")]
        return str(FederationError("; ".join([message, *reasons])))
