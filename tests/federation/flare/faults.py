"""Scripted faults: processes killed −9 in every phase, full disks, cut and slow networks; `make faults`.

Each fault is made once while a run of three sites over TLS goes on. Afterwards every site must have the model that the same
run has in process, with those sites in each sum that the coordinator's record names (to 1e-6). Run as
``python tests/federation/flare/faults.py [WORD …]``: only faults whose name has one of the words.

Faults of the network are made in a namespace of its own, which needs root; without, they are left out, visibly.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import infl
from conftest import SITES, make_sites
from infl.federation.agreement import Agreement
from infl.federation.attempt import RunFolder, Status
from infl.federation.flare.engine import SERVER, Daemon
from infl.federation.flare.rehearsal import Rehearsal, kill
from infl.federation.remote import Patience
from infl.keys import Keyring
from infl.models import Classifier

TASK = Classifier(target="label", width=8, n_blocks=1)
PATIENCE = Patience(silence=6, repeat=2, consent=60)
ROUNDS = 200
GIVE_UP = 300.0
CODE = """
import sys
from pathlib import Path
from infl.federation.flare.engine import Supervisor
Supervisor(Path(sys.argv[1]), sys.argv[2], say=lambda line: print(line, flush=True)).go(poll=0.5, give_up=200)
"""


class Scene:
    """A consortium that is up, and the coordinator's own process, started again whenever it dies."""

    def __init__(self, root: Path) -> None:
        self.network = Rehearsal(root, make_sites(), Keyring.create())
        for site in SITES:
            (root / site / "policy.toml").write_text("min_sites = 2\n")
        self.coordinator: subprocess.Popen[bytes] | None = None

    def processes(self, kit: Path, word: str) -> list[psutil.Process]:
        return [
            p for p in psutil.process_iter(["cmdline"])
            if str(kit) in (command := p.info["cmdline"] or []) and any(word in part for part in command)
        ]  # fmt: skip

    def kill_site(self, site: str = "site_2") -> None:
        kill(self.network.daemons[site])

    def kill_site_job(self, site: str = "site_2") -> None:
        for p in self.processes(self.network.root / site / "kit", "worker_process"):
            p.kill()

    def kill_server(self) -> None:
        for p in self.processes(self.network.coordinator / "kit", "nvflare"):
            p.kill()

    def kill_server_job(self) -> None:
        for p in self.processes(self.network.coordinator / "kit", "runner_process"):
            p.kill()

    def kill_coordinator(self) -> None:
        """Kill infl's own process; what it started goes on without it."""
        if self.coordinator is not None:
            self.coordinator.kill()

    def kill_all_sites(self) -> None:
        for site in SITES:
            self.kill_site(site)

    def kill_site_and_server(self) -> None:
        self.kill_site()
        self.kill_server()

    def kill_everything(self) -> None:
        self.kill_all_sites()
        self.kill_coordinator()
        self.kill_server()

    def fill_disk(self, folder: Path) -> None:
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 12)):
                    pass
            except OSError:
                pass

    def start(self, name: str) -> None:
        with (self.network.root / "coordinator.out").open("ab") as out:
            self.coordinator = subprocess.Popen(
                [sys.executable, "-c", CODE, str(self.network.coordinator), name], stdout=out, stderr=out
            )


@dataclass(frozen=True)
class Fault:
    name: str
    due: Callable[[Status], bool]
    make: Callable[[Scene], None]
    mend: Callable[[Scene], None] = lambda scene: None
    lasts: float = 0.0


def at(share: float) -> Callable[[Status], bool]:
    """When this share of all exchanges is done."""
    return lambda s: s.state == "running" and s.exchanges > 0 and s.position >= share * s.exchanges


PHASES: dict[str, Callable[[Status], bool]] = {
    "before anything": lambda s: s.state == "offered",
    "the count": lambda s: s.state == "running" and s.position == 0,
    "set-up sums": lambda s: s.state == "running" and s.position >= 2,
    "the first rounds": at(0.03),
    "the middle": at(0.5),
    "the last rounds": at(0.95),
    "the last judgement": lambda s: s.position >= s.exchanges - 2 and s.exchanges > 0,
    "the last delivery": lambda s: s.position >= s.exchanges > 0,
}
KILLS: dict[str, Callable[[Scene], None]] = {
    "a site": Scene.kill_site,
    "a site's job": Scene.kill_site_job,
    "the server": Scene.kill_server,
    "the server's job": Scene.kill_server_job,
    "the coordinator": Scene.kill_coordinator,
}
FAULTS = [Fault(f"-9 {who}, {when}", due, make) for who, make in KILLS.items() for when, due in PHASES.items()]
FAULTS += [
    Fault("-9 all sites, the middle", at(0.5), Scene.kill_all_sites),
    Fault("-9 a site and the server, the middle", at(0.5), Scene.kill_site_and_server),
    Fault("-9 everything, the middle", at(0.5), Scene.kill_everything),
    Fault("-9 everything, the last rounds", at(0.95), Scene.kill_everything),
]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def tc(*arguments: str) -> None:
    subprocess.run(["tc", "qdisc", *arguments], check=True)


NETWORK = [
    Fault("network cut for 10 s", at(0.3), lambda s: ip("link", "set", "lo", "down"), lambda s: ip("link", "set", "lo", "up"), 10),
    Fault("network cut for 40 s", at(0.3), lambda s: ip("link", "set", "lo", "down"), lambda s: ip("link", "set", "lo", "up"), 40),
    Fault(
        "200 ms and 1 % loss for 30 s", at(0.3),
        lambda s: tc("add", "dev", "lo", "root", "netem", "delay", "100ms", "loss", "1%"),
        lambda s: tc("del", "dev", "lo", "root"), 30,
    ),
    Fault(
        "5 % loss for 30 s", at(0.3), lambda s: tc("add", "dev", "lo", "root", "netem", "loss", "5%"),
        lambda s: tc("del", "dev", "lo", "root"), 30,
    ),
]  # fmt: skip


def small_disk(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)


def unfill(folder: Path) -> None:
    (folder / "filler").unlink()


DISKS = [
    Fault("a site's disk full for 10 s", at(0.3), lambda s: s.fill_disk(s.network.root / "site_2" / "runs"),
          lambda s: unfill(s.network.root / "site_2" / "runs"), 10),
    Fault("the coordinator's disk full for 10 s", at(0.3), lambda s: s.fill_disk(s.network.coordinator / "runs"),
          lambda s: unfill(s.network.coordinator / "runs"), 10),
]  # fmt: skip


def happens(scene: Scene, fault: Fault, number: int) -> str:
    """Make a fault during a run; return what came of it, empty if all is well."""
    network, name = scene.network, f"fault_{number}"
    agreement = Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, rounds=ROUNDS, min_sites=2)
    run = network.begin(name, agreement)
    run.keep_patience(PATIENCE)
    made = mended = float("inf")
    begun = time.monotonic()
    with network.sites_up():
        scene.start(name)
        try:
            while time.monotonic() - begun < GIVE_UP:
                now, status = time.monotonic(), run.status
                if made == float("inf") and fault.due(status):
                    fault.make(scene)
                    made = now
                elif mended == float("inf") and now - made > fault.lasts:
                    fault.mend(scene)
                    mended = now
                assert scene.coordinator is not None
                if scene.coordinator.poll() is not None:
                    if status.state == "finished" and made < float("inf"):
                        break
                    if status.state == "finished":
                        return "the run was over before the fault was due"
                    scene.start(name)
                time.sleep(0.01)
            else:
                return f"not finished after {GIVE_UP:.0f} s: {run.status.state} {run.status.message}"
        finally:
            if mended == float("inf") and made < float("inf") and fault.lasts:
                fault.mend(scene)
            if scene.coordinator is not None:
                scene.coordinator.send_signal(signal.SIGKILL)
                scene.coordinator.wait()
            Daemon(network.coordinator / "kit", SERVER, network.coordinator / "server.log").clear()
    return compared(network, run)


def compared(network: Rehearsal, run: RunFolder) -> str:
    expected, worst = network.expected(run, TASK).model, 0.0
    for site in run.agreement.sites:
        file = network.root / site / "runs" / run.agreement.run / "model.infl.safetensors"
        if not file.exists():
            return f"{site} has no model"
        found = infl.load_model(file).effective(network.key)
        worst = max(worst, *((found[n] - t).abs().max().item() for n, t in expected.effective(network.key).items()))
    return "" if worst <= 1e-6 else f"weights differ by {worst:.1e}"


def main() -> int:
    words = sys.argv[1:]
    isolated = os.environ.get("INFL_FAULTS_ISOLATED") == "1"
    if not isolated and os.geteuid() == 0 and shutil.which("unshare") and shutil.which("tc"):
        command = ["unshare", "--net", "--mount", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {"INFL_FAULTS_ISOLATED": "1"}, check=False).returncode
    faults = [*FAULTS, *(NETWORK + DISKS if isolated else [])]
    if isolated:
        ip("link", "set", "lo", "up")
    else:
        print(f"left out, they need root, unshare and tc: {', '.join(f.name for f in NETWORK + DISKS)}")
    print("left out, the clock is the machine's: off by an hour")
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scene = Scene(Path(folder))
        if isolated:
            small_disk(scene.network.root / "site_2" / "runs")
            small_disk(scene.network.coordinator / "runs")
        for number, fault in enumerate(faults, 1):
            if words and not any(word in fault.name for word in words):
                continue
            begun = time.monotonic()
            wrong = happens(scene, fault, number)
            failed += bool(wrong)
            rows = RunFolder(scene.network.coordinator / "runs" / f"fault_{number}")
            missed = sum(len(row["cohort"]) > len(row["responders"]) for row in rows.exchanges())
            attempts = rows.status.attempts
            shutil.rmtree(rows.folder)  # the small disk is for all of them
            print(
                f"{number:>2} {fault.name:<48} {'ok' if not wrong else 'FAILED'} {time.monotonic() - begun:6.1f} s, "
                f"{attempts} attempts, {missed} exchanges without some site {wrong}",
                flush=True,
            )
    print(f"{failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
