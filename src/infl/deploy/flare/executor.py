"""A site's part of a FLARE job: a site worker that hears and answers over the job's cells.

The job says which run; data, key and policy are named by the site's own files, beside its kit.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from infl.deploy.flare.job_channel import JobChannel, server_cell
from infl.deploy.flare.process import keep_memory_flat
from infl.deploy.site_folder import SiteFolder
from infl.deploy.site_worker import SiteWorker
from infl.federation.agreement import Agreement
from infl.federation.site import Site
from infl.federation.wire import MAX_MESSAGE_BYTES


class InflExecutor(Executor):
    """Runs a site; takes no parameter from the job."""

    def __init__(self) -> None:
        super().__init__()
        self._worker: SiteWorker | None = None
        self._channel: JobChannel | None = None
        self._held = ExitStack()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Tasks are not used."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin and end with the job."""
        if event_type == EventType.START_RUN:
            self._start(fl_ctx)
        elif event_type in (EventType.ABORT_TASK, EventType.ABOUT_TO_END_RUN, EventType.END_RUN):
            self._end()

    def _start(self, fl_ctx: FLContext) -> None:
        keep_memory_flat()
        site_folder = SiteFolder(Path(fl_ctx.get_workspace().get_root_dir()).parent)
        engine = fl_ctx.get_engine()
        channel: JobChannel | None = None

        def prepare(agreement: Agreement) -> Site:
            with ExitStack() as held:
                held.enter_context(site_folder.hold(agreement))
                site = site_folder.prepare(agreement)
                site_folder.note(f"takes part in run {agreement.run}: {agreement.task}, {agreement.rounds} rounds")
                self._held = held.pop_all()
            return site

        def send(content: bytes) -> None:
            if channel is not None:
                channel.send("server", content)

        worker = SiteWorker(fl_ctx.get_identity_name(), prepare, send, finish=site_folder.finish, note=site_folder.note)
        addresses = {"server": server_cell(fl_ctx.get_job_id())}
        channel = JobChannel(
            engine.get_cell(), addresses, lambda name, content: worker.receive(content), lambda: MAX_MESSAGE_BYTES
        )
        self._worker, self._channel = worker, channel
        for target in (worker.signs_of_life, worker.run):
            threading.Thread(target=target, name=f"infl {target.__name__}", daemon=True).start()

    def _end(self) -> None:
        if self._worker is not None and self._channel is not None:
            self._channel.close()
            self._worker.stop()
            self._held.close()
