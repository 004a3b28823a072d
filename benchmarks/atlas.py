"""Mapping real cells to a locked reference: labels of a site that was held out, and cells of a class that no site had.

Cells: ten types of peripheral blood (700 cells of 10x Genomics' 68k, as shipped in scanpy), dealt out to four sites at random, the last
of which is the query; so no site has a batch effect.
Beside it, logistic regression on the pooled data of the other sites.

``python benchmarks/atlas.py [cells] [keys] [thief]``
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import defaultdict

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData

import infl
from _evidence import paired
from _table import Table
from infl._threads import one_thread
from infl.attacks import AuditContext
from infl.attacks._kit.theft import Theft
from infl.attacks.thief_fine_tuning import ThiefFineTuning
from infl.models.labelled import area_under_curve
from infl.models.pooling import pool

SEEDS = range(int(os.environ.get("INFL_BENCH_SEEDS", "5")))
FEWEST = 15
N_LABELS = 30
"""Of the query's cells, that a thief knows."""


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


def mapped(inside: dict[str, AnnData], query: AnnData, target: str, seed: int, unseen: str | None) -> dict[str, float]:
    """Fit a reference, without a class if one is named, map the query to it, and judge."""
    parts = {s: a[(a.obs[target].astype(str) != unseen).to_numpy()].copy() for s, a in inside.items()}
    run = infl.tl.fit_federated(parts, target=target, atlas=True, seed=seed, progress=False)
    late = query.copy()
    infl.tl.map_to(run, late, site="late", seed=seed)
    truth = late.obs[target].astype(str).to_numpy()
    panel, new = run.model.header.panel, truth == (unseen or "")
    known = np.isin(truth, panel["classes"])
    left = (late.obs["infl_prediction"] == "unassigned").to_numpy()
    found = {
        "balanced accuracy": balanced(truth, late.obsm["infl_probabilities"], panel["classes"], known),
        "known cells unassigned": float(left[known].mean()),
    }
    if unseen is None:
        task = run.model.header.build_task()
        pooled = task.baseline(pool(parts), panel, seed=seed)(query)["probability"]  # type: ignore[arg-type]
        return found | {"logistic regression": balanced(truth, pooled, panel["classes"], known)}
    return found | {
        "AUROC": area_under_curve(late.obs["infl_novelty"].to_numpy(), new),
        "AUROC of the probability": area_under_curve(1 - late.obs["infl_probability"].to_numpy(), new),
        "new cells unassigned": float(left[new].mean()),
    }


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
    for what in ("AUROC", "AUROC of the probability", "new cells unassigned", "known cells unassigned"):
        by = {label: float(np.nanmean([row[what] for row in rows])) for label, rows in unseen.items()}
        mean, is_asked = float(np.mean(list(by.values()))), what == "AUROC"
        table.add(
            f"{name}, a class that no site had: {what}",
            ">= 0.8" if is_asked else "as measured",
            mean,
            seeds=len(SEEDS),
            ok=mean >= 0.8 if is_asked else None,
            by_class={label: round(value, 3) for label, value in by.items()},
        )
    table.save()


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


def thief(table: Table) -> None:
    """What the locked file saves a thief who has the query's cells, and the labels of some."""
    attack, trials = ThiefFineTuning(), []
    for seed in SEEDS:
        sites, target = cells(seed)
        query = sites.pop("site_4")
        run = infl.tl.fit_federated(sites, target=target, atlas=True, seed=seed, progress=False)
        theft = Theft(AuditContext(run, sites, seed), query, seed)
        with one_thread():
            trials.append(attack._trial(theft, N_LABELS, ""))
    found = attack.compare(trials)
    who = f"cells: a thief with the query and {N_LABELS} labels"
    table.add(f"{who}: balanced accuracy with the locked file", "as measured", found["stolen"], how=found["how"])
    table.add(f"{who}: without it", "as measured", found["scratch"])
    table.add(f"{who}: with the file unlocked", "control", found["unlocked"])
    gain = paired(found["difference"], 0 * found["difference"], "seed")
    table.add(
        f"{who}: with the locked file less without it", "at most 0.05", gain.value, ok=gain.value <= 0.05, **gain.row()
    )
    table.save()


SECTIONS = {"cells": of_cells, "keys": keys, "thief": thief}


def main() -> None:
    """Run the sections that are named, or all."""
    table = Table("atlas")
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name](table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main()
