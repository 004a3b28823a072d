"""Spatial domains on four HER2-positive tumours, each at a site of its own: python benchmarks/spatial.py [QUESTION …].

Domains are found without the pathologist's regions and then held against them, spots that are "undetermined" left out.
Harmony and iLISI need harmonypy.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import cache

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

import infl
from _table import Table
from harmony import mixing
from infl.keys import Keyring
from infl.models.locked.outputs import infer
from infl.models.neighbours import averaging, sections_of
from panels import use_data_folder

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "5"))
WRONG_KEYS = 2
N_DOMAINS = 4
OPTIONS = {"model": "spatial", "n_domains": N_DOMAINS, "rounds": 10, "section_key": "section", "progress": False}


@cache
def whole() -> ad.AnnData:
    use_data_folder()
    return infl.datasets.her2st_labelled()


def patients() -> dict[str, ad.AnnData]:
    return infl.pp.split_sites(whole().copy(), by="patient")


def against_regions(labels: dict[str, np.ndarray]) -> dict[str, float]:
    """ARI as mean over sections and jointly, NMI jointly, and the share of spots whose neighbours are mostly of other domains."""
    real, found, each, alone = [], [], [], []
    for site, adata in patients().items():
        region = adata.obs["region"].astype(str).to_numpy()
        known, own = region != "undetermined", np.asarray(labels[site]).astype(str)
        each.append(adjusted_rand_score(region[known], own[known]))
        real.append(region[known])
        found.append(own[known])
        graph = sections_of(adata, site=site).graph(8)
        one_hot = (own[:, None] == np.unique(own)[None]).astype(float)
        alone.append(1 - (averaging(graph, own=0) @ one_hot)[one_hot > 0])
    joined = np.concatenate(real), np.concatenate(found)
    return {
        "ARI, mean over sections": float(np.mean(each)),
        "ARI, jointly": adjusted_rand_score(*joined),
        "NMI, jointly": normalized_mutual_info_score(*joined),
        "share of spots among other domains (PAS)": float((np.concatenate(alone) > 0.6).mean()),
        **{f"ARI, section of patient {site}": value for site, value in zip(patients(), each, strict=True)},
    }


MEAN, JOINT = "ARI, mean over sections", "ARI, jointly"


def fit(sites, seed: int, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return infl.tl.fit_federated(sites, seed=seed, **OPTIONS | options)


def domains(sites) -> dict[str, np.ndarray]:
    return {site: adata.obs["infl_domain"].to_numpy() for site, adata in sites.items()}


def apart(joined: np.ndarray) -> dict[str, np.ndarray]:
    """What is said of all spots, in the order of the sites, by site."""
    ends = np.cumsum([adata.n_obs for adata in patients().values()])
    return dict(zip(patients(), np.split(joined, ends[:-1]), strict=True))


def clusters(latent: dict[str, np.ndarray], seed: int, *, mixture: bool = False) -> dict[str, np.ndarray]:
    model = KMeans(N_DOMAINS, n_init=10, random_state=seed)
    if mixture:
        model = GaussianMixture(N_DOMAINS, covariance_type="spherical", n_init=10, random_state=seed)
    return apart(model.fit_predict(np.concatenate(list(latent.values()))))


def stolen(latent: dict[str, np.ndarray], seed: int) -> float:
    """What a thief's better clustering makes of a latent, if he could tell which one it is."""
    return max(against_regions(clusters(latent, seed, mixture=mixture))[JOINT] for mixture in (False, True))


def ilisi(latent: dict[str, np.ndarray]) -> float:
    return mixing(np.concatenate(list(latent.values())), np.repeat(list(latent), [len(z) for z in latent.values()]))


def add_all(table: Table, what: str, runs: list[dict[str, float]], asked: dict[str, float] | None = None) -> None:
    for metric in runs[0]:
        values = [run[metric] for run in runs]
        figure = (asked or {}).get(metric)
        ok = None if figure is None else bool(np.mean(values) >= figure)
        table.add(f"{what}: {metric}", "reported" if figure is None else f">= {figure}", values, ok=ok)


def federated(table: Table) -> None:
    """Ours, pooled, alone, with neither lock nor seal, published; wrong keys."""
    rows: dict[str, list[dict[str, float]]] = {}
    difference, same, wrong, thief, untrained, mixing = [], [], [], [], [], []
    published_thief: list[float] = []
    for seed in range(SEEDS):
        sites = patients()
        run = fit(sites, seed)
        found = domains(sites)
        rows.setdefault("infl", []).append(against_regions(found))
        mixing.append(ilisi({s: a.obsm["X_infl"] for s, a in sites.items()}))
        infl.tl.cluster(sites, N_DOMAINS, seed=seed, key=run.key)
        labels = {s: a.obs["infl_cluster"].to_numpy() for s, a in sites.items()}
        rows.setdefault("the same latent in 4 clusters by k-means (tl.cluster)", []).append(against_regions(labels))
        for k in (3, 5, 6):
            other = patients()
            fit(other, seed, n_domains=k)
            rows.setdefault(f"infl, {k} domains", []).append(against_regions(domains(other)))
        plain = patients()
        fit(plain, seed, lock=None, seal="none")
        z, z_plain = (np.concatenate([a.obsm["X_infl"] for a in s.values()]) for s in (sites, plain))
        difference.append(float(np.linalg.norm(z - z_plain) / np.linalg.norm(z_plain)))
        same.append(
            float(np.mean(np.concatenate(list(found.values())) == np.concatenate(list(domains(plain).values()))))
        )
        together = {"all": ad.concat(list(patients().values()))}
        fit(together, seed, lock=None, seal="none")
        pooled = apart(together["all"].obs["infl_domain"].to_numpy())
        rows.setdefault("pooled", []).append(against_regions(pooled))
        rows.setdefault("federated and pooled domains, agreement", []).append(
            {"ARI": adjusted_rand_score(np.concatenate(list(found.values())), np.concatenate(list(pooled.values())))}
        )
        own = patients()
        for site, adata in own.items():
            fit({site: adata}, seed, lock=None, seal="none")
        rows.setdefault("alone", []).append(against_regions(domains(own)))
        keyed = patients()
        published = fit(keyed, seed, lock="published", strength=0.05)  # k = 1, the published strength of spatial tasks
        rows.setdefault("published lock", []).append(against_regions(domains(keyed)))
        for number in range(WRONG_KEYS):
            key = Keyring.create()
            outputs = {s: infer(a, run.model, key, verify=False) for s, a in sites.items()}
            wrong.append(against_regions({s: o["domain"] for s, o in outputs.items()})[JOINT])
            if number == 0:
                thief.append(stolen({s: o["latent"] for s, o in outputs.items()}, seed))
                outputs = {s: infer(a, published.model, key, verify=False) for s, a in sites.items()}
                published_thief.append(stolen({s: o["latent"] for s, o in outputs.items()}, seed))
        task, panel = run.model.header.build_task(), run.model.header.panel
        torch.manual_seed(seed)
        fresh = task.build(panel).eval()
        latent = {s: task.infer(fresh, task.read(a, panel, site=s), {})["latent"] for s, a in sites.items()}
        untrained.append(stolen(latent, seed))
    for what, runs in rows.items():
        add_all(table, what, runs, {MEAN: 0.40, JOINT: 0.35} if what == "infl" else None)
    for metric in (MEAN, JOINT):
        gap = [a[metric] - b[metric] for a, b in zip(rows["infl"], rows["pooled"], strict=True)]
        table.add(f"federated minus pooled: {metric}", "within 0.02", gap, ok=bool(abs(np.mean(gap)) <= 0.02))
    table.add("latent, lock and seal against neither, relative", "<= 1e-3", difference, ok=max(difference) <= 1e-3)
    table.add("same domain with lock and seal as with neither, share of spots", "reported", same)
    table.add(f"domains by {WRONG_KEYS} wrong keys: {JOINT}", "<= 0.05", wrong, ok=bool(np.mean(wrong) <= 0.05))
    table.add(f"a thief clusters the latent of a wrong key: {JOINT}", "reported", thief)
    table.add(f"a thief clusters the latent of an untrained network: {JOINT}", "reported", untrained)
    table.add(f"published lock, a thief clusters the latent of a wrong key: {JOINT}", "reported", published_thief)
    table.add("infl: iLISI of the sections, 0 to 1", "reported", mixing)


def baselines(table: Table) -> None:
    """On pooled data: Leiden, k-means and the mixture, with and without neighbours, Harmony; iLISI."""
    import harmonypy

    logging.disable(logging.INFO)
    rows: dict[str, list[dict[str, float]]] = {}
    mixing: dict[str, list[float]] = {}
    sites = patients()
    pooled = ad.concat(list(sites.values()))
    sc.pp.normalize_total(pooled)
    sc.pp.log1p(pooled)
    near = {s: averaging(sections_of(a, site=s).graph(8)) for s, a in sites.items()}
    x = {
        s: np.asarray(v.toarray()) for s, v in zip(sites, (pooled[a.obs_names].X for a in sites.values()), strict=True)
    }
    for seed in range(SEEDS):
        for what, values in (("PCA", x), ("neighbours + PCA", {s: near[s] @ v for s, v in x.items()})):
            spots = ad.AnnData(np.concatenate(list(values.values())), obs=pooled.obs[["patient"]].copy())
            sc.pp.pca(spots, 30, random_state=seed)
            harmony = harmonypy.run_harmony(
                spots.obsm["X_pca"], spots.obs, ["patient"], random_state=seed, verbose=False
            ).Z_corr
            harmony = np.asarray(harmony)
            spots.obsm["X_harmony"] = harmony if len(harmony) == spots.n_obs else harmony.T
            for name in ("X_pca", "X_harmony"):
                label = what if name == "X_pca" else f"{what} + Harmony"
                latent = apart(spots.obsm[name])
                rows.setdefault(f"{label} + k-means", []).append(against_regions(clusters(latent, seed)))
                spheres = clusters(latent, seed, mixture=True)
                rows.setdefault(f"{label} + mixture", []).append(against_regions(spheres))
                sc.pp.neighbors(spots, use_rep=name, random_state=seed)
                sc.tl.leiden(spots, flavor="igraph", n_iterations=2, directed=False, random_state=seed, resolution=0.5)
                rows.setdefault(f"{label} + Leiden", []).append(against_regions(apart(spots.obs["leiden"].to_numpy())))
                mixing.setdefault(label, []).append(ilisi(latent))
    for what, runs in rows.items():
        add_all(table, what, runs)
    for what, values in mixing.items():
        table.add(f"{what}: iLISI of the sections, 0 to 1", "reported", values)


QUESTIONS = {"federated": federated, "baselines": baselines}

if __name__ == "__main__":
    torch.set_num_threads(1)
    result = Table("spatial")
    for question in sys.argv[1:] or QUESTIONS:
        QUESTIONS[question](result)
        result.save()
