"""Fits on data that stay on disk, for performance.py.

``python _backed.py make FOLDER CELLS`` writes four sites of synthetic counts as h5ad, ``zarr`` in place of ``make`` as zarr in
shards, cell by cell as they are made; ``python _backed.py fit FOLDER MODEL WHERE`` fits on them where they are (``disk``) or after
reading them (``memory``), and prints memory and time as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
import zarr
from scipy import sparse

import infl
from _memory import resident

sys.path.remove(str(Path(__file__).resolve().parent))  # a benchmark is called scvi, as a package is
N_SITES, N_GENES, N_TYPES, CHUNK = 4, 2000, 12, 4096
POOL = 16
"""Chunks of different cells in a zarr store; after them the cells come again, in another order."""
READ, SHARD = 1 << 15, 1 << 22
"""Stored values in a chunk of zarr, some 250 cells', and in a shard, which is one file."""


def counts(rng: np.random.Generator, profiles: np.ndarray, types: np.ndarray) -> sparse.csr_matrix:
    """Poisson counts about a profile a type, depths log-normal; some 7 % of entries are not 0."""
    depth = rng.lognormal(5.2, 0.5, size=(len(types), 1))
    return sparse.csr_matrix(rng.poisson(depth * profiles[types]).astype(np.float32))


def profiles_of(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield each site's profiles of the types (N_TYPES, N_GENES)."""
    base = rng.gamma(0.25, size=N_GENES) + 1e-3
    profiles = base * rng.lognormal(0, 1.0, size=(N_TYPES, N_GENES))
    for _ in range(N_SITES):
        of_site = profiles * rng.lognormal(0, 0.2, size=N_GENES)
        yield of_site / of_site.sum(1, keepdims=True)


def make(folder: Path, n_cells: int) -> None:
    rng = np.random.default_rng(0)
    for number, of_site in enumerate(profiles_of(rng)):
        n = n_cells // N_SITES
        types = rng.integers(N_TYPES, size=n)
        x = sparse.vstack([counts(rng, of_site, types[at : at + CHUNK]) for at in range(0, n, CHUNK)], format="csr")
        obs = pd.DataFrame(
            {"type": pd.Categorical([f"t{t}" for t in types])}, index=[f"{number}_{i}" for i in range(n)]
        )
        table = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
        table.write_h5ad(folder / f"site_{number}.h5ad")
    print(json.dumps({"density": x.nnz / np.prod(x.shape), "megabytes_in_memory": N_SITES * (x.data.nbytes * 2) / 1e6}))


def make_zarr(folder: Path, n_cells: int) -> None:
    """Write sites of which no more than the pool and a shard is in memory."""
    rng, n = np.random.default_rng(0), n_cells // N_SITES
    for number, of_site in enumerate(profiles_of(rng)):
        pool = [(types, counts(rng, of_site, types)) for types in rng.integers(N_TYPES, size=(POOL, CHUNK))]
        group = zarr.open_group(folder / f"site_{number}.zarr", mode="w", zarr_format=3)
        stored = group.create_group("X")
        stored.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n, N_GENES]})
        values, columns = Growing(stored, "data", "float32"), Growing(stored, "indices", "int32")
        seen, lengths = [], []
        for at in range(0, n, CHUNK):
            types, cells = pool[at // CHUNK % POOL]
            order = rng.permutation(CHUNK)[: n - at]
            rows = cells[order]
            values.add(rows.data)
            columns.add(rows.indices)
            seen.append(types[order].astype(np.int8))
            lengths.append(np.diff(rows.indptr))
        values.close()
        columns.close()
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
        stored.create_array("indptr", data=indptr)
        of_type = pd.Categorical.from_codes(np.concatenate(seen), [f"t{t}" for t in range(N_TYPES)])
        obs = pd.DataFrame({"type": of_type}, index=[f"{number}_{i}" for i in range(n)])
        anndata.io.write_elem(group, "obs", obs)
        anndata.io.write_elem(group, "var", pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(json.dumps({"density": indptr[-1] / n / N_GENES, "gigabytes_on_disk": size / 1e9}))


class Growing:
    """An array of a zarr group that grows by whole shards."""

    def __init__(self, group: zarr.Group, name: str, dtype: str) -> None:
        self._array = group.create_array(name, shape=(0,), dtype=dtype, chunks=(READ,), shards=(SHARD,))
        self._waiting: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        self._waiting.append(values)
        if sum(map(len, self._waiting)) >= SHARD:
            held = np.concatenate(self._waiting)
            whole = len(held) // SHARD * SHARD
            self._array.append(held[:whole])
            self._waiting = [held[whole:]]

    def close(self) -> None:
        self._array.append(np.concatenate(self._waiting))


def opened(path: Path, where: str) -> anndata.AnnData:
    """Return a site's cells as they lie, or in memory."""
    if path.suffix == ".h5ad":
        return anndata.read_h5ad(path, backed="r" if where == "disk" else None)
    group = zarr.open_group(path, mode="r")
    obs, var = (anndata.io.read_elem(group[name]) for name in ("obs", "var"))
    x = anndata.io.sparse_dataset(group["X"])
    return anndata.AnnData(x if where == "disk" else x.to_memory(), obs=obs, var=var)


def fit(folder: Path, model: str, where: str) -> None:
    torch.set_num_threads(1)
    sites = {path.stem: opened(path, where) for path in sorted(folder.glob("site_*"))}
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
    if sys.argv[1] in ("make", "zarr"):
        (make if sys.argv[1] == "make" else make_zarr)(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        fit(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
