"""What tests over sites cost beside the same tests of the pooled data (docs/markers.md, docs/survival.md).

``python benchmarks/markers.py [cox] [limma] [deseq2] [t_test]`` takes some minutes; ``--short`` takes fewer cells and counts. R's limma and
lifelines are measured where they are installed; pylimma where ``PYLIMMA_PYTHON`` names a Python that has it: it pins an older pandas.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import infl
from _table import Table

REPEATS = 5
LIMMA_SHAPES = ((1_000, 1_000), (1_000, 10_000))
IN_R = """
suppressMessages(library(limma)); x <- t(as.matrix(read.csv("x.csv", header = FALSE))); design <- as.matrix(read.csv("design.csv"))
f <- function() system.time(eBayes(lmFit(x, design)))[["elapsed"]]; f(); cat(f())
"""
IN_PYTHON = """
import time, numpy as np, pylimma
x, design = np.load("x.npy").T, np.load("design.npy")
for _ in range(2):
    begun = time.perf_counter(); pylimma.e_bayes(pylimma.lm_fit(x, design)); taken = time.perf_counter() - begun
print(taken)
"""


def seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def dealt(adata: AnnData) -> dict[str, AnnData]:
    """Rows at four sites, a fixed share each."""
    cuts = np.cumsum((np.array([0.4, 0.3, 0.2]) * adata.n_obs).astype(int))
    parts = np.split(np.arange(adata.n_obs), cuts)
    return {f"site_{i}": adata[rows].copy() for i, rows in enumerate(parts)}


def t_test(table: Table, key: infl.keys.Keyring, n_obs: int, n_vars: int) -> None:
    """Markers of 20 groups of sparse logarithms, sealed."""
    rng = np.random.default_rng(0)
    per_row = n_vars // 20
    columns = np.sort(rng.integers(0, n_vars, (n_obs, per_row), dtype=np.int32), axis=1).ravel()
    values = np.log1p(9 * rng.random(len(columns), dtype=np.float32))
    x = sparse.csr_matrix((values, columns, np.arange(0, len(columns) + 1, per_row)), shape=(n_obs, n_vars))
    x.sum_duplicates()
    groups = pd.Categorical([f"g{i}" for i in rng.integers(0, 20, n_obs)])
    pooled = AnnData(x, obs=pd.DataFrame({"group": groups}, index=[f"c{i}" for i in range(n_obs)]))
    pooled.uns["log1p"] = {"base": None}
    sites = dealt(pooled)
    ours, theirs = [], []
    for _ in range(REPEATS):
        ours.append(seconds(lambda: infl.tl.rank_genes_groups(sites, "group", key=key)))
        theirs.append(seconds(lambda: sc.tl.rank_genes_groups(pooled, "group", method="t-test")))
    ratio = float(np.median(ours) / np.median(theirs))
    what = f"t-test, {n_obs:,} × {n_vars:,}, 20 groups, four sites: time / scanpy's"
    table.add(what, "<= 1.5", ratio, seeds=REPEATS, ok=ratio <= 1.5, seconds=float(np.median(ours)))


def limma(table: Table, key: infl.keys.Keyring, n_obs: int, n_vars: int) -> None:
    """Linear models of proteins, sealed; each program is timed at its second call, in turns."""
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {"condition": rng.choice(["case", "control"], n_obs), "age": rng.uniform(30, 80, n_obs)},
        index=[f"s{i}" for i in range(n_obs)],
    )
    pooled = AnnData(rng.normal(8, 1, (n_obs, n_vars)), obs=obs)
    sites = dealt(pooled)
    infl.tl.de(sites, "~ condition + age", key=key)
    peers = {"R's limma": ["Rscript", "-e", IN_R], "pylimma": [os.environ.get("PYLIMMA_PYTHON", ""), "-c", IN_PYTHON]}
    peers = {name: command for name, command in peers.items() if shutil.which(command[0])}
    taken: dict[str, list[float]] = {"ours": []} | {name: [] for name in peers}
    with tempfile.TemporaryDirectory() as folder:
        design = np.column_stack([np.ones(n_obs), obs["condition"] == "control", obs["age"]]).astype(float)
        place = np.repeat(np.arange(len(sites)), [adata.n_obs for adata in sites.values()])
        design = np.column_stack([design, place[:, None] == np.arange(1, len(sites))])
        np.save(Path(folder) / "x.npy", pooled.X)
        np.save(Path(folder) / "design.npy", design)
        np.savetxt(Path(folder) / "x.csv", pooled.X, delimiter=",", fmt="%.6g")
        pd.DataFrame(design).to_csv(Path(folder) / "design.csv", index=False)
        for _ in range(REPEATS):
            taken["ours"].append(seconds(lambda: infl.tl.de(sites, "~ condition + age", key=key)))
            for name, command in peers.items():
                said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
                taken[name].append(float(said.split()[-1]))
    what = f"limma, {n_vars:,} features × {n_obs:,} samples, four sites"
    table.add(f"{what}: seconds", "reported", float(np.median(taken["ours"])), seeds=REPEATS)
    for name in peers:
        ratio = float(np.median(taken["ours"]) / np.median(taken[name]))
        asked, ok = ("<= 1.2", ratio <= 1.2) if name == "pylimma" else ("reported", None)
        table.add(f"{what}: time / {name}", asked, ratio, seeds=REPEATS, ok=ok)


def deseq2(table: Table, key: infl.keys.Keyring, n_obs: int, n_vars: int) -> None:
    """Negative binomial models of counts, sealed: seconds and sums."""
    rng = np.random.default_rng(2)
    mean = rng.lognormal(4, 1.5, n_vars)
    counts = rng.negative_binomial(5, 5 / (5 + mean), (n_obs, n_vars)).astype(float) + (np.arange(n_vars) < 50)
    obs = pd.DataFrame({"condition": rng.choice(["case", "control"], n_obs)}, index=[f"s{i}" for i in range(n_obs)])
    sites = dealt(AnnData(counts, obs=obs))
    ours = seconds(lambda: infl.tl.de(sites, "~ condition", method="deseq2", key=key))
    table.add(f"DESeq2, {n_vars:,} features × {n_obs:,} samples, four sites: seconds", "reported", ours, seeds=1)


def cox(table: Table, key: infl.keys.Keyring, n_obs: int, p: int) -> None:
    """Cox regression with one baseline, sealed."""
    rng = np.random.default_rng(3)
    obs = pd.DataFrame(rng.normal(size=(n_obs, p)), columns=[f"x{j}" for j in range(p)])
    lived, seen = rng.exponential(10 * np.exp(-0.3 * obs["x0"])), rng.uniform(1, 40, n_obs)
    obs = obs.assign(months=np.minimum(lived, seen), died=(lived <= seen).astype(int))
    obs.index = [f"p{i}" for i in range(n_obs)]
    sites, terms = dealt(ad.AnnData(obs=obs)), " + ".join(f"x{j}" for j in range(p))
    ours = [seconds(lambda: infl.tl.cox(sites, "months", "died", terms, key=key)) for _ in range(REPEATS)]
    what = f"Cox, {n_obs:,} × {p}, four sites"
    if importlib.util.find_spec("lifelines") is None:
        table.add(f"{what}: seconds", "reported", float(np.median(ours)), seeds=REPEATS)
        return
    from lifelines import CoxPHFitter

    theirs = [seconds(lambda: CoxPHFitter().fit(obs, "months", "died")) for _ in range(REPEATS)]
    ratio = float(np.median(ours) / np.median(theirs))
    table.add(
        f"{what}: time / lifelines'", "<= 1.5", ratio, seeds=REPEATS, ok=ratio <= 1.5, seconds=float(np.median(ours))
    )


def main(parts: Sequence[str], *, short: bool) -> None:
    table, key = Table("markers"), infl.keys.Keyring.create()
    if "cox" in parts:
        cox(table, key, 10_000, 20)
    for shape in LIMMA_SHAPES if "limma" in parts else ():
        limma(table, key, *shape)
    if "deseq2" in parts:
        deseq2(table, key, 60, 1_000 if short else 10_000)
    if "t_test" in parts:
        t_test(table, key, *((20_000, 2_000) if short else (100_000, 20_000)))
    table.save()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lifelines").setLevel(logging.ERROR)
    asked = [part for part in sys.argv[1:] if part != "--short"]
    main(asked or ["cox", "limma", "deseq2", "t_test"], short="--short" in sys.argv)
