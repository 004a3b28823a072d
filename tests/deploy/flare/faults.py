"""Scripted faults: processes killed −9 at every point of a run, cut and slow networks, full disks, wrong clocks; `make faults`.

A few runs over TLS go on while faults are made one after the other, each when what the one before did is mended and everybody
takes part again: three of three sites under the group seal, one of three under the pairwise seal, where none can be spared, and
one of four, where one can. At the end of a run each sum must be recorded once, every site must have counted the sites of
every round as recorded, and must have the model that the same run has in process with those sites in each sum (to 1e-6): then
nothing was added twice, and nothing lost that was acknowledged. ``python tests/deploy/flare/faults.py [WORD …]`` makes only
faults whose name has one of the words.

Faults of network and disk are made in a namespace of their own, which needs root; without, they are left out, visibly. Where
the kernel has no ``tc netem``, what is sent is delayed in the processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from anndata import AnnData, read_h5ad

import infl
from conftest import POLICY, SITES, fuzz, make_sites
from infl.deploy.attempt import Status
from infl.deploy.flare.daemon import SERVER_PROCESS, Daemon
from infl.deploy.flare.engine import Supervisor
from infl.deploy.flare.local_consortium import LocalConsortium, expire, kill
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.deploy.site_data import stamp
from infl.deploy.site_folder import SiteFolder
from infl.errors import FileError
from infl.federation.agreement import Agreement
from infl.keys import Keyring
from infl.models import Classifier

TASK = Classifier(target="label", width=8, n_blocks=1)
PATIENCE = Patience(silence=5, repeat=2, consent=25)
ROUNDS, EACH = 900, 90
"""Most rounds of a run, and those for each fault: while one site is away, others go on at full speed."""
PATIENT = float(os.environ.get("INFL_FAULTS_PATIENCE", "240"))
"""Seconds in which everybody must take part again after a fault; more of them for a machine with much other work."""
CODE = """
import sys
from pathlib import Path
from infl.cli.signals import asked_to_end
from infl.deploy.flare.engine import Supervisor
supervisor = Supervisor(Path(sys.argv[1]), sys.argv[2], say=lambda line: print(line, flush=True))
with asked_to_end(supervisor.stop):
    supervisor.go(poll=0.5, give_up=400)
"""
KEPT = Path(__file__).with_suffix(".json")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


JOBS = ("worker_process", "runner_process")
"""In the commands of processes that FLARE starts for a job, at a site and at the server."""


class Scene:
    """A consortium, and the coordinator's own process, started again whenever it dies."""

    def __init__(self, root: Path, data: Mapping[str, AnnData], policy: str = POLICY) -> None:
        self.sites, self.orders = tuple(data), root / "orders"
        self.orders.mkdir(parents=True)
        os.environ["INFL_FAULTS"] = str(self.orders)
        self.network = LocalConsortium(root, data, Keyring.create())
        for site in data:
            (root / site / "policy.toml").write_text(policy)
        self.coordinator: subprocess.Popen[bytes] | None = None
        self.emulated = ""
        self.hit: list[str] = []
        self.coordinator_may_start, self.said = True, ""
        self.run: Any

    def processes(self, kit: Path, word: str) -> list[psutil.Process]:
        return [
            p for p in psutil.process_iter(["cmdline"])
            if str(kit) in (command := p.info["cmdline"] or []) and any(word in part for part in command)
        ]  # fmt: skip

    def kill_site(self, site: str = "site_2") -> None:
        """Kill FLARE's process of a site and that of its job, which has a session of its own."""
        self.signal_site(signal.SIGKILL, site)

    def kill_server(self) -> None:
        """Kill FLARE's server and the process of its job."""
        self._signal(self.processes(self.network.coordinator / "kit", "nvflare"), signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """Kill infl's own process; what it started goes on without it."""
        if self.coordinator is not None:
            self.coordinator.kill()
            self.hit.append("infl")

    def kill_coordinator(self) -> None:
        """Kill infl's own process, the server and the job."""
        self.kill_supervisor()
        self.kill_server()

    def end_coordinator(self) -> None:
        """End infl's own process as a service manager does; it ends the server and the job itself."""
        if self.coordinator is not None:
            self.coordinator.terminate()
            self.coordinator.wait(120)
            self.hit.append("infl")

    def end_site(self) -> None:
        """End FLARE's process of a site and that of its job by SIGTERM."""
        self.signal_site(signal.SIGTERM)

    def _signal(self, processes: list[psutil.Process], number: signal.Signals) -> None:
        """Send a signal to all of them at once, and note what was hit: a job's process, or the long-lived one."""
        for p in processes:
            p.suspend()  # none starts another meanwhile
        for p in processes:
            with suppress(psutil.NoSuchProcess):
                command = " ".join(p.cmdline())
                p.send_signal(number)
                if number != signal.SIGKILL:
                    p.resume()
                self.hit.append("job" if any(word in command for word in JOBS) else "engine")

    def kill_all_sites(self) -> None:
        for site in self.sites:
            self.kill_site(site)

    def signal_site(self, number: signal.Signals, site: str = "site_2") -> None:
        processes = self.processes(self.network.root / site / "kit", "nvflare")
        if number in (signal.SIGSTOP, signal.SIGCONT):
            for p in processes:
                p.send_signal(number)
        else:
            self._signal(processes, number)

    def kill_site_and_server(self) -> None:
        self.kill_site()
        self.kill_server()

    def kill_everything(self) -> None:
        self.kill_all_sites()
        self.kill_coordinator()

    def start(self, name: str) -> None:
        with (self.network.root / "coordinator.out").open("ab") as out:
            self.coordinator = subprocess.Popen(
                [sys.executable, "-c", CODE, str(self.network.coordinator), name], stdout=out, stderr=out
            )

    def restart_site(self, **environment: str) -> None:
        """Kill a site; the process that follows has these variables beside the usual."""
        daemon = self.network.daemons["site_2"]
        starts = daemon.starts
        os.environ.update(environment)
        kill(daemon)
        while daemon.starts == starts:
            time.sleep(0.05)
        for name in environment:
            del os.environ[name]


@dataclass(frozen=True)
class Fault:
    """What is done, when, and how it is mended after some seconds.

    A fault with `point` is made by the processes of `who` themselves, when they are there. `hits` are the kinds of processes that must
    have been there to be killed; `says` returns what must have `word` in it before the fault is mended. Whatever it is, unless it is `calm`, work must have been interrupted: another attempt, an exchange
    without some site, or a pause that is much longer than usual.
    """

    name: str
    due: Callable[[Status], bool]
    make: Callable[[Scene], None] = lambda scene: None
    mend: Callable[[Scene], None] = lambda scene: None
    lasts: float = 0.0
    stage: str = "middle"
    who: tuple[str, ...] = ()
    point: str = ""
    calm: bool = False
    hits: tuple[str, ...] = ()
    says: Callable[[Scene], str] = lambda scene: ""
    word: str = ""
    during: str = "group"


@dataclass
class Outcome:
    fault: Fault
    wrong: str = ""
    seconds: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    model: bool | None = None
    """Whether each site had the right model at the end of the run (None: the run was not followed to its end)."""

    def keep(self, commit: str) -> None:
        """Write into :data:`KEPT` what came of the fault."""
        rows = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        rows[self.fault.name] = {
            "during": self.fault.during, "date": date.today().isoformat(), "commit": commit, "interrupted": self.interrupted,
            "calm": self.fault.calm, **self.facts, "seconds": round(self.seconds, 1), "model": self.model, "wrong": self.wrong,
        }  # fmt: skip
        KEPT.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


def at(share: float) -> Callable[[Status], bool]:
    """When this share of all exchanges is done."""
    return lambda s: s.state == "running" and s.exchanges > 0 and s.position >= share * s.exchanges


ALWAYS: Callable[[Status], bool] = lambda s: True  # noqa: E731
OFFERED: Callable[[Status], bool] = lambda s: s.state == "offered"  # noqa: E731
MIDDLE: Callable[[Status], bool] = lambda s: s.state == "running" and s.round > 0  # noqa: E731
DELIVERY: Callable[[Status], bool] = lambda s: s.position >= s.exchanges > 0  # noqa: E731

ONE, COORDINATOR = ("site_2",), ("coordinator",)


def points(who: Sequence[str], rows: Iterable[tuple[str, str, str]], *, during: str = "group") -> list[Fault]:
    """Return faults of participants that die at a point of the code."""
    whom = {ONE: "a site", COORDINATOR: "the coordinator's job"}.get(tuple(who), "all sites")
    due = {"start": ALWAYS, "middle": MIDDLE, "judge": ALWAYS, "end": ALWAYS}
    return [
        Fault(f"-9 {whom}: {what}", due[stage], stage=stage, who=tuple(who), point=point, during=during)
        for stage, what, point in rows
    ]


FAULTS = [
    *points(ONE, [
        ("start", "asked to take part", "SiteFolder.prepare|before|"),
        ("start", "agreed, not said so", "SiteFolder.prepare|after|"),
        ("start", "asked for the count", "Site._compute|before|count"),
        ("middle", "a plan arrives", "Site.handle|before|train"),
        ("middle", "a sum is being applied", "Replica.catch_up|before|"),
        ("middle", "a sum is applied, not kept", "Replica.catch_up|after|"),
        ("middle", "its checkpoint is half-written", "_place|before|sites"),
        ("middle", "during evaluation", "Trainer.judge|before|"),
        ("middle", "during training", "Classifier.loss|before|"),
        ("middle", "trained, not in the ledger", "Site._compute|after|train"),
        ("middle", "in the ledger, not sent", "SiteWorker._say|before|Answer"),
        ("middle", "during send", "SiteWorker._say|after|Answer"),
        ("judge", "the last judgement", "Site._compute|before|judge"),
        ("end", "the model arrives", "SiteFolder.finish|before|"),
        ("end", "the model is written, not said so", "SiteFolder.finish|after|"),
    ]),
    *points(COORDINATOR, [
        ("start", "before the offer", "RemoteTransport.offer|before|"),
        ("start", "the count", "Coordinator._exchange|before|count"),
        ("middle", "a plan is sent", "RemoteTransport._put|after|"),
        ("middle", "an answer is there", "Gathered.take|before|"),
        ("middle", "a sum is made, not recorded", "RunFolder.record|before|"),
        ("middle", "a sum is recorded, not kept", "Checkpoint.save_progress|before|"),
        ("middle", "its checkpoint is half-written", r"_place|before|coordinator\.json"),
        ("middle", "a sum is kept, nobody told", "Checkpoint.save_progress|after|"),
        ("judge", "the last judgement", "Coordinator._exchange|before|judge"),
        ("end", "the last delivery", "RunAttempt._delivered|before|"),
    ]),
]  # fmt: skip
for who, do, hits in (
    ("all processes of the site", Scene.kill_site, ("engine", "job")),
    ("server and job", Scene.kill_server, ("engine", "job")),
    ("infl's own process at the coordinator", Scene.kill_supervisor, ("infl",)),
    ("all processes of the coordinator", Scene.kill_coordinator, ("infl", "engine", "job")),
):
    FAULTS += [
        Fault(f"-9 {who}, before anything", OFFERED, do, stage="start", hits=hits),
        Fault(f"-9 {who}, the middle", MIDDLE, do, hits=hits),
    ]
    if hits == ("infl",):  # without infl's own process the run goes on to its end; near it, nothing is interrupted
        continue
    FAULTS += [
        Fault(f"-9 {who}, the last rounds", at(0.9), do, stage="late", hits=hits),
        Fault(f"-9 {who}, the last delivery", DELIVERY, do, stage="end", hits=hits),
    ]
FAULTS += [
    Fault("-9 all sites", MIDDLE, Scene.kill_all_sites, hits=("engine", "job")),
    Fault("-9 a site and the server", MIDDLE, Scene.kill_site_and_server, hits=("engine", "job")),
    Fault("-9 everything", MIDDLE, Scene.kill_everything, hits=("infl", "engine", "job")),
    Fault("SIGTERM to the coordinator", MIDDLE, Scene.end_coordinator, hits=("infl",)),
    Fault("SIGTERM to all processes of the site", MIDDLE, Scene.end_site, hits=("engine", "job")),
]

FAULTS += [
    *points(ONE, [
        ("middle", "sealed, asked for its part", "Site._reveal|before|train"),
        ("middle", "its part is kept, not in the ledger", "Ledger.record_reveal|before|"),
        ("middle", "its part is in the ledger, not sent", "SiteWorker._say|before|Reveal"),
        ("middle", "its part is sent", "SiteWorker._say|after|Reveal"),
        ("judge", "asked for the last sum, without numbers", "Site._compute|before|close"),
        ("end", "its part of the last sum is in the ledger", "Site._reveal|after|close"),
    ], during="pairwise"),
    *points(COORDINATOR, [
        ("middle", "a masked sum is kept, no part asked for", "Coordinator._uncover|before|train"),
        ("middle", "all parts are there, the sum is not kept", "Coordinator._uncover|after|train"),
        ("end", "all parts of the last sum are there", "Coordinator._uncover|after|close"),
    ], during="pairwise"),
    *points(SITES, [
        ("middle", "sealed, asked for their parts", "Site._reveal|before|train"),
        ("middle", "their parts are in the ledgers, not sent", "SiteWorker._say|before|Reveal"),
    ], during="pairwise"),
    Fault(
        "a site dies after its part, is put back to before it sealed", MIDDLE, who=ONE, during="pairwise",
        point="Site._compute|before|train|back up\nSite._reveal|after|train|put back",
    ),
    *points(ONE, [
        ("middle", "sealed, asked for its part, one of four", "Site._reveal|before|train"),
        ("middle", "its part is sent, one of four", "SiteWorker._say|after|Reveal"),
    ], during="one to spare"),
    Fault(
        "a site of four sleeps for 20 s", MIDDLE, lambda s: s.signal_site(signal.SIGSTOP),
        lambda s: s.signal_site(signal.SIGCONT), 20, during="one to spare",
    ),
]  # fmt: skip


# -- clock and certificate -----------------------------------------------------------------------------------------------
def wrong_clock(scene: Scene, hours: str) -> None:
    scene.restart_site(LD_PRELOAD=str(FAKETIME), FAKETIME=hours, DONT_FAKE_MONOTONIC="1")


def expired_certificate(scene: Scene) -> None:
    kit = scene.network.root / "site_2" / "kit"
    (kit / "startup" / "client.crt").rename(kit / "kept.crt")
    (kit / "startup" / "client.crt").write_bytes(expire(kit / "kept.crt", scene.network.coordinator / "ca"))
    scene.kill_site()


def renewed_certificate(scene: Scene) -> None:
    kit = scene.network.root / "site_2" / "kit"
    (kit / "kept.crt").rename(kit / "startup" / "client.crt")
    scene.kill_site()


CLOCKS = [
    Fault("a site's clock an hour ahead", MIDDLE, lambda s: wrong_clock(s, "+1h"), lambda s: s.restart_site(), 25),
    Fault("a site's clock an hour behind", MIDDLE, lambda s: wrong_clock(s, "-1h"), lambda s: s.restart_site(), 15),
]
FAULTS += [Fault("a site's certificate expired", MIDDLE, expired_certificate, renewed_certificate, 15)]


# -- backups, data, a second run -----------------------------------------------------------------------------------------
def older_coordinator(scene: Scene) -> None:
    """Put the coordinator's run back to where it was three exchanges ago, and keep how it was."""
    folder, kept = scene.run.folder, scene.orders / "kept"
    older, position = scene.orders / "older", scene.run.position
    shutil.copytree(folder, older)
    while scene.run.position < position + 3:
        time.sleep(0.05)
    scene.coordinator_may_start = False
    scene.kill_coordinator()
    shutil.copytree(folder, kept)
    put_back(older, folder)
    scene.coordinator_may_start = True


def newer_coordinator(scene: Scene) -> None:
    scene.coordinator_may_start = False
    scene.kill_coordinator()
    put_back(scene.orders / "kept", scene.run.folder)
    scene.run.resume()
    scene.coordinator_may_start = True


def put_back(copy: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.move(copy, folder)


def change_data(scene: Scene) -> None:
    site = scene.network.root / "site_2"
    settings = SiteFolder(site).settings
    data = Path(settings.data)
    SiteFolder(site).save_settings(replace(settings, stamp=stamp(data)))
    shutil.copy2(data, site / "kept.h5ad")
    changed = read_h5ad(data)
    changed.X[0, 0] += 1.0
    changed.write_h5ad(data)
    scene.kill_site()


def change_back(scene: Scene) -> None:
    site = scene.network.root / "site_2"
    (site / "kept.h5ad").replace(site / "cohort.h5ad")


def second_run(scene: Scene) -> None:
    """Work for the same coordinator a second time; it must be refused in a line, while the first goes on."""
    try:
        Supervisor(scene.network.coordinator, scene.run.folder.name).go()
    except FileError as error:
        scene.said = str(error)


FAULTS += [
    Fault(
        "the coordinator is put back to an older backup, then to a newer one", MIDDLE, older_coordinator, newer_coordinator,
        45, says=lambda s: s.run.status.message, word="older backup",
    ),
    Fault(
        "a site's data are changed", MIDDLE, change_data, change_back, 45, hits=("engine", "job"),
        says=lambda s: "".join(s.network.site_folder("site_2").log.events()), word="has changed since it was checked",
    ),
    Fault(
        "a second run is started at the coordinator", MIDDLE, second_run, calm=True,
        says=lambda s: s.said, word="in use by another process",
    ),
    Fault(
        "a site dies after its answer, is put back to before it", MIDDLE, who=ONE,
        point="Site._compute|before|train|back up\nSiteWorker._say|after|Answer|put back",
    ),
]  # fmt: skip


# -- network and disk ----------------------------------------------------------------------------------------------------
def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def down(scene: Scene) -> None:
    ip("link", "set", "lo", "down")


def up(scene: Scene) -> None:
    ip("link", "set", "lo", "up")


def slow(scene: Scene, milliseconds: int, loss: int) -> None:
    command = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", f"{milliseconds}ms", "loss", f"{loss}%"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if not scene.emulated:
            print(f"   {' '.join(command)}: {done.stderr.strip().splitlines()[0]}; delayed in the processes instead")
        scene.emulated = "yes"
        (scene.orders / "network").write_text(f"{milliseconds / 1000} {loss / 100}")


def fast(scene: Scene) -> None:
    (scene.orders / "network").unlink(missing_ok=True)
    if not scene.emulated:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def sever(scene: Scene) -> None:
    (scene.orders / "network").write_text("-1 0")


def healed(scene: Scene) -> None:
    (scene.orders / "network").unlink()


def small_disk(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)


def fill(scene: Scene, who: str) -> None:
    with (scene.network.root / who / "runs" / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 12)):
                pass
        except OSError:
            pass


def unfill(scene: Scene, who: str) -> None:
    (scene.network.root / who / "runs" / "filler").unlink()


def noise(scene: Scene) -> None:
    """Ten thousand pieces of it, while the run goes on."""
    assert fuzz(scene.network, 10_000) > 200


ISOLATED = [
    Fault("network cut for 10 s", MIDDLE, down, up, 10),
    Fault("network cut for 40 s", MIDDLE, down, up, 40),
    Fault("200 ms and 1 % loss for 30 s", MIDDLE, lambda s: slow(s, 200, 1), fast, 30),
    Fault("5 % loss for 30 s", MIDDLE, lambda s: slow(s, 0, 5), fast, 30),
    Fault("a site's disk full for 10 s", MIDDLE, lambda s: fill(s, "site_2"), lambda s: unfill(s, "site_2"), 10),
    Fault(
        "the coordinator's disk full for 10 s", MIDDLE, lambda s: fill(s, "coordinator"),
        lambda s: unfill(s, "coordinator"), 10,
    ),
    Fault(
        "a site's disk full when its part goes into the ledger", MIDDLE, mend=lambda s: unfill(s, "site_2"), lasts=10,
        who=ONE, point="Ledger.record_reveal|before||fill", during="pairwise",
    ),
    Fault(
        "the coordinator's disk full when a masked sum is to be kept", MIDDLE, mend=lambda s: unfill(s, "coordinator"),
        lasts=10, who=COORDINATOR, point="Checkpoint.save_progress|before||fill", during="pairwise",
    ),
]  # fmt: skip
FAULTS += [
    Fault("all connections break off, for 2 s", MIDDLE, sever, healed, 2),
    Fault("10,000 pieces of noise at the port", MIDDLE, noise, calm=True),
]
STAGES = ("start", "middle", "late", "judge", "end")
RUNS = {
    "group": ("group", SITES, 3),
    "pairwise": ("pairwise", SITES, 1),
    "one to spare": ("pairwise", (*SITES, "site_4"), 1),
}
"""Seal, sites and number of runs that faults are made in."""


class Played:
    """A run or a study that goes on while faults are made.

    Parameters
    ----------
    scene
        Who takes part.
    name
        Of the run.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene, self.name, self.run = scene, name, scene.run
        self._position, self._pause, self._moved = -1, 0.0, time.monotonic()

    def until(self, true: Callable[[], bool], *, seconds: float = PATIENT) -> bool:
        """Wait, and start the coordinator's process again whenever it has died, as a system's supervisor does."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                return False
            process = self.scene.coordinator
            assert process is not None
            if process.poll() is not None and self.scene.coordinator_may_start and self.run.status.state != "finished":
                self.scene.start(self.name)
            position, now = self.run.position, time.monotonic()
            if position != self._position:
                self._position, self._moved = position, now
            self._pause = max(self._pause, now - self._moved)
            time.sleep(0.02)
        return True

    def end(self) -> None:
        coordinator = self.scene.network.coordinator
        if self.scene.coordinator is not None:
            self.scene.coordinator.send_signal(signal.SIGKILL)
            self.scene.coordinator.wait()
        Daemon(coordinator / "kit", SERVER_PROCESS, coordinator / "server.log").clear()


class Act(Played):
    """A run during which faults are made."""

    def __init__(self, scene: Scene, name: str, seal: str, faults: list[Fault], commit: str) -> None:
        self.commit, self.faults = commit, sorted(faults, key=lambda f: STAGES.index(f.stage))
        network = scene.network
        settings: dict[str, Any] = {"rounds": min(ROUNDS, 60 + EACH * len(faults)), "min_sites": 2, "seal": seal}
        agreement = Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, **settings)
        scene.run = network.begin(name, agreement)
        scene.run.save_patience(PATIENCE)
        super().__init__(scene, name)
        self.outcomes: list[Outcome] = []

    def play(self) -> list[Outcome]:
        """Make all faults, wait for the end, and return what came of each."""
        scene, slowly = self.scene, self.scene.orders / "slow"
        slowly.touch()
        with scene.network.sites_up():
            scene.start(self.name)
            try:
                for fault in self.faults:
                    if fault.stage not in ("start", "middle"):
                        slowly.unlink(missing_ok=True)
                    self.outcomes.append(self._happens(fault))
                    print(f"   {told(self.outcomes[-1])}", flush=True)
                    self.outcomes[-1].keep(self.commit)
                    if self.outcomes[-1].wrong and self.run.status.state != "running":
                        break
                slowly.unlink(missing_ok=True)
                ended = self.until(lambda: self.run.status.state == "finished")
            finally:
                self.end()
        wrong = compared(scene.network, self.run) if ended else f"not finished: {self.run.status}"
        for outcome in self.outcomes:
            outcome.wrong, outcome.model = outcome.wrong or wrong, not wrong
            outcome.keep(self.commit)
        return self.outcomes

    def _happens(self, fault: Fault) -> Outcome:
        outcome, orders = Outcome(fault), [self.scene.orders / who for who in fault.who]
        if not self.until(lambda: fault.due(self.run.status) or self.run.status.state == "finished"):
            outcome.wrong = "was never due"
            return outcome
        if self.run.status.state == "finished":
            outcome.wrong = "the run was over before the fault was due"
            return outcome
        before, begun = self.run.status, time.monotonic()
        usual = self._usual()
        self.scene.hit.clear()
        self._pause, self._moved = 0.0, begun
        if fault.point:
            for order in orders:
                order.write_text(fault.point)
            if not self.until(lambda: not any(order.exists() for order in orders)):
                outcome.wrong = "the point was not reached"
                for order in orders:
                    order.unlink(missing_ok=True)
                return outcome
            before = self.run.status
        working = threading.Thread(target=fault.make, args=(self.scene,))
        working.start()
        self.until(lambda: not working.is_alive())
        self.until(lambda: False, seconds=fault.lasts)
        unsaid = not self.until(lambda: fault.word in fault.says(self.scene))
        fault.mend(self.scene)
        position = self.run.position
        if not self.until(lambda: self._all_well(fault, before.attempts, position)):
            outcome.wrong = f"not mended after {PATIENT:.0f} s: {self.run.status}"
        now = self.run.status
        rows = [row for row in self.run.exchanges() if row["seq"] > before.position]
        missed = sum(len(row["cohort"]) > len(row["responders"]) for row in rows)
        outcome.facts = {"attempts": now.attempts - before.attempts, "exchanges without some site": missed}
        outcome.facts |= {"s pause": round(self._pause, 1), "s usually": round(usual, 1)}
        held = self._pause > max(2 * usual, usual + 0.5)
        outcome.interrupted = interrupted = bool(outcome.facts["attempts"] or missed or held)
        if fault.calm and (outcome.facts["attempts"] or missed):
            outcome.wrong = "others were held up"
        elif not fault.calm and not interrupted:
            outcome.wrong = "nothing was interrupted"
        elif unsaid:
            outcome.wrong = f"nothing said {fault.word!r}"
        elif absent := sorted({*fault.hits} - {*self.scene.hit}):
            outcome.wrong = f"not killed: {', '.join(absent)}"
        outcome.seconds = time.monotonic() - begun
        return outcome

    def _usual(self) -> float:
        """Return how long the exchanges of the last rounds took at most."""
        return max((row["seconds"] for row in self.run.exchanges()[-8:]), default=0.0)

    def _all_well(self, fault: Fault, attempts: int, position: int) -> bool:
        status = self.run.status
        if status.state == "finished":
            return True
        if fault.stage in ("start", "judge", "end"):
            return status.attempts > attempts
        if "infl" in fault.hits and status.attempts == attempts:
            return False  # who starts infl's own process again begins another attempt
        rows = self.run.exchanges()[-2:]
        together = all(row["responders"] == row["cohort"] for row in rows)
        return together and status.position >= position + 3 and status.state == "running"


def compared(network: LocalConsortium, run: RunFolder) -> str:
    """Return what is wrong with a run that has ended."""
    rows, worst = run.exchanges(), 0.0
    if [row["seq"] for row in rows] != [*range(len(rows))]:
        return "a sum is missing from the record, or was recorded twice"
    n_sites = [len(row["responders"]) for row in rows if row["round"]]
    expected = network.expected(run, TASK).model.effective(network.key)
    for site in run.agreement.sites:
        folder = network.root / site / "runs" / run.agreement.run
        if not (folder / "privacy.json").exists():
            return f"{site} has no model"
        if [*pd.read_csv(folder / "history.csv")["n_sites"]] != n_sites:
            return f"{site} counted other sites than were recorded"
        found = infl.load_model(folder / "model.infl.safetensors").effective(network.key)
        worst = max(worst, *((found[n] - t).abs().max().item() for n, t in expected.items()))
    return "" if worst <= 1e-6 else f"weights differ by {worst:.1e}"


def chosen(words: list[str], isolated: bool) -> list[Fault]:
    """Return the faults that are to be made, and say which are not."""
    faults = [*FAULTS, *(CLOCKS if FAKETIME else []), *(ISOLATED if isolated else [])]
    left_out = [f.name for f in (*([] if FAKETIME else CLOCKS), *([] if isolated else ISOLATED))]
    if left_out:
        print(f"left out, they need root, unshare, ip and tc, or libfaketime: {', '.join(left_out)}")
    return [f for f in faults if not words or any(word in f.name for word in words)]


@contextmanager
def scene_of(sites: Sequence[str], isolated: bool) -> Iterator[Scene]:
    """Make a consortium; in a namespace of its own, where disks may be full, two of its folders are on small ones."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scene = Scene(Path(folder), make_sites(sites))
        disks = [scene.network.root / who / "runs" for who in ("site_2", "coordinator")] if isolated else []
        for disk in disks:
            small_disk(disk)
        yield scene
        for disk in disks:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def acts(faults: list[Fault], isolated: bool) -> Iterator[Act]:
    """Yield the runs, each when the one before is over."""
    command = ["git", "log", "-1", "--format=%h", "--", ":/src"]
    commit = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()
    for during, (seal, sites, runs) in RUNS.items():
        mine = [fault for fault in faults if fault.during == during]
        if mine:
            with scene_of(sites, isolated) as scene:
                for i in range(min(runs, len(mine))):
                    yield Act(scene, f"faults_{i + 1}", seal, mine[i::runs], commit)


def told(outcome: Outcome) -> str:
    facts = ", ".join(f"{n:g} {what}" for what, n in outcome.facts.items())
    said = "FAILED" if outcome.wrong else "ok"
    return f"{outcome.fault.name:<62} {said:<6} {outcome.seconds:6.1f} s  {facts}  {outcome.wrong}"


def main() -> int:
    isolated = os.environ.get("INFL_FAULTS_ISOLATED") == "1"
    if not isolated and os.geteuid() == 0 and all(map(shutil.which, ("unshare", "ip", "tc"))):
        command = ["unshare", "--net", "--mount", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {"INFL_FAULTS_ISOLATED": "1"}, check=False).returncode
    faults = chosen(sys.argv[1:], isolated)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    path = [str(Path(__file__).parent / "points"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if isolated:
        ip("link", "set", "lo", "up")
    outcomes: list[Outcome] = []
    begun = time.monotonic()
    for act in acts(faults, isolated):
        for outcome in act.play():
            outcomes.append(outcome)
            print(f"{len(outcomes):>2} {told(outcome)}", flush=True)
    failed = len(faults) - sum(not outcome.wrong for outcome in outcomes)
    seconds = time.monotonic() - begun
    print(f"{len(outcomes)} of {len(faults)} faults made in {seconds:.0f} s, {failed} failed or not made")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
