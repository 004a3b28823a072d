"""Mapping real cells to a locked reference: labels of a site that was held out, and cells of a class that no site had.

Cells: ten types of peripheral blood (700 cells of 10x Genomics' 68k, as shipped in scanpy), dealt out to four sites at random, the last
of which is the query; so no site has a batch effect.
Studies and patients: stem cells of four studies (logarithms, so for a classifier alone), and spots of four patients' tumours (counts, so for
scANVI too); each study or patient in turn is the query, and each of its classes in turn is in no other.
Beside it, logistic regression on the pooled data of the other sites.

``python benchmarks/atlas.py [cells] [studies] [patients] [keys] [thief]``
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData
from scipy.sparse import issparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import infl
from _evidence import data_file, no_worse, paired
from _table import Table
from infl._threads import one_thread
from infl.attacks import AuditContext
from infl.attacks._kit.statistics import trials_for
from infl.attacks._kit.theft import Theft
from infl.attacks.thief_fine_tuning import ThiefFineTuning
from infl.models.labelled import area_under_curve
from infl.models.pooling import pool
from panels import use_data_folder

SEEDS = range(int(os.environ.get("INFL_BENCH_SEEDS", "5")))
FEWEST = 15
FEWEST_HIDDEN = 5
"""Cells of a class at a query, for it to be hidden from the reference."""
N_PATIENT_SEEDS = 2
SCANVI: dict[str, Any] = {"model": "scanvi", "encode_covariates": True, "rounds": 30}
N_LABELS = 30
"""Of the query's cells, that a thief knows."""
UNSEEN = (
    "AUROC",
    "AUROC of the probability",
    "AUROC of logistic regression's probability",
    "AUROC of the distance to pooled neighbours",
    "new cells unassigned",
    "known cells unassigned",
)
"""What is asked where a class is in no reference; the third and fourth are what whoever has all the data could go by."""
THEFTS = int(os.environ.get("INFL_BENCH_THEFTS", "30"))
"""Five thefts varied by 0.063, so that 26 of them show a gain of 0.010 to be below 0.05 in nine of ten studies."""
THEFT_ROUNDS = 8
"""Of each run: fewer than by default, so that thirty can be had; the file unlocked shows whether there is something to steal."""


def cells(seed: int) -> tuple[dict[str, AnnData], str]:
    """Return cells of peripheral blood at four sites, and their column of types."""
    small = sc.datasets.pbmc68k_reduced()
    adata = small.raw.to_adata()
    adata.X = adata.X.toarray()
    adata.obs = small.obs[["bulk_labels"]].copy()
    return infl.pp.split_sites(adata, 4, stratify="bulk_labels", seed=seed), "bulk_labels"


def balanced(truth: np.ndarray, probability: np.ndarray, classes: list[str], asked: np.ndarray) -> float:
    """Return balanced accuracy over the classes of the observations that are asked."""
    guess = np.array(classes)[probability.argmax(1)]
    return float(np.mean([(guess[asked & (truth == c)] == c).mean() for c in np.unique(truth[asked])]))


def mapped(
    inside: dict[str, AnnData], query: AnnData, target: str, seed: int, unseen: str | None, **options: Any
) -> dict[str, float]:
    """Fit a reference, without a class if one is named, map the query to it, and judge."""
    parts = {s: a[(a.obs[target].astype(str) != unseen).to_numpy()].copy() for s, a in inside.items()}
    run = infl.tl.fit_federated(parts, target=target, atlas=True, seed=seed, progress=False, **options)
    late = query.copy()
    infl.tl.map_to(run, late, site="late", seed=seed)
    truth = late.obs[target].astype(str).to_numpy()
    panel, new = run.model.header.panel, truth == (unseen or "")
    known = np.isin(truth, panel["classes"])
    left = (late.obs["infl_prediction"] == "unassigned").to_numpy()
    task, everyone = run.model.header.build_task(), pool(parts)
    pooled = task.baseline(everyone, panel, seed=seed)(query)["probability"]  # type: ignore[arg-type]
    found = {
        "balanced accuracy": balanced(truth, late.obsm["infl_probabilities"], panel["classes"], known),
        "known cells unassigned": float(left[known].mean()),
    }
    if unseen is None:
        return found | {"logistic regression": balanced(truth, pooled, panel["classes"], known)}
    return found | {
        "AUROC": area_under_curve(late.obs["infl_novelty"].to_numpy(), new),
        "AUROC of the probability": area_under_curve(1 - late.obs["infl_probability"].to_numpy(), new),
        "AUROC of logistic regression's probability": area_under_curve(1 - pooled.max(1), new),
        "AUROC of the distance to pooled neighbours": area_under_curve(far(everyone.X, query.X), new),
        "new cells unassigned": float(left[new].mean()),
    }


def far(inside: Any, late: Any) -> np.ndarray:
    """Return how far observations are from their nearest of the pooled data, in its principal components."""
    inside, late = (np.asarray(x.toarray() if issparse(x) else x, dtype=np.float64) for x in (inside, late))
    space = make_pipeline(StandardScaler(), PCA(min(20, *inside.shape), random_state=0)).fit(inside)
    near = NearestNeighbors(n_neighbors=min(15, len(inside))).fit(space.transform(inside))
    return near.kneighbors(space.transform(late))[0].mean(1)


def report(table: Table, name: str, seen: list[dict[str, float]], unseen: dict[str, list[dict[str, float]]]) -> None:
    """Add the rows of a data set."""
    for what, asked in {
        "balanced accuracy": "beside the next row",
        "logistic regression": "on pooled data",
        "known cells unassigned": "0.05",
    }.items():
        table.add(f"{name}: {what}", asked, [row[what] for row in seen])
    if not unseen:
        return
    report_unseen(table, name, unseen, len(SEEDS))
    table.save()


def report_unseen(table: Table, name: str, unseen: dict[str, list[dict[str, float]]], seeds: int) -> None:
    """Add the rows on classes that no site had."""
    for what in UNSEEN:
        by = {label: float(np.nanmean([row[what] for row in rows])) for label, rows in unseen.items()}
        mean, is_asked = float(np.mean(list(by.values()))), what == "AUROC"
        table.add(
            f"{name}, a class that no site had: {what}",
            ">= 0.8" if is_asked else "as measured",
            mean,
            seeds=seeds,
            ok=mean >= 0.8 if is_asked else None,
            by_class=rounded(by),
        )


def of_cells(table: Table) -> None:
    """Cells at random sites."""
    seen, unseen = [], defaultdict(list)
    for seed in SEEDS:
        sites, target = cells(seed)
        query = sites.pop("site_4")
        seen.append(mapped(sites, query, target, seed, None))
        for label in query.obs[target].astype(str).unique():
            n = sum((a.obs[target] == label).sum() for a in [*sites.values(), query])
            if n >= FEWEST:
                unseen[label].append(mapped(sites, query, target, seed, label))
    report(table, "cells, classifier", seen, unseen)


def left_out(table: Table, name: str, sites: dict[str, AnnData], target: str, seeds: range, **options: Any) -> None:
    """Each site in turn is the query; of its classes that another site has, each in turn is in no reference."""
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    unseen: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in seeds:
        for out, late in sites.items():
            inside = {site: adata for site, adata in sites.items() if site != out}
            seen[out].append(mapped(inside, late, target, seed, None, **options))
            counts = late.obs[target].astype(str).value_counts()
            others = {label for adata in inside.values() for label in adata.obs[target].astype(str)}
            for label in sorted(label for label, n in counts.items() if n >= FEWEST_HIDDEN and label in others):
                unseen[f"{out}: {label}"].append(mapped(inside, late, target, seed, label, **options))
    for what, asked in {
        "balanced accuracy": "beside the next row",
        "logistic regression": "on pooled data",
        "known cells unassigned": "0.05",
    }.items():
        by = {out: float(np.mean([row[what] for row in rows])) for out, rows in seen.items()}
        table.add(f"{name}: {what}", asked, list(by.values()), seeds=len(seeds), by_site=rounded(by))
    ours, pooled = (
        [np.mean([row[what] for row in rows]) for rows in seen.values()]
        for what in ("balanced accuracy", "logistic regression")
    )
    less = paired(np.array(ours), np.array(pooled), "site")
    table.add(f"{name}: balanced accuracy less logistic regression", "as measured", less.value, **less.row())
    report_unseen(table, name, unseen, len(seeds))
    table.save()


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Return the values with three digits, for a row."""
    return {name: round(value, 3) for name, value in values.items()}


def studies(table: Table) -> None:
    """Stem cells of four studies, whose batch effects are strong."""
    use_data_folder()
    sites = infl.pp.split_sites(infl.datasets.stemcells(), by="study")
    left_out(table, "stemcells, classifier", sites, "cell_type", SEEDS)


def patients(table: Table) -> None:
    """Spots of four patients' tumours: a classifier of logarithms, and scANVI of the counts of the same genes."""
    spots = sc.read_h5ad(data_file("her2st sections"))
    spots = spots[(spots.obs["region"] != "undetermined").to_numpy()].copy()
    sc.pp.filter_cells(spots, min_counts=1)
    logs = spots.copy()
    sc.pp.normalize_total(logs, target_sum=1e4)
    sc.pp.log1p(logs)
    seeds = SEEDS[:N_PATIENT_SEEDS]
    for name, adata, options in (("classifier", logs, {}), ("scanvi", spots, SCANVI)):
        left_out(table, f"tumours, {name}", infl.pp.split_sites(adata, by="patient"), "region", seeds, **options)


def keys(table: Table) -> None:
    """What a locked reference is worth without its key, and a public tier of lower strength."""
    closed, public, judged = [], [], []
    for seed in SEEDS:
        sites, target = cells(seed)
        query = sites.pop("site_4")
        run = infl.tl.fit_federated({s: a.copy() for s, a in sites.items()}, target=target, seed=seed, progress=False)
        truth, classes = query.obs[target].astype(str).to_numpy(), run.model.header.panel["classes"]
        infl.tl.map_to(run.model, late := query.copy())
        closed.append(balanced(truth, late.obsm["infl_probabilities"], classes, np.isin(truth, classes)))
        infl.tl.calibrate_lock(run, sites, no_key=0.5)
        infl.tl.map_to(run.model, late := query.copy())
        public.append(balanced(truth, late.obsm["infl_probabilities"], classes, np.isin(truth, classes)))
        judged.append(1 / len(classes))
    chance = float(np.mean(judged))
    table.add("cells: balanced accuracy without the key", f"chance, {chance:.2f}", closed, chance=chance)
    table.add("cells: the same of a public tier that is calibrated to 0.5", "near 0.5", public)
    table.save()


def thief(_: Table) -> None:
    """What the locked file saves a thief who has the query's cells, and the labels of some."""
    attack, trials = ThiefFineTuning(), []
    for seed in range(THEFTS):
        sites, target = cells(seed)
        query = sites.pop("site_4")
        run = infl.tl.fit_federated(sites, target=target, rounds=THEFT_ROUNDS, seed=seed, progress=False)
        theft = Theft(AuditContext(run, sites, seed), query, seed)
        with one_thread():
            trials.append(attack._trial(theft, N_LABELS, ""))
        if len(trials) % 5 == 0 or len(trials) == THEFTS:  # what there is, should the rest not be waited for
            _report_thefts(table := Table("atlas"), attack, trials)
            table.save()


def _report_thefts(table: Table, attack: ThiefFineTuning, trials: list[dict[tuple[str, float], float]]) -> None:
    """Add the rows of the thefts so far."""
    found = attack.compare(trials)
    who = f"cells: a thief with the query and {N_LABELS} labels"
    table.add(f"{who}: balanced accuracy with the locked file", "as measured", found["stolen"], how=found["how"])
    table.add(f"{who}: without it", "as measured", found["scratch"])
    table.add(f"{who}: with the file unlocked", "control", found["unlocked"])
    gain = paired(found["difference"], 0 * found["difference"], "theft")
    verdict = "holds" if no_worse(paired(0 * found["difference"], found["difference"], "theft"), attack.margin) else ""
    table.add(
        f"{who}: with the locked file less without it",
        f"shown to be at most {attack.margin:g}",
        gain.value,
        seeds=len(trials),
        verdict=verdict or "inconclusive",
        needed=trials_for(len(trials), (gain.high - gain.low) / 2, attack.margin - gain.value),
        ok=bool(verdict),
        **gain.row(),
    )
    control = paired(found["unlocked"], found["scratch"], "theft")
    table.add(f"{who}: with the file unlocked less without it", "above 0", control.value, **control.row())


SECTIONS = {"cells": of_cells, "studies": studies, "patients": patients, "keys": keys, "thief": thief}


def main() -> None:
    """Run the sections that are named, or all."""
    table = Table("atlas")
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name](table)


if __name__ == "__main__":
    sys.path.append(sys.path.pop(0))  # `import scvi` means scvi-tools, not a benchmark
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main()
