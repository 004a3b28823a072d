"""Fits when it is asked to, for rounds.py: ``python _fits_on_demand.py CASE`` prints the processor seconds of one fit for each line that it reads.

The package is whichever is on the path: of today, or of an earlier revision.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

import infl
from infl.keys import Keyring
from panels import panel_sites

N_FEATURES, WIDTH = 400, 460
"""Of a classifier with a million weights."""


def drawn_sites(n_sites: int, n_obs: int) -> dict[str, anndata.AnnData]:
    """Return sites with two classes and features enough for a large classifier."""
    rng, sites = np.random.default_rng(0), {}
    for i in range(n_sites):
        x = rng.normal(size=(n_obs, N_FEATURES)).astype(np.float32)
        labels = pd.Categorical(np.where(x[:, 0] > 0, "a", "b"))
        sites[f"site_{i + 1}"] = anndata.AnnData(
            x, obs=pd.DataFrame({"y": labels}, index=[f"{i}_{j}" for j in range(n_obs)])
        )
    return sites


def case(name: str) -> tuple[dict[str, anndata.AnnData], dict[str, Any]]:
    """Return sites and settings of a fit."""
    if name == "khan":
        sites, target = panel_sites("khan")
        return sites, {"target": target, "rounds": 20}
    return drawn_sites(3, 1000), {"target": "y", "width": WIDTH, "batch_size": 128, "rounds": 2, "local_epochs": 5}


def main(name: str) -> None:
    torch.set_num_threads(1)
    sites, settings = case(name)
    key = Keyring.create()
    for _ in sys.stdin:
        begun = time.process_time()
        infl.tl.fit_federated(sites, key=key, progress=False, **settings)
        print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
