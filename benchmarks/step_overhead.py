"""What a step of a study costs beyond the same function in one process, where its sums are 1 MB (docs/performance.md).

``python benchmarks/step_overhead.py``: a minute. Three sites and the coordinator are processes on this machine, over mutual TLS.
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from anndata import AnnData

from _table import Table
from infl.deploy.flare.local_consortium import LocalConsortium
from infl.deploy.remote import Patience
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.keys import Keyring

STEPS = 8
"""The first one reads the site's own file and writes all of its matrices; it is not counted."""
N_OBS, N_VARS = 30, 8_000
"""Features: mean and variance of each are four numbers in two sums, of 32 bytes each under the seal."""
PATIENCE = Patience(silence=60, repeat=10, consent=300)
POLICY = 'seals = ["pairwise", "group"]\ndisclosure_rules = false\n'


def make_sites() -> dict[str, AnnData]:
    rng, var = np.random.default_rng(0), pd.DataFrame(index=[f"g{j}" for j in range(N_VARS)])
    return {
        f"site_{i}": AnnData(
            rng.normal(size=(N_OBS, N_VARS)).astype(np.float32), obs=pd.DataFrame(index=map(str, range(N_OBS))), var=var
        )
        for i in range(3)
    }


def began(rows: list[dict[str, Any]]) -> list[float]:
    """When a site began each step, from its ledger, and when it began to wait for the study's end."""
    return [at(row) for row in rows if row["kind"].endswith(("names: begin", "names: end"))]


def at(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["time"]).timestamp()


def between_machines(folder: Path) -> tuple[list[float], list[dict[str, Any]]]:
    """Return the seconds of each step, and the rows of a site's ledger."""
    network = LocalConsortium(folder, make_sites(), Keyring.create())
    for site in network.data:
        (folder / site / "policy.toml").write_text(POLICY)
    steps = [Step.read("pp.moments", {})] * STEPS
    study = Study.new("overhead", [*network.data], steps, network.key.current, network.key.fingerprint())
    network.begin_study(study)
    with network.sites_up():
        status = network.supervise("overhead", PATIENCE, give_up=600)
    assert (status.state, status.attempts) == ("finished", 1), network.lines
    site = network.site_folder("site_0")
    [where] = site.studies()
    rows = site.ledger(where)
    return np.diff(began(rows)).tolist(), rows


def in_process() -> list[float]:
    """Return the seconds of each step."""
    sites, seconds = make_sites(), []
    for _ in range(STEPS):
        begun = time.perf_counter()
        Step.read("pp.moments", {}).run(sites)
        seconds.append(time.perf_counter() - begun)
    return seconds


def exchanges(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median milliseconds between what a site sent and what it sent next, by what it sent."""
    found: dict[str, list[float]] = {}
    for row, after in pairwise(rows):
        found.setdefault(row["kind"].partition(", ")[2], []).append(1000 * (at(after) - at(row)))
    return {kind: round(float(np.median(values[1:] or values)), 1) for kind, values in found.items()}


def main() -> None:
    table = Table("step_overhead")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        steps, rows = between_machines(Path(folder))
    here = in_process()
    beyond = float(np.median(steps[1:]) - np.median(here[1:]))
    sent = max(sum(r["bytes"] for r in rows if f"step {n}, " in r["kind"]) for n in range(1, STEPS + 1)) / 1e6
    table.add(
        f"a step of a study whose sums are {sent:.1f} MB, beyond the same in one process (s, median of {STEPS - 1})", "<= 0.5",
        beyond, seeds=1, ok=beyond <= 0.5, step_seconds=steps, process_seconds=here, milliseconds=exchanges(rows),
        load=os.getloadavg()[0],
    )  # fmt: skip
    table.save()


if __name__ == "__main__":
    main()
