"""Domains over four, five and six domains: python benchmarks/domains.py [confirm] [START OF A WAY'S NAME …].

Rivals see pooled data and have a few settings each. Labels choose none of them: for every patient, domains that the other patients
teach are held against those that the patient's section gives alone (adjusted Rand index, mean over patients and 4, 5, 6 domains;
prediction strength, Tibshirani and Walther 2005), and the setting with the most agreement is judged. Ours are
:func:`infl.tl.spatial_domains` and ``model="spatial"`` as they come, under the seal. Then one patient's annotation teaches the others
(:func:`infl.tl.transfer_labels`), with settings that do best on training patients alone. With ``confirm`` all of it is judged, once,
on patients E and H. Needs harmonypy.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from functools import cache
from itertools import permutations, product

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

import infl
from _evidence import Method, data_file, over_units
from _table import RESULTS, Table
from harmony import harmony_of_pooled, mixing
from infl.models.neighbours import averaging, sections_of

DOMAINS, SEEDS = (4, 5, 6), 5
CHOSEN = RESULTS / "raw" / "domains.json"
OURS, MIXED, MODEL = "sites: tl.spatial_domains", "sites: tl.spatial_domains, sigma=0.5", "sites: model='spatial'"
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
        """Logarithms of shares, or roots of shares or amounts, (n_obs, n_vars), averaged over neighbours a number of times."""
        found = {}
        for site, adata in self.sites.items():
            spots = adata.copy()
            if kind == "amount":
                spots.X = spots.X * float(1 / np.median(np.asarray(spots.X.sum(1))))
            else:
                sc.pp.normalize_total(spots, target_sum=1e4)
            x = spots.X.toarray()
            x = {"log": np.log1p(x), "root": np.sqrt(x / 1e4), "amount": np.sqrt(x)}[kind]
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


def of_sites(data: Sections, seed: int, sigma: float | None = None) -> np.ndarray:
    """What :func:`infl.tl.spatial_domains` writes at each site, by sealed sums."""
    infl.tl.spatial_domains(data.sites, 2, sigma=sigma, n_init=1, seed=seed, key=KEY)
    return np.concatenate([adata.obsm["X_infl_domain"] for adata in data.sites.values()]).astype(float)


def fitted(data: Sections, k: int, seed: int) -> dict[str, ad.AnnData]:
    """Sites with what a fit writes, locked and sealed."""
    sites = {site: adata.copy() for site, adata in data.sites.items()}
    few = {"min_sites": 2} if len(sites) == 2 else {}
    infl.tl.fit_federated(sites, model="spatial", n_domains=k, rounds=10, seed=seed, key=KEY, progress=False, **few)
    return sites


def of_model(data: Sections, seed: int) -> np.ndarray:
    """The model's latent."""
    return np.concatenate([adata.obsm["X_infl"] for adata in fitted(data, 4, seed).values()]).astype(float)


def of_model_in_domains(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The model's domains."""
    return np.concatenate([adata.obs["infl_domain"].astype(int) for adata in fitted(data, k, seed).values()])


def k_means(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return KMeans(k, n_init=10, random_state=seed).fit_predict(z)


def full_mixture(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return GaussianMixture(k, n_init=2, random_state=seed, reg_covar=1e-3 * z.var(0).mean()).fit_predict(z)


def domains_of_sites(data: Sections, z: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The domains of :func:`infl.tl.spatial_domains`."""
    sites = {site: ad.AnnData(obsm={"X": x}, shape=(len(x), 0)) for site, x in data.by_site(z).items()}
    infl.tl.cluster(sites, k, method="spheres", use_rep="X", seed=seed, n_init=10, key=KEY)
    return np.concatenate([adata.obs["infl_cluster"].astype(int) for adata in sites.values()])


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
    OURS: (of_sites, domains_of_sites, {}),
    MIXED: (of_sites, domains_of_sites, {"sigma": (0.5,)}),
    MODEL: (of_model, of_model_in_domains, {}),
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


UNKNOWN = "undetermined"
SETS = ("her2st sections", "her2st two more")
TEACH = "one patient teaches: "
OF_SPOTS, OF_NEIGHBOURS, OF_MEANS = (
    "classifier on single spots",
    "classifier on neighbourhoods",
    "sites: tl.transfer_labels",
)


def classes_of(adata: ad.AnnData) -> list[str]:
    """What a patient can teach: regions of ten spots or more."""
    n = adata.obs["region"].astype(str).value_counts()
    return sorted(name for name in n.index[n >= 10] if name != UNKNOWN)


def taught_by_classifier(x: dict[str, np.ndarray], data: Sections, teacher: str, c: float) -> dict[str, np.ndarray]:
    """Regions of all patients by a logistic regression on the teacher's spots; classes count alike."""
    classes, region = classes_of(data.sites[teacher]), data.sites[teacher].obs["region"].astype(str).to_numpy()
    known = np.isin(region, classes)
    scale = StandardScaler().fit(x[teacher][known])
    model = LogisticRegression(C=c, class_weight="balanced", max_iter=2000)
    model.fit(scale.transform(x[teacher][known]), region[known])
    return {site: model.predict(scale.transform(values)) for site, values in x.items()}


def taught_by_means(data: Sections, teacher: str, hops: int, d: int, seed: int) -> dict[str, np.ndarray]:
    """Regions of all patients, where the teacher alone has an annotation."""
    sites = {site: adata.copy() for site, adata in data.sites.items()}
    for site, adata in sites.items():
        if site != teacher:
            del adata.obs["region"]
    infl.tl.spatial_domains(sites, 2, n_hops=hops, n_axes=d, sigma=0.5, n_init=1, seed=seed, key=KEY)
    infl.tl.transfer_labels(sites, "region", use_rep="X_infl_domain", exclude=(UNKNOWN,), key=KEY)
    return {site: adata.obs["region_transferred"].astype(str).to_numpy() for site, adata in sites.items()}


TEACHERS: dict[str, tuple[Callable, dict[str, tuple]]] = {
    OF_SPOTS: (
        lambda data, t, seed, c: taught_by_classifier(data.values("log", 0), data, t, c),
        {"c": (0.001, 0.01, 0.1, 1.0)},
    ),
    OF_NEIGHBOURS: (
        lambda data, t, seed, c, hops: taught_by_classifier(data.values("log", hops), data, t, c),
        {"c": (0.001, 0.01, 0.1, 1.0), "hops": (1, 3)},
    ),
    OF_MEANS: (
        lambda data, t, seed, hops, d: taught_by_means(data, t, hops, d, seed),
        {"hops": (1, 3), "d": (2, 5, 10, 20)},
    ),
}


def recall(data: Sections, teacher: str, found: dict[str, np.ndarray], patient: str) -> float:
    """Balanced accuracy at a patient, over the regions that the teacher has and the patient too."""
    region = data.sites[patient].obs["region"].astype(str).to_numpy()
    classes = [name for name in classes_of(data.sites[teacher]) if (region == name).any()]
    return float(np.mean([(found[patient][region == name] == name).mean() for name in classes])) if classes else np.nan


def pairs(data: Sections) -> list[tuple[str, str]]:
    """Teachers, and who is taught, where they share a region."""
    return [
        (teacher, other)
        for teacher, other in permutations(data.sites, 2)
        if set(classes_of(data.sites[teacher])) & set(data.sites[other].obs["region"].astype(str))
    ]


def teach(table: Table, data: Sections, way: str, settings: dict | None = None, where: str = "") -> dict:
    """Balanced accuracy by patient that is taught. Without settings: for each patient those that are best on the others."""
    teaches, grid = TEACHERS[way]
    options = (
        [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if settings is None else [settings]
    )
    seeds = range(3) if way == OF_MEANS else range(1)
    scores = np.full((len(options), len(seeds), len(pairs(data))), np.nan)
    for (i, option), seed in product(enumerate(options), seeds):
        found = {teacher: teaches(data, teacher, seed, **option) for teacher in {t for t, _ in pairs(data)}}
        scores[i, seed] = [recall(data, teacher, found[teacher], other) for teacher, other in pairs(data)]
    mean = np.nanmean(scores, axis=1)  # (options, pairs)
    of_patient = []
    for patient in data.sites:
        judged_here = np.array([other == patient for _, other in pairs(data)])
        elsewhere = np.array([patient not in pair for pair in pairs(data)])
        best = int(np.nanmean(mean[:, elsewhere], axis=1).argmax()) if settings is None and elsewhere.any() else 0
        if judged_here.any():
            of_patient.append(float(np.nanmean(mean[best, judged_here])))
    best = options[int(np.nanmean(mean, axis=1).argmax())]
    what = f"{where}{TEACH}{way}: balanced accuracy of the others"
    table.estimate(what, "reported", over_units(of_patient, "patient"), data=SETS[bool(where)], settings=best)
    return {"settings": best, "of_patient": of_patient}


def teach_all(table: Table, data: Sections, settings: dict | None = None, where: str = "") -> dict:
    found = {way: teach(table, data, way, settings and settings[way], where) for way in TEACHERS}
    for rival in (OF_SPOTS, OF_NEIGHBOURS):
        difference = over_units(np.subtract(found[OF_MEANS]["of_patient"], found[rival]["of_patient"]), "patient")
        table.bound(f"{where}{TEACH}{OF_MEANS} less {rival}", difference, data=SETS[bool(where)], least=0.05)
    return {way: one["settings"] for way, one in found.items()}


FILES = (
    "benchmarks/domains.py",
    "src/infl/models/spatial/task.py",
    "src/infl/models/spatial/axes.py",
    "src/infl/nn/spatial.py",
    "src/infl/sums/mixture.py",
    *(
        f"src/infl/tl/{name}.py"
        for name in ("_spatial_domains", "_transfer_labels", "_cluster", "_cluster_sums", "_centres")
    ),
    *(
        f"src/infl/pp/{name}.py"
        for name in ("_harmony", "_harmony_cells", "_harmony_sums", "_sphere", "_pca", "_pca_sums")
    ),
    "src/infl/models/spatial/neighbourhoods.py",
    "src/infl/models/neighbours.py",
)
TAUGHT = RESULTS / "raw" / "domains_taught.json"


def main(confirm: bool, begins: tuple[str, ...] = ()) -> None:
    table, ways = Table("domains"), [way for way in WAYS if way.startswith(begins or "")]
    if confirm:
        settings = {way: found["settings"] for way, found in json.loads(CHOSEN.read_text()).items()}
        taught = json.loads(TAUGHT.read_text())
        method = Method("tl.spatial_domains, model='spatial' and tl.transfer_labels", FILES, settings | taught)
        data = Sections(ad.read_h5ad(data_file(SETS[1], method)))
        for way in ways:
            report(table, data, way, (4, 6), "patients E and H: ")
            table.save()
        teach_all(table, data, taught, "patients E and H: ")
        table.save()
        return
    data = Sections(ad.read_h5ad(data_file(SETS[0])))
    for way in ways:
        report(table, data, way, DOMAINS)
        table.save()
    TAUGHT.write_text(json.dumps(teach_all(table, data), indent=1) + "\n")
    table.save()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    main("confirm" in sys.argv[1:], tuple(word for word in sys.argv[1:] if word != "confirm"))
