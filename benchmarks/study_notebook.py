"""A notebook between hospitals beside the same in one process: counts to clusters on Papalexi, replicates as sites (docs/performance.md).

``python benchmarks/study_notebook.py``: some minutes. Three sites and the coordinator are processes on this machine, over mutual TLS, under
rules of disclosure; in one process, the same functions under the same rules.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from anndata import AnnData

import infl
from _table import Table
from infl.deploy.flare.local_consortium import LocalConsortium
from infl.deploy.remote import Patience
from infl.deploy.study.consent import SiteStudies
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.keys import Keyring
from infl.privacy import Disclosure, DisclosureRules
from step_overhead import began

STEPS = [
    Step.read("pp.qc_summary", {}),
    Step.read("pp.normalize_total", {"target_sum": 1000}),
    Step.read("pp.log1p", {}),
    Step.read("pp.highly_variable_genes", {"n_top_genes": 100}),
    Step.read("pp.pca", {"n_comps": 20}),
    Step.read("tl.fit_federated", {"model": "classifier", "target": "guide", "rounds": 20}),
    Step.read("tl.cluster", {"n_clusters": 8, "use_rep": "X_pca"}),
]
GROUPS = ("guide",)
"""Whether a cell has a guide against a gene: under rules, a class at a site has half as many cells as features or more."""
POLICY = 'seals = ["pairwise", "group"]\n\n[disclosure]\ngroups = ["guide"]\n'
PATIENCE = Patience(silence=60, repeat=10, consent=300)


def make_sites() -> dict[str, AnnData]:
    """Return the replicates as they come from the sequencer."""
    cells = infl.datasets.papalexi()
    counts = AnnData(cells.layers["counts"].astype(np.float32), obs=cells.obs, var=cells.var)
    counts.obs["guide"] = np.where(counts.obs["perturbation"] == "control", "control", "gene")
    return {name: site.copy() for name, site in infl.pp.split_sites(counts, by="replicate").items()}


def between_machines(folder: Path, key: Keyring) -> tuple[list[float], dict[str, AnnData]]:
    """Return the seconds of each step, and what the sites have at last."""
    network = LocalConsortium(folder, make_sites(), key)
    for site in network.data:
        (folder / site / "policy.toml").write_text(POLICY)
    network.begin_study(Study.new("notebook", [*network.data], STEPS, key.current, key.fingerprint()))
    begun = time.perf_counter()
    with network.sites_up():
        status = network.supervise("notebook", PATIENCE, give_up=1200)
    seconds = time.perf_counter() - begun
    assert (status.state, status.attempts) == ("finished", 1), network.lines
    found, rows = {}, list[Any]()
    for site in network.data:
        home = network.site_folder(site)
        found[site] = SiteStudies(home).result()[1].read()
        rows = rows or home.ledger(home.studies()[0])
    return [*(after - before for before, after in pairwise(began(rows))), seconds], found


def in_process(folder: Path) -> tuple[list[float], dict[str, AnnData]]:
    sites, seconds = make_sites(), []
    with Disclosure(DisclosureRules(groups=GROUPS), folder / "registers"):
        for step in STEPS:
            begun = time.perf_counter()
            step.run(sites)
            seconds.append(time.perf_counter() - begun)
    return seconds, sites


def alike(found: dict[str, AnnData], here: dict[str, AnnData]) -> bool:
    """Whether what no fit has written is the same to the bit; the seed of a fit is drawn anew."""

    def same(a: AnnData, b: AnnData) -> bool:
        tables = all(a.obs[c].equals(b.obs[c].astype(a.obs[c].dtype)) for c in ("total_counts", "infl_cluster"))
        return tables and np.array_equal(a.X.data, b.X.data) and np.array_equal(a.obsm["X_pca"], b.obsm["X_pca"])

    return all(same(found[site], here[site]) for site in here)


def main() -> None:
    warnings.simplefilter("ignore")
    table, key = Table("study_notebook"), Keyring.create()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        steps, found = between_machines(Path(folder), key)
    with tempfile.TemporaryDirectory() as folder:
        here, sites = in_process(Path(folder))
    names = [step.do for step in STEPS]
    more = {
        "step_seconds": dict(zip(names, np.round(steps[:-1], 2).tolist(), strict=True)),
        "process_seconds": dict(zip(names, np.round(here, 2).tolist(), strict=True)),
        "load": os.getloadavg()[0],
    }
    table.add(
        "notebook of 7 steps on Papalexi between three sites, from start to end (s)",
        "<= 180",
        steps[-1],
        ok=steps[-1] <= 180,
        **more,
    )
    ratio = sum(steps[:-1]) / sum(here)
    table.add("notebook of 7 steps on Papalexi: between three sites / in one process", "<= 1.2", ratio, ok=ratio <= 1.2)
    table.add(
        "notebook of 7 steps on Papalexi: same bits but for the fit",
        "1",
        float(alike(found, sites)),
        ok=alike(found, sites),
    )
    table.save()


if __name__ == "__main__":
    main()
