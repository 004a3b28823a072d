"""Time of a fit against sites, weights, samples and features, for performance.py: ``python _slopes.py WHAT``."""

from __future__ import annotations

import json
import sys
import time

import anndata
import numpy as np
import pandas as pd
import torch

from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.keys import Keyring
from infl.models import Classifier

BASE = {"sites": 4, "width": 64, "samples": 500, "features": 200}
"""What is not varied."""
SIZES = {
    "sites": (8, 32, 128, 512),
    "weights": (256, 512, 1024, 2048),  # widths
    "samples": (500, 2000, 8000, 32000),
    "features": (500, 2000, 8000, 32000),
}
REPEATS = 2


def fit(sites: int, width: int, samples: int, features: int) -> tuple[float, int]:
    """Return processor seconds of two rounds, and the number of weights."""
    rng, tables = np.random.default_rng(0), {}
    for number in range(sites):
        x = rng.normal(size=(samples, features)).astype(np.float32)
        obs = pd.DataFrame(
            {"y": pd.Categorical(np.where(x[:, 0] > 0, "a", "b"))}, index=[str(i) for i in range(samples)]
        )
        tables[f"site_{number}"] = anndata.AnnData(x, obs=obs)
    task, key = Classifier(target="y", width=width), Keyring.create()
    panel, seconds = task.agree(tables), []
    for _ in range(REPEATS):
        agreement = Agreement.new(task, panel, tables, key, rounds=2)
        begun = time.process_time()
        outcome = run_in_process(agreement, task, tables, key)
        seconds.append(time.process_time() - begun)
    return min(seconds), outcome.replica.flat_model.shared.total


def main(what: str) -> None:
    torch.set_num_threads(1)
    fit(**BASE)  # imports and caches
    points = []
    for size in SIZES[what]:
        settings = {"sites": {"sites": size, "samples": 64}, "weights": {"width": size, "samples": 100}}
        seconds, weights = fit(**BASE | settings.get(what, {what: size}))
        points.append({"seconds": seconds, "size": weights if what == "weights" else size})
    print(json.dumps(points))


if __name__ == "__main__":
    main(sys.argv[1])
