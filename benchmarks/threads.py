"""A small model on one thread, and on as many as there are cores: what waiting costs where the cores have other work, too.

With ``GOMP_SPINCOUNT=0`` in the environment threads sleep while they wait, and the rows say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import torch

import infl
from _table import Table
from infl import _threads

REPEATS = 5


def fit(threads: int) -> tuple[float, float]:
    """Return a fit's time on the clock, and the processor's."""
    torch.set_num_threads(threads)
    sites = infl.datasets.khan_sites()
    begun, worked = time.perf_counter(), time.process_time()
    infl.tl.fit_federated(sites, target="tumour_class", rounds=3, progress=False)
    return time.perf_counter() - begun, time.process_time() - worked


def main() -> None:
    _threads.SMALL = 0  # as the user has set it, whatever the size
    table, cores = Table("threads"), _threads.cores()
    waiting = ", threads that sleep" if os.environ.get("GOMP_SPINCOUNT") == "0" else ""
    fit(1), fit(cores)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        pairs = [(fit(cores), fit(1)) for _ in range(REPEATS)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    for i, what in enumerate(("on the clock", "of the processor")):
        ratio = [many[i] / one[i] for many, one in pairs]
        table.add(f"busy cores, {cores} threads / one: time {what}{waiting}", "measured", ratio)
    table.save()


if __name__ == "__main__":
    main()
