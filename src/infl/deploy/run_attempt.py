"""One attempt of a coordinator at finishing a run; the next one goes on at the exchange after the last finished one."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, ClassVar

from infl import __version__
from infl.deploy.attempt import Attempt, AttemptFolder, check_consents
from infl.deploy.journal import Journal
from infl.deploy.remote import RemoteTransport
from infl.deploy.specification import read_agreement
from infl.errors import FederationError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import Coordinator, Progress
from infl.federation.initial import build_flat_model
from infl.federation.messages import Consent, Offer, Total
from infl.federation.programme import Exchange, Programme
from infl.models.registry import task_from_json

log = logging.getLogger(__name__)
DELIVERIES = 3
"""How often the last sum is sent round before a run counts as finished without a site that is away."""
BEHIND = "was put back from an older backup: put back a newer one there, or the run ends without it"
"""What is said of a site that lacks sums which the coordinator no longer keeps."""


class RunFolder(AttemptFolder):
    """A run at the coordinator, on disk.

    Parameters
    ----------
    folder
        Made if it is missing.
    """

    what: ClassVar[str] = "run"
    unit: ClassVar[str] = "round"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.store = Checkpoint(folder)

    @property
    def agreement(self) -> Agreement:
        """What was agreed on."""
        path = self.folder / "agreement.json"
        return read_agreement(path)

    @property
    def position(self) -> int:
        """Number of finished exchanges."""
        return self.store.position

    def record(self, total: Total, **more: Any) -> None:
        """Append who was in a sum to ``exchanges.jsonl``, before the sum counts as done."""
        row = {"seq": total.seq, "kind": total.kind, "round": total.round}
        row |= {"attempt": total.attempt, "cohort": total.cohort, "responders": total.responders}
        self.journal.append(row | more)

    def exchanges(self) -> list[dict[str, Any]]:
        """Return what was recorded, one row per exchange; for one that was repeated, the last."""
        return [*{row["seq"]: row for row in self.journal.rows() if "seq" in row}.values()]

    @property
    def journal(self) -> Journal:
        """What was recorded, as rows."""
        return Journal(self.folder / "exchanges.jsonl")


class RunAttempt(Attempt):
    """Runs a :class:`~infl.federation.coordinator.Coordinator` on a run's folder over a transport.

    Parameters
    ----------
    run
        The run's folder.
    transport
        To the sites.
    """

    def __init__(self, run: RunFolder, transport: RemoteTransport) -> None:
        super().__init__(run, transport)
        self.run = run
        self._clock = self._begun = 0.0

    def _work(self) -> tuple[str, str]:
        agreement = self.run.agreement
        task = task_from_json(agreement.task, agreement.options)
        exchanges = Programme(task, agreement, build_flat_model(task, agreement).shared).exchanges
        progress = self.run.store.progress()
        self._note(rounds=agreement.rounds, exchanges=len(exchanges), position=progress.position)
        needed = len(agreement.sites) if progress.position == 0 else agreement.quorum
        offer = Offer(__version__, agreement.to_json().encode())
        consents = self.transport.offer(offer, enough=lambda consents: len(consents) >= needed)
        self.note_consents(consents, agreement.digest)
        self._check(consents, agreement, needed)
        applied = {site: consent.applied for site, consent in consents.items()}
        ahead = [site for site, count in applied.items() if count > progress.seq]
        if 2 * len(ahead) > len(applied):  # one alone may say what it likes
            return "stopped", (
                f"{', '.join(ahead[:4])} have sums that {self.run.folder.name} lacks here: put back from an older backup; put back a newer "
                "one, or begin anew under another name in run.toml"
            )
        kept = progress.totals[0].seq if progress.totals else progress.seq
        behind = [site for site, count in applied.items() if count < kept]
        if behind and len(applied) - len(behind) < needed:
            return "stopped", (
                f"{', '.join(behind[:4])} lack sums that are no longer kept: put back from an older backup; put back a newer one "
                "there, or begin anew under another name in run.toml"
            )
        for site in behind:
            self.transport.leave_out(site, f"{site} {BEHIND}")
            applied[site] = len(exchanges)  # nothing is kept for its sake
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
            if self.run.requested:
                coordinator.interrupt()
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
        check_consents(
            consents,
            version=__version__,
            agreement=agreement.digest,
            panel=agreement.panel_digest,
            fingerprint=agreement.fingerprint,
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
