"""What a fit loses that goes on from a model: 10 rounds and then 10 more beside 20 (docs/guide/model_lives_on.md).

``python benchmarks/warm_start.py [khan] ["breast rna"]``. The validation parts are those of the seed, in all three fits of a seed.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import infl
from _evidence import paired
from _table import Table
from panels import panel_sites

SEEDS = range(20)
MARGIN = 0.01
METRICS, SHARE = ("balanced_accuracy", "loss"), 0.2
DATA = ("khan", "breast rna")


def measure(table: Table, data: str) -> None:
    """Add the rows of a data set."""
    sites, target = panel_sites(data)
    fits = ("10 rounds", "20 rounds", "10 and 10 rounds")
    found: dict[str, dict[str, list[float]]] = {metric: {name: [] for name in fits} for metric in METRICS}
    for seed in SEEDS:
        key = infl.keys.Keyring.create()
        options = {"target": target, "key": key, "seed": seed, "progress": False}
        first = infl.tl.fit_federated(sites, rounds=10, **options)
        whole = infl.tl.fit_federated(sites, rounds=20, **options)
        again = infl.tl.fit_federated(sites, init=first.model, key=key, rounds=10, progress=False)
        for name, run in zip(fits, (first, whole, again), strict=True):
            best = run.history[run.history["best"]].iloc[0]
            for metric in METRICS:
                found[metric][name].append(float(best[f"val_{metric}"]))
        print(f"{data}, seed {seed}: {[values[-1] for values in found['loss'].values()]}", flush=True)
    for metric, of_fit in found.items():
        for name, values in of_fit.items():
            table.add(f"{data}: {metric} on the validation part, {name}", "reported", values)
        difference = paired(np.array(of_fit[fits[2]]), np.array(of_fit[fits[1]]), "resplit", test_share=SHARE)
        asked, ok = (
            ("reported", None) if metric == "loss" else (f"mean within {MARGIN:g}", abs(difference.value) <= MARGIN)
        )
        table.estimate(f"{data}: {metric}, 10 and 10 rounds against 20", asked, difference, data=data, ok=ok)


if __name__ == "__main__":
    results = Table("warm_start")
    for chosen in sys.argv[1:] or DATA:
        measure(results, chosen)
    results.save()
