"""Between machines: a round's overhead, 100 MB beside bare FLARE, memory over a long run (docs/deploy.md).

``python benchmarks/flare.py [overhead] [large] [soak]``. All participants are processes on this machine, over mutual TLS.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))

import numpy as np
import pandas as pd
import psutil
from anndata import AnnData

import _bare_flare
from _table import Table
from infl.deploy.flare.console import Console
from infl.deploy.flare.daemon import SERVER_PROCESS, Daemon
from infl.deploy.flare.job import write_job
from infl.deploy.flare.local_consortium import LocalConsortium
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Transport
from infl.federation.initial import build_flat_model
from infl.federation.local import run_in_process
from infl.federation.messages import Plan, Reply
from infl.federation.seeds import new_seed
from infl.keys import Keyring
from infl.models import Classifier
from infl.models.registry import task_from_json

PATIENCE = Patience(silence=60, repeat=10, first=600, least=600, consent=300)


def make_sites(n_sites: int, n_vars: int) -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(0), {}
    var = pd.DataFrame(index=[f"g{j}" for j in range(n_vars)])
    for i in range(n_sites):
        y = np.arange(24) % 3
        obs = pd.DataFrame({"label": pd.Categorical.from_codes(y, ["a", "b", "c"])}, index=[f"{i}_{j}" for j in y])
        obs.index = [f"{i}_{j}" for j in range(len(y))]
        x = (rng.normal(size=(len(y), n_vars)) + y[:, None]).astype(np.float32)
        sites[f"site_{i + 1}"] = AnnData(x, obs=obs, var=var)
    return sites


def agree(network: LocalConsortium, width: int, rounds: int) -> tuple[Agreement, float]:
    """Return a run and its megabytes of weights."""
    task = Classifier(target="label", width=width, n_blocks=1, batch_size=64)
    own: dict[str, Any] = {"rounds": rounds, "seal": "pairwise", "seed": new_seed()}  # sites train once with a seed
    agreement = Agreement.new(task, task.agree(network.data), network.data, network.key, **own)
    return agreement, 4e-6 * build_flat_model(task, agreement).shared.total


def rounds_of(run: RunFolder) -> pd.Series:
    """Seconds of each round but the first."""
    return pd.Series([row["seconds"] for row in run.exchanges() if row["round"] > 1])


class Watch:
    """A line that notes how long each site of one process takes; between machines nobody learns it."""

    def __init__(self, inner: Transport) -> None:
        self.inner, self.holder = inner, inner.holder
        self.seconds: dict[int, list[float]] = {}

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        for site in cohort:
            plan = plan_for(site)
            clock = time.perf_counter()
            replies = list(self.inner.ask((site,), lambda _, plan=plan: plan))
            self.seconds.setdefault(plan.round, []).append(time.perf_counter() - clock)
            yield from replies


def work_of(agreement: Agreement, network: LocalConsortium) -> float:
    """Seconds that the slowest site's own work takes in a round, one site after the other in one process (median)."""
    watch: list[Watch] = []
    task = task_from_json(agreement.task, agreement.options)
    run_in_process(
        replace(agreement, run=os.urandom(16).hex()), task, network.data, network.key, stacked=False,
        wrap=lambda line: watch.append(Watch(line)) or watch[0],
    )  # fmt: skip
    return float(np.median([max(seconds) for number, seconds in watch[0].seconds.items() if number > 1]))


def fit(network: LocalConsortium, name: str, width: int, rounds: int) -> tuple[pd.Series, float, float]:
    """Return the seconds of the rounds, those of the slowest site's work in one, and the megabytes of weights."""
    agreement, size = agree(network, width, rounds)
    run = network.begin(name, agreement)
    with network.sites_up():
        status = network.supervise(name, PATIENCE, give_up=900)
    assert (status.state, status.attempts) == ("finished", 1), network.lines
    return rounds_of(run), work_of(agreement, network), size


def bare(network: LocalConsortium, n: int, rounds: int) -> list[float]:
    """Seconds of rounds of bare FLARE with `n` floats, at the same participants."""
    for kit, name in (("coordinator", _bare_flare.CONTROLLER), *((s, _bare_flare.EXECUTOR) for s in network.data)):
        path = network.root / kit / "kit" / "local" / "resources.json"
        allowed = json.loads(path.read_text())
        allowed["class_allow_list"].append(name)
        path.write_text(json.dumps(allowed))
    out = network.root / "bare.json"
    job = write_job(network.root / "bare", "bare", [*network.data], min_sites=len(network.data), patience=PATIENCE)
    for side, key in (("server", "workflows"), ("client", "executors")):
        path = job / "infl" / "config" / f"config_fed_{side}.json"
        config = json.loads(path.read_text())
        if side == "server":
            config[key] = [
                {"id": "x", "path": _bare_flare.CONTROLLER, "args": {"n": n, "rounds": rounds, "out": str(out)}}
            ]
        else:
            config[key][0]["executor"] = {"path": _bare_flare.EXECUTOR, "args": {}}
        path.write_text(json.dumps(config))
    daemon = Daemon(network.coordinator / "kit", SERVER_PROCESS, network.coordinator / "server.log")
    console = Console(network.coordinator / "admin")
    try:
        with network.sites_up():
            daemon.ensure()
            console.wait_for_sites(network.data, seconds=180)
            state = console.wait_for_end(console.submit(job) or "", seconds=900)
            assert state == "FINISHED:COMPLETED", state
    finally:
        console.close()
        daemon.stop()
    return json.loads(out.read_text())[1:]


def overhead(table: Table, root: Path) -> None:
    network = LocalConsortium(root, make_sites(3, 2000), Keyring.create())
    rounds, work, size = fit(network, "overhead", 448, 40)
    beyond = float(rounds.median()) - work
    table.add(
        f"overhead of a round, {size:.1f} MB, 3 sites, beyond the slowest site's work (s, median)", "<= 0.5", beyond,
        ok=beyond <= 0.5, round_seconds=float(rounds.median()), work_seconds=work,
        rounds=len(rounds),
    )  # fmt: skip


def large(table: Table, root: Path) -> None:
    network = LocalConsortium(root, make_sites(3, 10_000), Keyring.create())
    rounds, work, size = fit(network, "large", 2000, 5)
    beyond = float(rounds.median()) - work
    plain = bare(network, int(size * 1e6 / 4), 5)
    ratio = beyond / float(np.median(plain))
    table.add(
        f"{size:.0f} MB, 3 sites: a round beyond the slowest site's work / bare FLARE's round with a plain array", "<= 1.2",
        ratio, ok=ratio <= 1.2, seconds_beyond_work=beyond, bare_seconds=float(np.median(plain)),
        round_seconds=float(rounds.median()), work_seconds=work, rounds=len(rounds),
    )  # fmt: skip


def role(command: list[str], root: Path) -> str:
    """Return whose process it is, and whether it is the job's."""
    who = next(Path(word).relative_to(root).parts[0] for word in command if word.startswith(str(root)))
    return f"{who}, job" if any("worker_process" in word or "runner_process" in word for word in command) else who


def soak(table: Table, root: Path, rounds: int = 1000) -> None:
    """Memory of every process, from round 100 to the end."""
    network = LocalConsortium(root, make_sites(5, 50), Keyring.create())
    agreement, _ = agree(network, 8, rounds)
    run = network.begin("soak", agreement)
    samples: list[tuple[int, dict[str, float]]] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            sizes = {
                role(p.info["cmdline"], root): p.memory_info().rss / 1e6
                for p in psutil.process_iter(["cmdline"])
                if any(str(root) in word for word in p.info["cmdline"] or ())
                and "nvflare" in " ".join(p.info["cmdline"])
            }
            samples.append((run.status.round, sizes))

    watcher = threading.Thread(target=sample)
    watcher.start()
    with network.sites_up():
        status = network.supervise("soak", PATIENCE, give_up=900)
    over.set()
    watcher.join()
    assert status.state == "finished", network.lines
    parts = [[sizes for r, sizes in samples if begin <= r < begin + 100] for begin in (100, 300, 500, 700, 900)]
    names = set.intersection(*(set(sizes) for part in parts for sizes in part))
    megabytes = {n: [round(float(np.median([sizes[n] for sizes in part])), 1) for part in parts] for n in sorted(names)}
    growth = {name: values[-1] / values[0] - 1 for name, values in megabytes.items()}
    worst = max(growth.values(), key=abs)
    table.add(
        f"{rounds} rounds, 5 sites: largest change of a process's memory after round 100", "<= 0.05", worst,
        ok=abs(worst) <= 0.05, median_megabytes_in_100_rounds_from_100_300_500_700_900=megabytes, attempts=status.attempts,
        seconds_of_a_round=float(np.median([r["seconds"] for r in run.exchanges() if r["round"]])),
    )  # fmt: skip


def main() -> None:
    parts = {"overhead": overhead, "large": large, "soak": soak}
    table = Table("flare")
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            parts[name](table, Path(folder))
        table.save()


if __name__ == "__main__":
    main()
