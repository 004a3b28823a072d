"""Harmony over sites beside harmonypy on the pooled data: python benchmarks/harmony.py [QUESTION …]; needs harmonypy.

Mixing is iLISI, 0 (batches apart) to 1 (as in the whole), by harmonypy's own function; agreement with types or regions is the
adjusted Rand index of k-means. harmonypy and Harmony over sites run with their defaults, from the same principal components.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import cache

import anndata as ad
import harmonypy
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import infl
from _table import Table, ratios
from infl.pp import _harmony, _sphere
from panels import HERE, use_data_folder

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "5"))
KEY = infl.keys.Keyring.create()
NAMES = {"stem cells": ("study", "cell_type", 3), "HER2 sections": ("patient", "region", 4)}
N_COMPS = 30


@cache
def whole(name: str) -> ad.AnnData:
    """Logarithms of real data with 30 principal components; spots without a region are left out of the agreement."""
    use_data_folder()
    adata = infl.datasets.stemcells() if name == "stem cells" else infl.datasets.her2st_labelled()
    if name != "stem cells":
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    sc.pp.pca(adata, N_COMPS)
    return adata


def harmony_of_pooled(x: np.ndarray, batch: np.ndarray, seed: int, **options: float) -> np.ndarray:
    found = harmonypy.run_harmony(
        x, pd.DataFrame({"batch": batch}), "batch", random_state=seed, verbose=False, **options
    )
    result = np.asarray(found.Z_corr)
    return result if result.shape == x.shape else result.T


def harmony_of_sites(
    x: np.ndarray, batch: np.ndarray, seed: int, *, where: np.ndarray | None = None, **options: float
) -> np.ndarray:
    """Corrected coordinates; each batch is a site, or sites are as they are said to be."""
    where = batch if where is None else where
    rows = {str(site): np.flatnonzero(where == site) for site in np.unique(where)}
    obs = pd.DataFrame({"batch": batch.astype(str)}, index=[str(i) for i in range(len(x))])
    sites = {site: ad.AnnData(obs=obs.iloc[of], obsm={"X_pca": x[of]}, shape=(len(of), 0)) for site, of in rows.items()}
    infl.pp.harmony_integrate(sites, "batch", random_state=seed, key=KEY, **options)
    result = np.empty_like(x, dtype=float)
    for site, of in rows.items():
        result[of] = sites[site].obsm["X_pca_harmony"]
    return result


def mixing(x: np.ndarray, batch: np.ndarray) -> float:
    """Mean iLISI, scaled to 0 … 1."""
    perplexity = min(30, len(x) // 10)
    lisi = harmonypy.compute_lisi(x, pd.DataFrame({"batch": batch}), ["batch"], perplexity=perplexity)
    return float((lisi.mean() - 1) / (len(np.unique(batch)) - 1))


def agreement(x: np.ndarray, truth: np.ndarray, k: int) -> float:
    known = truth != "undetermined"
    return float(adjusted_rand_score(truth[known], KMeans(k, n_init=10, random_state=0).fit_predict(x)[known]))


def beside_harmonypy(table: Table) -> None:
    """Mixing and agreement of both, over seeds, with the default width of clusters and a larger one."""
    for name, (by, types, k) in NAMES.items():
        adata = whole(name)
        x, batch, truth = adata.obsm["X_pca"], *(adata.obs[column].astype(str).to_numpy() for column in (by, types))
        table.add(f"{name}, before: iLISI", "reported", mixing(x, batch))
        table.add(f"{name}, before: ARI", "reported", agreement(x, truth, k))
        for sigma in (0.1, 0.5):
            theirs = [harmony_of_pooled(x, batch, seed, sigma=sigma) for seed in range(SEEDS)]
            ours = [harmony_of_sites(x, batch, seed, sigma=sigma) for seed in range(SEEDS)]
            what = f"{name}, sigma {sigma}"
            compare(table, what, "iLISI", [[mixing(z, batch) for z in runs] for runs in (theirs, ours)])
            compare(table, what, "ARI", [[agreement(z, truth, k) for z in runs] for runs in (theirs, ours)])
            one_site = harmony_of_sites(x, batch, 0, where=np.zeros(len(x), dtype=int), sigma=sigma)
            difference = float(np.abs(ours[0] - one_site).max())
            what = f"{what}: largest difference of sites and one site with all cells"
            table.add(what, "≤ 1e-6", difference, ok=difference <= 1e-6)


def compare(table: Table, what: str, metric: str, values: list[list[float]]) -> None:
    """Rows of harmonypy and infl; the mean of ours is to lie within harmonypy's smallest and largest."""
    theirs, ours = values
    low, high = min(theirs), max(theirs)
    table.add(f"{what}, harmonypy: {metric}", "reported", theirs)
    table.add(
        f"{what}, infl: {metric}", f"in {low:.3f} … {high:.3f}", ours, ok=bool(low <= np.mean(ours) <= high), each=ours
    )


def made(n: int = 100_000, d: int = N_COMPS) -> tuple[np.ndarray, np.ndarray]:
    """Twenty types of cells in five batches."""
    rng = np.random.default_rng(0)
    batch, types = rng.integers(0, 5, n), rng.integers(0, 20, n)
    x = rng.normal(size=(20, d))[types] * 3 + rng.normal(size=(5, d))[batch] + rng.normal(size=(n, d))
    return x * np.linspace(3, 0.5, d), batch


def time_taken(table: Table) -> None:
    """100,000 × 30: five sites with a batch each, sealed, beside harmonypy; both with one thread, and with those it takes."""
    x, batch = made()
    timed = ratios(lambda: harmony_of_sites(x, batch, 0), lambda: harmony_of_pooled(x, batch, 0), repeats=SEEDS)
    table.add("100,000 × 30: time, infl / harmonypy", "≤ 2", timed, ok=bool(np.mean(timed) <= 2))
    table.add(
        "100,000 × 30, infl: iLISI of every 50th", "reported", mixing(harmony_of_sites(x, batch, 0)[::50], batch[::50])
    )
    table.add(
        "100,000 × 30, harmonypy: iLISI of every 50th",
        "reported",
        mixing(harmony_of_pooled(x, batch, 0)[::50], batch[::50]),
    )


def sums_taken(table: Table) -> None:
    """How many sums are added over sites, and how many numbers a site sends."""
    for name, (x, batch) in {
        "stem cells": (whole("stem cells").obsm["X_pca"], whole("stem cells").obs["study"].astype(str).to_numpy()),
        "20,000 × 30": made(20_000),
    }.items():
        sent: list[int] = []
        for module in (_harmony, _sphere):
            module.run_sums = counting(infl.sums.run_sums, sent)
        harmony_of_sites(x, batch, 0)
        for module in (_harmony, _sphere):
            module.run_sums = infl.sums.run_sums
        table.add(f"{name}: sums over sites", "reported", len(sent))
        table.add(f"{name}: numbers that a site sends, in all", "reported", sum(sent))


def counting(run_sums, sent: list[int]):
    def counted(sums, *args, **options):
        for one in sums:
            sent.extend([sum(int(np.prod(shape)) for shape in one.shapes.values())] * one.steps)
        return run_sums(sums, *args, **options)

    return counted


def picture() -> None:
    """The figure of the page: four studies of three types of cells, before and after."""
    adata = whole("stem cells")
    study, types = (adata.obs[column].astype(str).to_numpy() for column in ("study", "cell_type"))
    shown = {"before": adata.obsm["X_pca"]}
    shown |= {f"after, sigma={sigma}": harmony_of_sites(shown["before"], study, 0, sigma=sigma) for sigma in (0.1, 0.5)}
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    for row, (labels, what) in enumerate(((study, "study"), (types, "type of cell"))):
        for ax, (when, x) in zip(axes[row], shown.items(), strict=True):
            for label in np.unique(labels):
                ax.scatter(*x[labels == label, :2].T, s=14, label=label)
            ax.set(title=when, xticks=[], yticks=[], xlabel="component 1", ylabel="component 2")
        axes[row, 2].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), title=what)
    figure.savefig(HERE.parents[1] / "docs" / "_static" / "harmony.png", dpi=110)


QUESTIONS = {"harmonypy": beside_harmonypy, "time": time_taken, "sums": sums_taken}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("harmonypy").setLevel(logging.ERROR)
    table = Table("harmony")
    for question in sys.argv[1:] or QUESTIONS:
        QUESTIONS[question](table)
        table.save()
    picture()
