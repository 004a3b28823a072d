"""Fits on data that stay on disk, for performance.py.

``python _backed.py make FOLDER CELLS`` writes four sites of synthetic counts; ``python _backed.py fit FOLDER MODEL WHERE`` fits
on them where they are (``disk``) or after reading them (``memory``), and prints memory and time as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import infl
from _memory import resident

sys.path.remove(str(Path(__file__).resolve().parent))  # a benchmark is called scvi, as a package is
N_SITES, N_GENES, N_TYPES, CHUNK = 4, 2000, 12, 4096


def counts(rng: np.random.Generator, profiles: np.ndarray, types: np.ndarray) -> sparse.csr_matrix:
    """Poisson counts about a profile a type, depths log-normal; some 7 % of entries are not 0."""
    depth = rng.lognormal(5.2, 0.5, size=(len(types), 1))
    return sparse.csr_matrix(rng.poisson(depth * profiles[types]).astype(np.float32))


def make(folder: Path, n_cells: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(0.25, size=N_GENES) + 1e-3
    profiles = base * rng.lognormal(0, 1.0, size=(N_TYPES, N_GENES))
    profiles /= profiles.sum(1, keepdims=True)
    for number in range(N_SITES):
        n = n_cells // N_SITES
        types = rng.integers(N_TYPES, size=n)
        of_site = profiles * rng.lognormal(0, 0.2, size=N_GENES)
        of_site /= of_site.sum(1, keepdims=True)
        x = sparse.vstack([counts(rng, of_site, types[at : at + CHUNK]) for at in range(0, n, CHUNK)], format="csr")
        obs = pd.DataFrame(
            {"type": pd.Categorical([f"t{t}" for t in types])}, index=[f"{number}_{i}" for i in range(n)]
        )
        table = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
        table.write_h5ad(folder / f"site_{number}.h5ad")
    print(json.dumps({"density": x.nnz / np.prod(x.shape), "megabytes_in_memory": N_SITES * (x.data.nbytes * 2) / 1e6}))


def fit(folder: Path, model: str, where: str) -> None:
    torch.set_num_threads(1)
    backed = "r" if where == "disk" else None
    sites = {path.stem: anndata.read_h5ad(path, backed=backed) for path in sorted(folder.glob("*.h5ad"))}
    options = {"target": "type"} if model == "classifier" else {}
    options |= {"batch_size": 128, "seed": 0, "progress": False}
    if model == "scvi":
        options["n_hidden"] = 64
    begun, wall = time.process_time(), time.perf_counter()
    run = infl.tl.fit_federated(sites, model, rounds=1, **options)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - wall,
                "round_seconds": sum(run.history.attrs["seconds"]),
                "processor": time.process_time() - begun,
                "peak": resident()[1],
                "model": 4 * sum(t.numel() for t in run.model.stored.values()),
                "loss": float(run.history["val_loss"].iloc[-1]),
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        fit(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
