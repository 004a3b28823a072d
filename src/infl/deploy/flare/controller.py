"""The server's part of a FLARE job: an attempt of the coordinator, over the job's cells."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.signal import Signal

from infl.deploy.attempt import BEAT, REQUEST_AGAIN, REQUEST_LEAVE, REQUEST_STOP, AttemptFolder
from infl.deploy.flare.job_channel import JobChannel, cells_of
from infl.deploy.flare.process import keep_memory_flat
from infl.deploy.folders import NAME
from infl.deploy.remote import Patience, RemoteTransport
from infl.deploy.run_attempt import RunAttempt, RunFolder
from infl.deploy.study.attempt import StudyAttempt, StudyFolder, StudyTransport, is_study
from infl.errors import SettingsError
from infl.federation.agreement import Agreement

COMMAND = "infl"
"""What an administrator calls to ask a running job where it is."""
LAST_WORD = 10.0
"""Seconds that an attempt waits for somebody at another machine to read how it ended."""


class InflController(Controller):
    """Runs the coordinator.

    Parameters
    ----------
    run
        Name of the run; its folder lies beside the server's kit.
    patience
        Fields of :class:`~infl.deploy.remote.Patience`.
    agreement
        The specification as JSON, where the run is asked for from another machine; the run is begun with it.
    """

    def __init__(self, run: str, patience: dict[str, float] | None = None, agreement: str = "") -> None:
        super().__init__()
        if not NAME.fullmatch(run):
            raise SettingsError(f"run {run!r}: a name has letters, digits, '.', '_' and '-'")
        self.run, self.patience = run, Patience(**(patience or {}))
        self.agreement = Agreement.from_json(agreement) if agreement else None
        self._told = threading.Event()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to prepare."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to put away."""

    def process_result_of_unknown_task(self, *args: Any, **kwargs: Any) -> None:
        """Tasks are not used."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Make one attempt at finishing the run."""
        keep_memory_flat()
        folder = self._folder(Path(fl_ctx.get_workspace().get_root_dir()).parent / "runs" / self.run)
        fl_ctx.get_engine().register_app_command(COMMAND, self._tell, folder)
        engine, sites = fl_ctx.get_engine(), folder.agreement.sites
        cells = {n: a for n, a in cells_of(fl_ctx.get_job_id(), engine.get_clients()).items() if n in sites}
        channel: JobChannel | None = None

        def send(site: str, content: list[memoryview]) -> None:
            if channel is not None:
                channel.send(site, content)

        transport: RemoteTransport
        attempt: RunAttempt | StudyAttempt
        if isinstance(folder, StudyFolder):
            transport = StudyTransport(sites, send, self.patience)
            attempt = StudyAttempt(folder, transport)
        else:
            transport = RemoteTransport(sites, send, self.patience)
            attempt = RunAttempt(folder, transport)
        channel = JobChannel(engine.get_cell(), cells, transport.receive, lambda: transport.limit)
        over = threading.Event()

        def watch() -> None:
            beaten = time.monotonic()
            while not over.wait(0.2):
                if abort_signal.triggered:
                    transport.stop()
                    return
                if time.monotonic() - beaten > BEAT:
                    attempt.beat()
                    beaten = time.monotonic()

        threading.Thread(target=watch, daemon=True).start()
        try:
            status = attempt.go()
            self.log_info(fl_ctx, f"run {self.run}: {status.state} {status.message}".rstrip())
            if self.agreement is not None:
                self._told.wait(LAST_WORD)
        finally:
            over.set()
            channel.close()

    def _folder(self, path: Path) -> RunFolder | StudyFolder:
        """Return the folder of the run or study, begun if a notebook brought the run along."""
        if is_study(path):
            return StudyFolder(path)
        folder = RunFolder(path)
        if self.agreement is not None and not folder.store.exists:
            folder.store.begin(self.agreement)
        elif self.agreement is not None and folder.agreement.digest != self.agreement.digest:
            raise SettingsError(f"run {self.run} was begun with another specification")
        return folder

    def _tell(self, topic: str, data: Any, fl_ctx: FLContext, folder: AttemptFolder) -> dict[str, Any]:
        """Answer an administrator on another machine: take a request, return the run's status."""
        wanted = data.get("request") if isinstance(data, dict) else None
        if wanted in (REQUEST_STOP, REQUEST_AGAIN, REQUEST_LEAVE):
            folder.request(wanted)
        status = folder.status
        if status.state not in ("offered", "running"):
            self._told.set()
        return asdict(status)
