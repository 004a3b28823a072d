"""Sections of which one site has RNA and protein, one RNA, one protein: domains, mixing and imputation (docs/mosaic.md).

On the simulated mosaic of SpaMosaic, with the options' defaults and the number of domains. Width, rate and batch size were chosen
by the loss on validation spots; the form of the model (transformation, whitening, levels of alignment) while looking at this
simulation, its domains included. Imputation is judged on spots
of the first section whose proteins are hidden from the fit: blocks of 6 × 6 spots, each in one of three folds, predictions of
all folds together, in log-ratios. Ridge regressions, on log-normalised RNA of a spot and on means over its neighbourhood,
have the same folds and choose their penalty by leave-one-out. There is one simulation: what is spread is the start of the
networks, and no interval says what another one would give. Harmony has the two sections that share a modality, as it
needs one. iLISI (scib-metrics) is that of the graph of 90 neighbours, 0 to 1.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

import anndata
import harmonypy
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from mudata import MuData
from scib_metrics import ilisi_knn
from scib_metrics.nearest_neighbors import NeighborsResults
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import infl
from _table import Table
from infl._mudata import without_pull
from infl.federation.run import FederatedRun
from infl.keys import Keyring
from infl.models.locked.outputs import infer
from infl.models.mosaic.latent import fused
from infl.models.mosaic.modalities import KINDS
from infl.models.neighbours import averaging, sections_of
from infl.nn.published import STRENGTH

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "5"))
PAIRS = {"rna": ("s1", "s2"), "adt": ("s1", "s3")}
PUBLISHED = {"lock": "published", "seal": "none", "strength": STRENGTH["multi-omics"] / STRENGTH["classification"]}
N_DOMAINS, N_WRONG_KEYS, FOLDS, BLOCK = 5, 10, 3, 6
Sites = Mapping[str, MuData]


def fit(sites: Mapping[str, MuData], seed: int, **options: object):
    return infl.tl.fit_federated(sites, model="mosaic", n_domains=N_DOMAINS, seed=seed, progress=False, **options)


def unkeyed(sites: Mapping[str, MuData], seed: int, **options: object):
    return fit(sites, seed, lock=None, seal="none", **options)


def in_one_place(sites: Sites) -> dict[str, MuData]:
    """All sections at one site."""
    kinds = dict.fromkeys(m for section in sites.values() for m in section.mod)
    with without_pull():
        pooled = MuData({m: anndata.concat([s[m] for s in sites.values() if m in s.mod]) for m in kinds})
    xy = pd.concat([pd.DataFrame(s.obsm["spatial"], index=s.obs_names) for s in sites.values()])
    pooled.obsm["spatial"] = xy.reindex(pooled.obs_names).to_numpy()
    pooled.obs["domain"] = pd.concat([s.obs["domain"].astype(str) for s in sites.values()])
    pooled.obs["section"] = [name.split("-")[0] for name in pooled.obs_names]
    return {"pooled": pooled}


# -- domains ------------------------------------------------------------------------------------------------------------


def ari(objects: Mapping[str, MuData]) -> dict[str, float]:
    """Agreement of domains with the simulation's, by section and of all together."""
    true = pd.concat([m.obs["domain"].astype(str) for m in objects.values()])
    found = pd.concat([m.obs["infl_domain"].astype(str) for m in objects.values()])
    section = true.index.str.split("-").str[0]
    by = {s: adjusted_rand_score(true[section == s], found[section == s]) for s in sorted(set(section))}
    return by | {"all": adjusted_rand_score(true, found)}


def ilisi(z: np.ndarray, batch: np.ndarray) -> float:
    distances, near = NearestNeighbors(n_neighbors=90).fit(z).kneighbors(z)
    return float(ilisi_knn(NeighborsResults(indices=near, distances=distances), pd.factorize(batch)[0], scale=True))


def of_one_modality(section: MuData, modality: str) -> MuData:
    with without_pull():
        one = MuData({modality: section[modality].copy()})
    one.obs["domain"], one.obsm["spatial"] = section.obs["domain"], section.obsm["spatial"]
    return one


def prepared(table: AnnData, modality: str) -> np.ndarray:
    """Log-normalised counts, or log-ratios of proteins, as practitioners have them."""
    if modality == "adt":
        return KINDS["clr"](table.X.toarray().astype(float), False)
    table = table.copy()
    sc.pp.normalize_total(table)
    sc.pp.log1p(table)
    return table.X.toarray()


def near(section: MuData, x: np.ndarray) -> np.ndarray:
    """Mean over a spot and its eight neighbours."""
    return averaging(sections_of(section, site="s").graph(8)) @ x


def clusters(z: np.ndarray, true: np.ndarray, seed: int) -> float:
    return adjusted_rand_score(true, KMeans(N_DOMAINS, n_init=10, random_state=seed).fit_predict(z))


def harmony(sites: Sites, modality: str, *, neighbours: bool, seed: int) -> tuple[float, float]:
    """IILISI and ARI of pooled Harmony on principal components."""
    pair = PAIRS[modality]
    blocks = [prepared(sites[s][modality], modality) for s in pair]
    if neighbours:
        blocks = [near(sites[s], x) for s, x in zip(pair, blocks, strict=True)]
    batch = np.repeat(pair, [len(x) for x in blocks])
    components = PCA(30, random_state=seed).fit_transform(np.concatenate(blocks))
    meta, threads = pd.DataFrame({"section": batch}), torch.get_num_threads()
    z = np.asarray(
        harmonypy.run_harmony(components, meta, "section", random_state=seed, verbose=False, ncores=1).Z_corr
    )
    torch.set_num_threads(threads)  # Harmony sets those of the whole process
    z = z if len(z) == len(batch) else z.T
    true = np.concatenate([sites[s].obs["domain"].astype(str) for s in pair])
    return ilisi(z, batch), clusters(z, true, seed)


def domains(seed: int, rows: dict[str, list]) -> None:
    def note(**values: float) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    sites, key = infl.datasets.spamosaic_sim(), Keyring.create()
    run = fit(sites, seed, key=key)
    ours = ari(sites)
    note(ari=ours["all"], **{f"ari_{s}": ours[s] for s in sites})
    for modality in ("rna", "adt"):
        one = of_one_modality(sites["s1"], modality)
        infl.tl.predict(one, run.model, key=key)
        note(**{f"ari_s1_{modality}": ari({"s1": one})["s1"]})
    pooled = in_one_place(infl.datasets.spamosaic_sim())
    unkeyed(pooled, seed, section_key="section")
    note(pooled=ari(pooled)["all"])
    alone = []
    for site, section in infl.datasets.spamosaic_sim().items():
        unkeyed({site: section}, seed)
        alone.append(ari({site: section})[site])
    note(alone=np.mean(alone))

    for modality, pair in PAIRS.items():
        z = np.concatenate([sites[s].obsm["X_infl"] for s in pair])
        note(**{f"ilisi_{modality}": ilisi(z, np.repeat(pair, [sites[s].n_obs for s in pair]))})
        for name, use in (("harmony", False), ("harmony_near", True)):
            mixed, agrees = harmony(sites, modality, neighbours=use, seed=seed)
            note(**{f"{name}_ilisi_{modality}": mixed, f"{name}_ari_{modality}": agrees})
        note(**{f"ours_ari_{modality}": ari({s: sites[s] for s in pair})["all"]})
    z = np.concatenate([m.obsm["X_infl"] for m in sites.values()])
    note(ilisi=ilisi(z, np.repeat(list(sites), [m.n_obs for m in sites.values()])))
    simple = []
    for section in sites.values():
        modality = next(iter(section.mod))
        x = PCA(10, random_state=seed).fit_transform(near(section, prepared(section[modality], modality)))
        simple.append(clusters(x, section.obs["domain"].astype(str).to_numpy(), seed))
    note(simple=np.mean(simple))

    wrong, stolen, fresh = [], [], []
    task, panel = run.model.header.build_task(), run.model.header.panel
    true = np.concatenate([m.obs["domain"].astype(str) for m in sites.values()])
    data = {s: task.read(m, panel, site=s) for s, m in sites.items()}
    for number in range(N_WRONG_KEYS):
        ring = Keyring.create()
        outputs = [infer(m, run.model, ring, verify=False) for m in sites.values()]
        found = np.concatenate([o.get("domain", np.full(len(o["latent"]), -1)) for o in outputs])
        wrong.append(adjusted_rand_score(true, found))
        stolen.append(clusters(np.concatenate([o["latent"] for o in outputs]), true, seed))
        torch.manual_seed(1000 * seed + number)
        net = task.build(panel).eval()
        fresh.append(clusters(np.concatenate([fused(net, d) for d in data.values()]), true, seed))
    note(wrong=np.mean(wrong), stolen=np.mean(stolen), fresh=np.mean(fresh))


# -- imputation ---------------------------------------------------------------------------------------------------------


def folds(section: MuData, seed: int) -> np.ndarray:
    """Fold of each spot: blocks of neighbouring spots, drawn into folds."""
    place = [np.unique(c.round(4), return_inverse=True)[1] // BLOCK for c in section.obsm["spatial"].T]
    block = pd.factorize(pd.Series(place[0] * 1000 + place[1]))[0]
    order = np.random.default_rng(seed).permutation(block.max() + 1)
    return (order % FOLDS)[block]


def without(held: np.ndarray) -> dict[str, MuData]:
    """Return the sites, without the proteins of some spots of the first section."""
    sites = infl.datasets.spamosaic_sim()
    full = sites["s1"]
    with without_pull():
        sites["s1"] = MuData({"rna": full["rna"], "adt": full["adt"][~held].copy()})
    sites["s1"].obsm["spatial"], sites["s1"].obs["domain"] = full.obsm["spatial"], full.obs["domain"]
    return sites


def pearson(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return the mean over features of the correlation across spots."""
    pairs = zip(predicted.T, measured.T, strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] if a.std() > 0 else 0.0 for a, b in pairs]))


def imputation(seed: int, rows: dict[str, list]) -> None:
    section = infl.datasets.spamosaic_sim()["s1"]
    measured = prepared(section["adt"], "adt")
    rna = prepared(section["rna"], "rna")
    inputs = {"ridge": rna, "ridge_near": np.hstack([near(section, rna), near(section, near(section, rna))])}
    fold, key = folds(section, seed), Keyring.create()
    found = {name: np.zeros_like(measured) for name in ("ours", "domain_means", *inputs)}
    wrong: list[np.ndarray] = [np.zeros_like(measured) for _ in range(N_WRONG_KEYS)]
    for k in range(FOLDS):
        held = fold == k
        sites = without(held)
        run = fit(sites, seed, key=key)
        found["ours"][held] = sites["s1"]["infl_adt"].X
        for guess in wrong:
            guess[held] = infer(sites["s1"], run.model, Keyring.create(), verify=False)["imputed_0"][held]
        for name, x in inputs.items():
            model = RidgeCV(np.logspace(-1, 6, 15)).fit(x[~held], measured[~held])
            found[name][held] = model.predict(x[held])
        true = section.obs["domain"].to_numpy()
        for domain in np.unique(true):
            found["domain_means"][held & (true == domain)] = measured[~held & (true == domain)].mean(0)
        if k == 0:
            first_fold(seed, run, sites, held, measured[held], rows)
    for name, values in found.items():
        rows.setdefault(f"pearson_{name}", []).append(pearson(values, measured))
    rows.setdefault("pearson_wrong", []).append(np.mean([abs(pearson(guess, measured)) for guess in wrong]))


def first_fold(
    seed: int, run: FederatedRun, sites: Sites, held: np.ndarray, measured: np.ndarray, rows: dict[str, list]
) -> None:
    """The same data pooled, without lock and seal, and with the published lock."""
    plain, pooled, published = without(held), in_one_place(without(held)), without(held)
    unkeyed(plain, seed)
    unkeyed(pooled, seed, section_key="section")
    theirs = fit(published, seed, key=run.key, **PUBLISHED)
    spots = sites["s1"]["infl_adt"].obs_names
    guesses = [infer(published["s1"], theirs.model, Keyring.create(), verify=False) for _ in range(N_WRONG_KEYS)]
    found = {
        "first_ari": ari(sites)["all"],
        "pooled_ari": ari(pooled)["all"],
        "published_ari": ari(published)["all"],
        "first_pearson": pearson(sites["s1"]["infl_adt"].X, measured),
        "pooled_pearson": pearson(pooled["pooled"]["infl_adt"][spots].X, measured),
        "published_pearson": pearson(published["s1"]["infl_adt"].X, measured),
        "published_wrong": np.mean([pearson(g["imputed_0"][held], measured) for g in guesses]),
        "lock": max(float(np.abs(sites[s].obsm["X_infl"] - plain[s].obsm["X_infl"]).max()) for s in sites),
        "relabelled": sum(int((sites[s].obs["infl_domain"] != plain[s].obs["infl_domain"]).sum()) for s in sites),
    }
    for name, value in found.items():
        rows.setdefault(name, []).append(value)


# -- the table ----------------------------------------------------------------------------------------------------------


def main() -> None:
    warnings.simplefilter("ignore")
    rows: dict[str, list] = {}
    for seed in range(SEEDS):
        domains(seed, rows)
        imputation(seed, rows)
        tell(rows)


def tell(rows: Mapping[str, list]) -> None:
    """Write what is known after a seed, so that a long run can be looked at."""
    table = Table("mosaic")
    r = {name: np.array(values, dtype=float) for name, values in rows.items()}

    def add(what: str, asked: str, values: np.ndarray, ok: bool | None = None, **more: object) -> None:
        rows = {name: np.asarray(v).tolist() for name, v in more.items()}
        table.starts(what, asked, values, data="spamosaic", ok=ok, **rows)

    add("ARI of one clustering, all sections together", ">= 0.75", r["ari"], r["ari"].mean() >= 0.75)
    for name, what in (
        ("s1", "first section, RNA and protein"),
        ("s2", "second section, RNA"),
        ("s3", "third section, protein"),
        ("s1_rna", "first section seen by RNA alone"),
        ("s1_adt", "first section seen by protein alone"),
    ):
        values = r[f"ari_{name}"]
        add(f"ARI of the same clustering, {what}", ">= 0.75", values, values.mean() >= 0.75)
    add("ARI of each section alone, same model (mean)", "for comparison", r["alone"])
    add("ARI of each section alone, neighbours, PCA, k-means (mean)", "for comparison", r["simple"])
    gap = r["ari"] - r["pooled"]
    add("ARI, minus the same model pooled", ">= -0.02", gap, gap.mean() >= -0.02, pooled=r["pooled"])
    gap = r["first_ari"] - r["pooled_ari"]
    add(
        "ARI, first fold, minus the same model pooled",
        ">= -0.02",
        gap,
        gap.mean() >= -0.02,
        ours=r["first_ari"],
        pooled=r["pooled_ari"],
    )
    add("ARI, first fold, with the published lock, unsealed", "for comparison", r["published_ari"])
    for modality, what in (("rna", "RNA, first and second section"), ("adt", "protein, first and third section")):
        gap = r[f"ilisi_{modality}"] - r[f"harmony_ilisi_{modality}"]
        better = r[f"ours_ari_{modality}"] - r[f"harmony_ari_{modality}"]
        more = {
            name: r[f"{name}_{modality}"]
            for name in ("ilisi", "harmony_ilisi", "ours_ari", "harmony_ari", "harmony_near_ilisi", "harmony_near_ari")
        }
        add(f"iLISI minus that of pooled Harmony, {what}", ">= 0", gap, gap.mean() >= 0 and better.mean() >= 0, **more)
        add(f"ARI minus that of pooled Harmony, {what}", ">= 0", better, better.mean() >= 0)
        gap = r[f"ilisi_{modality}"] - r[f"harmony_near_ilisi_{modality}"]
        add(f"iLISI minus that of pooled Harmony on neighbours' means, {what}", "for comparison", gap)
        better = r[f"ours_ari_{modality}"] - r[f"harmony_near_ari_{modality}"]
        add(f"ARI minus that of pooled Harmony on neighbours' means, {what}", "for comparison", better)
    add("iLISI of all three sections", "for comparison", r["ilisi"])
    for name, what in (("ridge", "ridge on a spot's RNA"), ("ridge_near", "ridge on the neighbourhood's RNA")):
        gap = r["pearson_ours"] - r[f"pearson_{name}"]
        add(
            f"imputed protein, mean Pearson a feature, minus {what}",
            ">= 0.03",
            gap,
            gap.mean() >= 0.03,
            ours=r["pearson_ours"],
            ridge=r[f"pearson_{name}"],
        )
    add("imputed protein, mean Pearson a feature", "for comparison", r["pearson_ours"])
    add("the same of the true domains' means (what is not noise)", "for comparison", r["pearson_domain_means"])
    gap = r["first_pearson"] - r["pooled_pearson"]
    add("imputed protein, first fold, Pearson minus pooled", ">= -0.02", gap, gap.mean() >= -0.02)
    gap = r["published_pearson"] - r["first_pearson"]
    add("imputed protein, first fold, Pearson of the published lock minus ours", "for comparison", gap)
    add("the same with a wrong key, Pearson of the published lock", "for comparison", r["published_wrong"])
    add(
        "latent, locked and sealed against neither, largest difference",
        "<= 1e-3",
        r["lock"],
        r["lock"].max() <= 1e-3,
        relabelled_spots=r["relabelled"],
    )
    add("wrong key: ARI of the domains that are named", "<= 0.05", r["wrong"], r["wrong"].max() <= 0.05)
    add(
        "wrong key: absolute Pearson of imputed protein",
        "<= 0.03",
        r["pearson_wrong"],
        r["pearson_wrong"].mean() <= 0.03,
    )
    add(
        "wrong key: ARI of a thief's own clustering of the latent, minus of an untrained network's",
        "for comparison",
        r["stolen"] - r["fresh"],
        stolen=r["stolen"],
        untrained=r["fresh"],
    )
    table.save()


if __name__ == "__main__":
    main()
