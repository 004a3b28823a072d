"""A site's part of a FLARE job: workers for runs and for studies that hear and answer over the job's cells.

The job says which run or study; data, key and policy are named by the site's own files, beside its kit.
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

from infl.deploy.curves import Curves
from infl.deploy.flare.job_channel import JobChannel, server_cell
from infl.deploy.flare.process import keep_memory_flat
from infl.deploy.site_folder import SiteFolder
from infl.deploy.site_worker import SiteWorker
from infl.deploy.study.consent import SiteStudies
from infl.deploy.study.site import StudySite
from infl.deploy.study.specification import Study
from infl.deploy.study.worker import StudyWorker
from infl.federation.agreement import Agreement
from infl.federation.messages import OF_STUDIES
from infl.federation.site import Site
from infl.federation.wire import MAX_MESSAGE_BYTES, name_of


class InflExecutor(Executor):
    """Runs a site; takes no parameter from the job."""

    def __init__(self) -> None:
        super().__init__()
        self._workers: tuple[SiteWorker, StudyWorker] | None = None
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

        curves = Curves("")

        def prepare(agreement: Agreement) -> Site:
            nonlocal curves
            with ExitStack() as held:
                held.enter_context(site_folder.hold(agreement))
                site = site_folder.prepare(agreement)
                site_folder.log.note(f"takes part in run {agreement.run}: {agreement.task}, {agreement.rounds} rounds")
                curves = Curves(site_folder.settings.curves)
                held.callback(curves.close)
                self._held.enter_context(held.pop_all())
            return site

        studies = SiteStudies(site_folder)

        def prepare_study(study: Study) -> StudySite:
            with ExitStack() as held:
                held.enter_context(studies.hold(study))
                site = studies.prepare(study)
                site_folder.log.note(f"takes part in study {study.name}, {study.run}: {len(study.steps)} steps")
                self._held.enter_context(held.pop_all())
            return site

        def send(content: bytes) -> None:
            if channel is not None:
                channel.send("server", content)

        name, of_studies = fl_ctx.get_identity_name(), {message.__name__ for message in OF_STUDIES}
        worker = SiteWorker(
            name,
            prepare,
            send,
            finish=site_folder.finish,
            note=site_folder.log.refused,
            watch=lambda site: curves.write(site),
        )
        study_worker = StudyWorker(name, prepare_study, send, note=site_folder.log.refused)

        def receive(name: str, content: bytes) -> None:
            (study_worker if name_of(content) in of_studies else worker).receive(content)

        addresses = {"server": server_cell(fl_ctx.get_job_id())}
        channel = JobChannel(engine.get_cell(), addresses, receive, lambda: MAX_MESSAGE_BYTES)
        self._workers, self._channel = (worker, study_worker), channel
        for target in (worker.signs_of_life, worker.run, study_worker.run):
            threading.Thread(target=target, name=f"infl {target.__name__}", daemon=True).start()

    def _end(self) -> None:
        if self._workers is not None and self._channel is not None:
            self._channel.close()
            for worker in self._workers:
                worker.stop()
            self._held.close()
