"""Domains over four, five and six domains, with settings that no label chose: python benchmarks/domains.py [confirm].

Each way has a few settings. Labels choose none of them: for every patient, domains that the other patients teach are held against
those that the patient's section gives alone (adjusted Rand index, mean over patients and 4, 5, 6 domains; prediction strength,
Tibshirani and Walther 2005), and the setting with the most agreement is judged. All ways share the criterion. Rivals see pooled data;
ours goes through :mod:`infl` under the seal. With ``confirm`` the chosen settings are judged, once, on patients E and H. Needs harmonypy.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from functools import cache
from itertools import product

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

import infl
from _evidence import Method, data_file
from _table import RESULTS, Table
from harmony import harmony_of_pooled, mixing
from infl.models.neighbours import averaging, sections_of
from infl.sums import FINE_SCALE, sum_over_sites

DOMAINS, SEEDS = (4, 5, 6), 5
CHOSEN = RESULTS / "raw" / "domains.json"
OURS = "sites: shared axes + Harmony + tree"
KEY = infl.keys.Keyring.create()


class Sections:
    """Sections of all patients, and what is computed from them once."""

    def __init__(self, whole: ad.AnnData) -> None:
        self.sites = infl.pp.split_sites(whole, by="patient")
        self.patient = np.repeat(list(self.sites), [a.n_obs for a in self.sites.values()])
        self.region = np.concatenate([a.obs["region"].astype(str) for a in self.sites.values()])
        self.graphs = {site: sections_of(a, site=site).graph(8) for site, a in self.sites.items()}

    @cache  # noqa: B019 - a few sections live as long as the script
    def values(self, kind: str, hops: int) -> dict[str, np.ndarray]:
        """Logarithms, or roots of shares, of each section (n_obs, n_vars), averaged over neighbours so many times."""
        found = {}
        for site, adata in self.sites.items():
            spots = adata.copy()
            sc.pp.normalize_total(spots, target_sum=1e4)
            x = spots.X.toarray()
            x = np.log1p(x) if kind == "log" else np.sqrt(x / 1e4)
            for _ in range(hops):
                x = averaging(self.graphs[site]) @ x
            found[site] = x.astype(float)
        return found

    def by_site(self, joined: np.ndarray) -> dict[str, np.ndarray]:
        return {site: joined[self.patient == site] for site in self.sites}

    def pooled_pca(self, values: dict[str, np.ndarray], d: int) -> np.ndarray:
        return PCA(d, random_state=0, svd_solver="randomized").fit_transform(np.concatenate(list(values.values())))

    def harmony(self, z: np.ndarray, sigma: float, seed: int) -> np.ndarray:
        return harmony_of_pooled(z, self.patient, seed, sigma=sigma)


def expression(data: Sections, seed: int, d: int) -> np.ndarray:
    return data.pooled_pca(data.values("log", 0), d)


def neighbours(data: Sections, seed: int, hops: int, d: int) -> np.ndarray:
    return data.pooled_pca(data.values("log", hops), d)


def neighbours_harmony(data: Sections, seed: int, hops: int, d: int, sigma: float) -> np.ndarray:
    return data.harmony(neighbours(data, seed, hops, d), sigma, seed)


def banksy(data: Sections, seed: int, own: float, d: int, sigma: float) -> np.ndarray:
    """Own values, means over neighbours, and how these change around the spot (Singhal et al. 2024), weighted; then Harmony."""
    parts = {}
    for site, x in data.values("log", 0).items():
        graph = data.graphs[site].tocoo()
        xy = data.sites[site].obsm["spatial"]
        angle = np.arctan2(*(xy[graph.col] - xy[graph.row]).T[::-1])
        turned = graph.astype(complex)
        turned.data = turned.data * np.exp(1j * angle)
        degree = np.maximum(np.asarray(graph.sum(1)), 1)
        near, gradient = averaging(data.graphs[site], own=0) @ x, np.abs(turned.tocsr() @ x) / degree
        weights = np.sqrt([own, (1 - own) * 2 / 3, (1 - own) / 3])
        parts[site] = [
            w * (v - v.mean(0)) / (v.std(0) + 1e-6) for w, v in zip(weights, (x, near, gradient), strict=True)
        ]
    return data.harmony(data.pooled_pca({site: np.hstack(found) for site, found in parts.items()}, d), sigma, seed)


def layers(data: Sections, seed: int, hops: int, d: int, sigma: float) -> np.ndarray:
    """Harmony of spots, then its means over rings of neighbours side by side, as CellCharter has it (Varrone et al. 2024)."""
    near = data.by_site(data.harmony(expression(data, seed, d), sigma, seed))
    found = []
    for site, z in near.items():
        own = [z]
        for _ in range(hops):
            own.append(averaging(data.graphs[site], own=0) @ own[-1])
        found.append(np.hstack(own))
    return np.concatenate(found)


def shared_axes(data: Sections, seed: int, kind: str, hops: int, d: int, sigma: float) -> np.ndarray:
    """Axes of what varies within sections, each weighing alike; all are seen from the mean of all spots. Harmony. By sums."""
    values = data.values(kind, hops)
    within = {}
    for site, x in values.items():
        centred = x - x.mean(0)
        within[site] = ad.AnnData(centred / np.sqrt((centred**2).sum()))
    total = sum_over_sites(
        {s: {"n": len(x), "sum": x.sum(0)} for s, x in values.items()}, "mean", KEY, scale=FINE_SCALE
    )
    mean = total["sum"] / total["n"]  # Harmony compares directions, so where they begin matters
    infl.pp.pca(within, max(d, 2), key=KEY, dtype="float64", seed=0)
    sites = {
        s: ad.AnnData(obsm={"X_pca": (x - mean) @ within[s].varm["PCs"][:, :d]}, shape=(len(x), 0))
        for s, x in values.items()
    }
    infl.pp.harmony_integrate(sites, sigma=sigma, seed=seed, key=KEY)
    return np.concatenate([sites[site].obsm["X_pca_harmony"] for site in values])


def k_means(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return KMeans(k, n_init=10, random_state=seed).fit_predict(z)


def full_mixture(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return GaussianMixture(k, n_init=2, random_state=seed, reg_covar=1e-3 * z.var(0).mean()).fit_predict(z)


def tree(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The tree, each patient a site."""
    where = np.unique(data.patient, return_inverse=True)[1]
    sites = {str(s): ad.AnnData(obsm={"X": z[where == s]}, shape=((where == s).sum(), 0)) for s in np.unique(where)}
    infl.tl.cluster(sites, k, method="ward", use_rep="X", seed=seed, n_init=2, key=KEY)
    found = np.empty(len(z), dtype=int)
    for site, adata in sites.items():
        found[where == int(site)] = adata.obs["infl_cluster"].astype(int)
    return found


SIGMAS = (0.1, 0.5)
WAYS: dict[str, tuple[Callable, Callable, dict[str, tuple]]] = {
    "expression alone + k-means": (expression, k_means, {"d": (2, 5, 10, 30)}),
    "neighbours + PCA + k-means": (neighbours, k_means, {"hops": (1, 3), "d": (2, 5, 10, 30)}),
    "neighbours + PCA + Harmony + k-means": (
        neighbours_harmony,
        k_means,
        {"hops": (1, 3), "d": (2, 5, 10, 30), "sigma": SIGMAS},
    ),
    "BANKSY-like + Harmony + k-means": (banksy, k_means, {"own": (0.2, 0.8), "d": (5, 20), "sigma": SIGMAS}),
    "CellCharter-like: layers + mixture": (layers, full_mixture, {"hops": (1, 3), "d": (5, 10), "sigma": SIGMAS}),
    OURS: (shared_axes, tree, {"kind": ("log", "share"), "hops": (1, 3), "d": (2, 3, 5, 10), "sigma": (0.5,)}),
}


def strength(data: Sections, z: np.ndarray) -> float:
    """How well what others teach agrees with what a section gives alone. k-means for all ways, as it is the same criterion."""
    found = []
    for k, site in product(DOMAINS, data.sites):
        own = data.patient == site
        taught = KMeans(k, n_init=3, random_state=0).fit(z[~own]).predict(z[own])
        found.append(adjusted_rand_score(taught, KMeans(k, n_init=3, random_state=0).fit_predict(z[own])))
    return float(np.mean(found))


def judged(data: Sections, label: np.ndarray) -> dict[str, float]:
    """ARI and NMI jointly, and the mean over regions of the F1 of the domain that matches best."""
    known = data.region != "undetermined"
    real, found = data.region[known], label[known]
    best = [max(f1_score(real == r, found == c) for c in np.unique(found)) for r in np.unique(real)]
    return {
        "ARI, jointly": adjusted_rand_score(real, found),
        "NMI, jointly": normalized_mutual_info_score(real, found),
        "F1 of the best match": float(np.mean(best)),
    }


def choose(data: Sections, way: str) -> dict:
    """The settings with the most prediction strength; kept in a file, so that an interrupted run goes on."""
    kept = json.loads(CHOSEN.read_text()) if CHOSEN.exists() else {}
    if way not in kept:
        embed, _, grid = WAYS[way]
        settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        scores = [strength(data, embed(data, 0, **one)) for one in settings]
        best = int(np.argmax(scores))
        kept[way] = {"settings": settings[best], "strength": scores[best]}
        CHOSEN.write_text(json.dumps(kept, indent=1) + "\n")
    return kept[way]


def report(table: Table, data: Sections, way: str, domains: tuple[int, ...], where: str = "") -> None:
    """Add the rows of one way, with its settings."""
    chosen = choose(data, way)
    embed, cluster, _ = WAYS[way]
    rows: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        z = embed(data, seed, **chosen["settings"])
        scores = [judged(data, cluster(data, z, k, seed)) for k in domains]
        rows.setdefault("iLISI", []).append(mixing(z, data.patient))
        for metric in scores[0]:
            rows.setdefault(f"{metric}, mean over {domains}", []).append(float(np.mean([s[metric] for s in scores])))
        for k, score in zip(domains, scores, strict=True):
            rows.setdefault(f"ARI, jointly, {k} domains", []).append(score["ARI, jointly"])
    for what, values in rows.items():
        table.add(f"{where}{way}: {what}", "reported", values, settings=chosen["settings"], strength=chosen["strength"])


FILES = (
    "benchmarks/domains.py",
    "src/infl/tl/_tree.py",
    "src/infl/tl/_centres.py",
    "src/infl/pp/_harmony.py",
    "src/infl/pp/_pca.py",
)


def main(confirm: bool) -> None:
    table = Table("domains")
    if confirm:
        settings = {way: found["settings"] for way, found in json.loads(CHOSEN.read_text()).items()}
        whole = ad.read_h5ad(data_file("her2st two more", Method("shared axes, Harmony and tree", FILES, settings)))
        for way in WAYS:
            report(table, Sections(whole), way, (4, 6), "patients E and H: ")
            table.save()
        return
    data = Sections(ad.read_h5ad(data_file("her2st sections")))
    for way in WAYS:
        report(table, data, way, DOMAINS)
        table.save()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    main("confirm" in sys.argv[1:])
