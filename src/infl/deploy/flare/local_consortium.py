"""A consortium on one machine: all participants as processes of their own over mutual TLS, for tests, benchmarks, teaching."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from infl.deploy.attempt import Status
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.daemon import CLIENT_PROCESS, Daemon
from infl.deploy.flare.engine import Supervisor
from infl.deploy.flare.kits import approve, enrol, init_coordinator, install
from infl.deploy.run_attempt import RunFolder
from infl.deploy.site_data import SiteSettings
from infl.deploy.site_folder import SiteFolder
from infl.deploy.study.attempt import StudyFolder
from infl.federation.local import run_in_process
from infl.federation.messages import Answer
from infl.keys import Identity

if TYPE_CHECKING:
    from infl._types import Data
    from infl.deploy.remote import Patience
    from infl.deploy.study.specification import Study
    from infl.federation.agreement import Agreement
    from infl.federation.coordinator import Transport
    from infl.federation.messages import Plan, Reply
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.task import Task


class LocalConsortium:
    """Enrols sites, writes their data, and starts and kills their processes.

    Parameters
    ----------
    root
        Empty folder for all participants.
    data
        The sites' data by name.
    key
        The key holder's ring. Each site is granted it, with an identity of its own, both in the site's folder.
    host, scheme
        As in ``consortium.toml``.

    Attributes
    ----------
    daemons
        The sites' engine processes.
    lines
        Lines of the coordinator.
    """

    def __init__(
        self, root: Path, data: Mapping[str, Data], key: Keyring, *, host: str = "localhost", scheme: str = "tcp"
    ) -> None:
        self.root, self.data, self.key = root, dict(data), key
        self.coordinator = root / "coordinator"
        self.daemons: dict[str, Daemon] = {}
        self.lines: list[str] = []
        self.consortium = Consortium("rehearsal", host, free_port(), scheme)
        self.fingerprint = init_coordinator(self.coordinator, self.consortium)
        identities = {site: Identity.create() for site in data}
        for site, identity in identities.items():
            key.grant(site, identity)
        for site, table in data.items():
            request, mine = enrol(root / site, site, self.consortium)
            approved, request_seen = approve(self.coordinator, request)
            assert mine == request_seen.fingerprint
            install(root / site, approved, self.fingerprint)
            table.write_h5ad(root / site / "cohort.h5ad")
            identities[site].save(root / site / "identity.key")
            key.granted(site).save(root / site / "ring.key")
            files = (root / site / "cohort.h5ad", root / site / "ring.key", root / site / "identity.key")
            self.site_folder(site).save_settings(SiteSettings(site, *map(str, files)))

    def site_folder(self, site: str) -> SiteFolder:
        """Return a site's folder."""
        return SiteFolder(self.root / site)

    def begin(self, name: str, agreement: Agreement) -> RunFolder:
        """Make a run's folder at the coordinator, and have the people at each site say yes to it."""
        self._approve(agreement.sites, agreement.digest)
        run = RunFolder(self.coordinator / "runs" / name)
        run.store.begin(agreement)
        return run

    def begin_study(self, study: Study) -> StudyFolder:
        """Make a study's folder at the coordinator, and have the people at each site say yes to it."""
        self._approve(study.sites, study.digest)
        folder = StudyFolder(self.coordinator / "runs" / study.name)
        folder.begin(study)
        return folder

    def _approve(self, sites: tuple[str, ...], digest: str) -> None:
        for site in sites:
            approved = self.root / site / "approved"
            approved.mkdir(exist_ok=True)
            (approved / digest).touch()

    def expected(self, run: RunFolder, task: Task) -> FederatedRun:
        """Return what a run must come out as: the same in process, with those sites in each sum that were in it."""
        missing = {row["seq"]: set(row["cohort"]) - set(row["responders"]) for row in run.exchanges()}
        wrap = lambda inner: _Without(inner, missing)  # noqa: E731
        return run_in_process(run.agreement, task, self.data, self.key, wrap=wrap, stacked=False).run

    @contextmanager
    def sites_up(self) -> Iterator[None]:
        """Keep all sites' processes up."""
        over = threading.Event()
        self.daemons = {
            s: Daemon(self.root / s / "kit", CLIENT_PROCESS, self.root / s / "client.log") for s in self.data
        }
        threads = [threading.Thread(target=daemon.keep_up, args=(over,)) for daemon in self.daemons.values()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def supervise(
        self,
        name: str,
        patience: Patience | None = None,
        *,
        on_line: Callable[[Supervisor, str], None] = lambda supervisor, line: None,
        give_up: float = 120.0,
    ) -> Status:
        """Bring a run to its end; `on_line` is called with each line that the coordinator says, to make faults."""

        def say(line: str) -> None:
            self.lines.append(line)
            on_line(supervisor, line)

        supervisor = Supervisor(self.coordinator, name, patience=patience, say=say)
        return supervisor.go(poll=0.5, give_up=give_up)


class _Without:
    """Sites in process; some are missing in some exchanges."""

    def __init__(self, inner: Transport, missing: Mapping[int, set[str]]) -> None:
        self._inner, self._missing, self.holder = inner, missing, inner.holder

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        for reply in self._inner.ask(cohort, plan_for):
            if not (isinstance(reply, Answer) and reply.site in self._missing.get(reply.seq, ())):
                yield reply


def kill(daemon: Daemon) -> None:
    """Kill −9 an engine's process and those that it started."""
    if daemon.process is not None:
        os.killpg(daemon.process.pid, signal.SIGKILL)


def expire(certificate: Path, ca: Path) -> bytes:
    """Return a certificate as the consortium's own authority would have signed it, valid until yesterday."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    mine = x509.load_pem_x509_certificate(certificate.read_bytes())
    root = x509.load_pem_x509_certificate((ca / "rootCA.pem").read_bytes())
    key, now = load_pem_private_key((ca / "rootCA.key").read_bytes(), None), datetime.now(UTC)
    builder = x509.CertificateBuilder(root.subject, mine.subject, mine.public_key(), mine.serial_number)
    builder = builder.not_valid_before(now - timedelta(days=9)).not_valid_after(now - timedelta(days=1))
    for extension in mine.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
