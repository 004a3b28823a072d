"""Sites that differ: studies left out, label skew, missing features, a missing modality (docs/concepts/sites.md).

``python benchmarks/heterogeneity.py [SECTION …]`` with sections ``studies``, ``skew``, ``panel``, ``modality``, ``inside``
and ``sealed``; all without. ``judge`` judges what was measured before. Everything is chosen on validation data or by leaving one of the *training* studies out; test data only judge.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scanpy as sc
import torch

import infl
from _evidence import DATA_SETS, Estimate, paired, resplits_with
from _table import Table
from infl.federation.held_out import folds
from infl.models import Classifier
from infl.models.locked.outputs import infer
from infl.models.pooling import pool
from panels import panel_sites, use_data_folder

SEEDS = range(10)
METRIC = "balanced_accuracy"
TEST_SHARE = 0.3
DATA = {"khan": "khan", "breast": "breast rna", "stem cells": "stemcells"}
"""Data sets by how rows about them begin."""
DIFFERENCES = (": its gain over alone", ": loss of the others")
PLAIN: dict[str, Any] = {"lock": None, "seal": "none", "progress": False}

LINEAR: dict[str, Any] = {"width": 0, "optimiser": "sgd", "lr": 1.0, "aggregation_options": {"weight": "sites"}}
"""Logistic regression by gradient descent to which all sites count alike; early stopping is its penalty."""

SETTINGS: dict[str, dict[str, Any]] = {
    "federated moments": {},
    "site coordinate (FiLM)": {"coordinate": 16},
    "own moments": {"standardise": "site"},
    "own moments, no blocks": {"standardise": "site", "n_blocks": 0},
    "own moments of ranks, no blocks": {"standardise": "rank", "n_blocks": 0},
    "linear": LINEAR,
    "linear, own moments": {**LINEAR, "standardise": "site"},
    "linear, own moments of ranks": {**LINEAR, "standardise": "rank"},
    "linear, own plain moments": {**LINEAR, "standardise": "site", "balance_moments": False},
    "linear, own plain moments of ranks": {**LINEAR, "standardise": "rank", "balance_moments": False},
}
"""For a study that joins later: no adaptation, then the ways to adapt without its labels."""

RULES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox, 5 local epochs": {"aggregation": "fedprox", "local_epochs": 5},
    "scaffold, 5 local epochs": {"aggregation": "scaffold", "local_epochs": 5},
    "fedyogi": {"aggregation": "fedyogi"},
    "qfedavg": {"aggregation": "qfedavg"},
    "afl": {"aggregation": "afl"},
}

INSIDE: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "own moments": {"standardise": "site"},
    "linear, own moments": {**LINEAR, "standardise": "site"},
    "site coordinate (FiLM)": {"coordinate": 16},
    "fedbn": {"aggregation": "fedbn"},
    "own heads (partial)": {"aggregation": "partial"},
    "own first layers (partial)": {"aggregation": "partial", "aggregation_options": {"local": ["embed"]}},
    "fedavg, then personalise": {"personal": True},
    "own moments, then personalise": {"standardise": "site", "personal": True},
}
"""For sites that are in the fit, with their labels."""


def judge(rows: Sequence[dict[str, Any]]) -> None:
    """Give each difference its interval, and say whether what was asked is shown by it.

    A difference at studies left out is over studies, of which seeds are noise; all others are over splits of the same samples.
    """
    by_what = {row["what"]: row for row in rows}
    for row in rows:
        if row["what"].startswith("studies: infl minus "):
            other = row["what"].removeprefix("studies: infl minus ")
            ours, theirs = (by_what[f"studies: {m}"]["by_site"] for m in ("infl, setting chosen in the fold", other))
            found = paired([ours[s] for s in ours], [theirs[s] for s in ours], "study")  # type: ignore[arg-type]
            data = "stemcells"
        elif row["what"].endswith(DIFFERENCES) or " minus " in row["what"]:
            found = resplits_with(row["measured"], row["spread"], row["seeds"], TEST_SHARE)
            data = next(name for word, name in DATA.items() if row["what"].startswith(word))
        else:
            continue
        for end in ("low", "high"):
            row.pop(end, None)
        row |= found.row() | {"data": data, "kind": DATA_SETS[data].kind, "ok": _shown(row["asked"], found)}


def _shown(asked: str, found: Estimate) -> bool | None:
    """Return whether an interval shows what was asked of a difference."""
    bound = float(asked.split()[2]) if asked.split()[:1] == ["at"] else 0.0
    if asked.startswith("at most"):
        return found.high <= bound
    return found.low > bound if asked.startswith(("at least", "above")) else None


def values_of(table: pd.DataFrame, method: str, metric: str = METRIC) -> pd.DataFrame:
    """Return a method's balanced accuracy, a row a seed and a column a site (``""``: overall)."""
    values = pd.DataFrame(table.attrs["values"]).query("method == @method and metric == @metric")
    return values.pivot_table(index="seed", columns="site", values="value")


# -- studies left out --------------------------------------------------------------------------------------------------
def studies(table: Table) -> None:
    """Leave each of four studies out; the setting of a fold is chosen by leaving one of its three studies out.

    It is chosen by the logarithmic loss on those, which is also what the baseline's penalty is chosen by.
    """
    use_data_folder()
    sites = infl.pp.split_sites(infl.datasets.stemcells(), by="study")
    common: dict[str, Any] = {"target": "cell_type", "holdout": "site", "progress": False}
    first = infl.tl.compare(sites, methods=["pooled", "alone", "fedavg", "baseline"], seeds=SEEDS, **common)
    by_method = {m: values_of(first, m) for m in ("baseline", "pooled", "alone", "fedavg")}
    scaled = {site: sc.pp.scale(adata, copy=True) for site, adata in sites.items()}
    by_method["baseline, each study scaled by itself"] = values_of(
        infl.tl.compare(scaled, methods=["baseline"], seeds=SEEDS, **common), "baseline"
    )
    tuned = {
        out: {
            name: float(
                values_of(
                    infl.tl.compare(
                        {s: a for s, a in sites.items() if s != out}, methods=["fedavg"], seeds=2, **common, **options
                    ),
                    "fedavg",
                    "log_loss",
                )[""].mean()
            )
            for name, options in SETTINGS.items()
        }
        for out in sites
    }
    chosen = {out: min(scores, key=lambda name: scores[name]) for out, scores in tuned.items()}
    for name, options in SETTINGS.items():
        if options:
            run = infl.tl.compare(sites, methods=["fedavg"], seeds=SEEDS, **common, **options)
            by_method[f"fedavg, {name}"] = values_of(run, "fedavg")
    ours = pd.DataFrame(index=list(SEEDS), columns=list(sites), dtype=float)
    for name in set(chosen.values()):
        run = infl.tl.compare(sites, methods=["infl"], seeds=SEEDS, **common, **SETTINGS[name])
        for out in (site for site, choice in chosen.items() if choice == name):
            ours[out] = values_of(run, "infl")[out]
    unlocked = pd.DataFrame(
        {out: by_method["fedavg" + (f", {c}" if SETTINGS[c] else "")][out] for out, c in chosen.items()}
    )
    by_method["infl, setting chosen in the fold"] = ours
    for method, values in by_method.items():
        at = values[list(sites)]
        table.add(
            f"studies: {method}",
            "as measured",
            at.mean(axis=1),
            worst_site=float(at.min(axis=1).mean()),
            by_site={site: round(float(at[site].mean()), 3) for site in sites},
        )
    for other in ("baseline", "baseline, each study scaled by itself", "fedavg"):
        difference = ours.mean(axis=1) - by_method[other][list(sites)].mean(axis=1)
        table.add(
            f"studies: infl minus {other}",
            "as measured" if "," in other else "above 0 with 95 % interval",
            difference,
            chosen=chosen,
            inner=tuned,
        )
    _shift(table, "studies", (ours.mean(axis=1) - unlocked.mean(axis=1)).tolist())


# -- label skew ----------------------------------------------------------------------------------------------------------
def judged(
    sites: Mapping[str, Any], target: str, seed: int, join: str = "inner", personal: bool = False, **options: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit on the training parts; return balanced accuracy by site and together (``""``), and the validation metrics.

    With `personal` each site's model is fine-tuned there. Its validation loss chose the epoch, so it is hopeful.
    """
    task = Classifier(target=target)
    [(train, test)] = folds(task, sites, "observations", TEST_SHARE, seed)
    run = infl.tl.fit_federated({s: a.copy() for s, a in train.items()}, target=target, seed=seed, **(PLAIN | options))
    key = run.key if run.model.header.fingerprint else None
    task, panel = run.model.header.build_task(), run.model.header.panel
    models = {s: run.site_models.get(s, run.model) for s in test}
    best = run.history.loc[run.history["best"]].iloc[0]
    validation = {"loss": float(best["val_loss"]), METRIC: float(best[f"val_{METRIC}"])}
    if personal:
        own = infl.tl.personalise(run, train, key=key, seed=seed)
        models, size = own.models, own.table["n_validation"]
        validation = {m: float(np.average(own.table[f"{m}_after"], weights=size)) for m in validation}
    outputs = {s: infer(a, models[s], key) for s, a in test.items()}
    scores = {s: task.score(a, outputs[s], panel)[METRIC] for s, a in test.items()}
    joined = {"probability": np.concatenate([o["probability"] for o in outputs.values()])}
    scores[""] = task.score(pool(test, join), joined, panel)[METRIC]  # type: ignore[arg-type]
    return scores, validation


def skew(table: Table) -> None:
    """Deal panels out with label skew; every rule under lock and seal, the best by its mean validation loss."""
    cases = [(name, alpha) for alpha in (0.1, 0.5, None) for name in ("khan", "breast rna")]
    for name, alpha in cases:
        label = f"{name}, α = {alpha or '∞'}"
        values: dict[str, list[float]] = defaultdict(list)
        worst: dict[str, list[float]] = defaultdict(list)
        losses: dict[str, list[float]] = defaultdict(list)
        for seed in SEEDS:
            sites, target = panel_sites(name, seed=seed, alpha=alpha)
            _note(
                values, worst, infl.tl.compare(sites, target=target, seeds=[seed], methods=["pooled"], progress=False)
            )
            for rule, options in RULES.items() if alpha == 0.1 else [("fedavg", {})]:
                scores, validation = judged(sites, target, seed, lock="field", seal="group", **options)
                values[rule].append(scores.pop(""))
                worst[rule].append(min(scores.values()))
                losses[rule].append(validation["loss"])
        for method in values:
            more = {"validation_loss": float(np.mean(losses[method]))} if method in losses else {}
            at_worst = float(np.mean(worst[method]))
            table.add(f"{label}: {method}", "as measured", values[method], worst_site=at_worst, **more)
        best = min(losses, key=lambda rule: float(np.mean(losses[rule])))
        gap = np.subtract(values[best], values["pooled"])
        table.add(f"{label}: best rule by validation ({best}) minus pooled", "at least -0.04", gap)
        plain = []
        for seed in SEEDS:
            sites, target = panel_sites(name, seed=seed, alpha=alpha)
            plain.append(judged(sites, target, seed, **RULES[best])[0][""])
        _shift(table, label, np.subtract(values[best], plain).tolist())
        table.save()
    for name, alpha in cases:
        values, worst = defaultdict(list), defaultdict(list)
        for seed in SEEDS:
            sites, target = panel_sites(name, seed=seed, alpha=alpha)
            methods = ["baseline", "alone"]
            _note(values, worst, infl.tl.compare(sites, target=target, seeds=[seed], methods=methods, progress=False))
        for method in values:
            at_worst = float(np.mean(worst[method]))
            table.add(f"{name}, α = {alpha or '∞'}: {method}", "as measured", values[method], worst_site=at_worst)
        table.save()


def _note(values: dict[str, list[float]], worst: dict[str, list[float]], result: pd.DataFrame) -> None:
    for row in result.query("metric == @METRIC").itertuples():
        values[row.method].append(row.mean)
        worst[row.method].append(row.worst_site)


# -- a site that lacks features --------------------------------------------------------------------------------------------
def panel(table: Table) -> None:
    """Take 40 % of the features from one site: what it gains over alone, and what the others lose.

    Network or linear model: in the federation, and for the site alone, what has the higher balanced accuracy on validation
    data there (the loss says more of confidence, and early stopping keeps that of the linear model low).
    """
    models: dict[str, dict[str, Any]] = {"network": {}, "linear": {**LINEAR, "aggregation_options": {}}}
    for name in ("khan", "breast rna"):
        rows: dict[tuple[str, str], list[float]] = defaultdict(list)
        validated: dict[tuple[str, str], list[float]] = defaultdict(list)
        for seed in range(20):
            whole, target = panel_sites(name, seed=seed)
            n = whole["site_1"].n_vars
            keep = np.sort(np.random.default_rng(seed).permutation(n)[: round(0.6 * n)])
            lacking = {**whole, "site_1": whole["site_1"][:, keep].copy()}
            others = [site for site in whole if site != "site_1"]
            for model, options in models.items():
                union = {**options, "features": "union"}
                fits = {
                    "masks": judged(lacking, target, seed, "outer", **union),
                    "nothing missing": judged(whole, target, seed, **options),
                    "alone": judged({"site_1": lacking["site_1"]}, target, seed, **options),
                }
                for what, (scores, validation) in fits.items():
                    validated[model, what].append(validation[METRIC])
                    rows[model, f"that site, {what}"].append(scores["site_1"])
                    if what != "alone":
                        rows[model, f"other sites, {what}"].append(float(np.mean([scores[s] for s in others])))
                sealed, _ = judged(lacking, target, seed, "outer", lock="field", seal="group", **union)
                rows[model, "shift"].append(sealed[""] - fits["masks"][0][""])
        best = {what: max(models, key=lambda m: float(np.nanmean(validated[m, what]))) for what in ("masks", "alone")}
        label = f"{name}, a site lacks 40 %"
        for (model, what), values in rows.items():
            if what != "shift":
                table.add(f"{label}: {what}, {model}", "as measured", values)
        ours, theirs = best["masks"], best["alone"]
        gain = np.subtract(rows[ours, "that site, masks"], rows[theirs, "that site, alone"])
        table.add(f"{label}: its gain over alone", "above 0", gain, chosen=best)
        loss = np.subtract(rows[ours, "other sites, nothing missing"], rows[ours, "other sites, masks"])
        table.add(f"{label}: loss of the others", "at most 0.02", loss)
        _shift(table, label, rows[ours, "shift"])


def _shift(table: Table, label: str, differences: Sequence[float]) -> None:
    shift = abs(float(np.mean(differences)))
    table.add(f"{label}: lock and seal, difference", "0.005", shift, seeds=len(differences), ok=shift <= 0.005)


# -- sites that are in the fit ---------------------------------------------------------------------------------------------
def inside(table: Table) -> None:
    """Batch effects, and labels that mean something else at one site, where all sites are in the fit."""
    for name in ("stem cells", "breast rna, two labels swapped at a site"):
        values: dict[str, list[float]] = defaultdict(list)
        worst: dict[str, list[float]] = defaultdict(list)
        losses: dict[str, list[float]] = defaultdict(list)
        for seed in SEEDS:
            sites, target = _sites_inside(name, seed)
            for rule, options in INSIDE.items():
                scores, validation = judged(sites, target, seed, **options)
                values[rule].append(float(np.mean([scores[site] for site in sites])))
                worst[rule].append(min(scores[site] for site in sites))
                losses[rule].append(validation["loss"])
            alone = [judged({site: adata}, target, seed)[0][site] for site, adata in sites.items()]
            values["alone"].append(float(np.mean(alone)))
            worst["alone"].append(min(alone))
        for rule in values:
            more = {"validation_loss": float(np.mean(losses[rule]))} if rule in losses else {}
            at_worst = float(np.mean(worst[rule]))
            table.add(f"{name}, mean of sites: {rule}", "as measured", values[rule], worst_site=at_worst, **more)
        best = min(losses, key=lambda rule: float(np.mean(losses[rule])))
        for other in dict.fromkeys(("fedavg", "alone")):
            gap = np.subtract(values[best], values[other])
            table.add(f"{name}: best rule by validation ({best}) minus {other}", "as measured", gap)
        shift = []
        for seed in SEEDS:
            sites, target = _sites_inside(name, seed)
            scores, _ = judged(sites, target, seed, lock="field", seal="group", **INSIDE[best])
            shift.append(float(np.mean([scores[site] for site in sites])) - values[best][seed])
        _shift(table, name, shift)
        table.save()


def _sites_inside(name: str, seed: int) -> tuple[dict[str, Any], str]:
    use_data_folder()
    if name == "stem cells":
        return infl.pp.split_sites(infl.datasets.stemcells(), by="study"), "cell_type"
    sites, target = panel_sites("breast rna", seed=seed)
    labels = sites["site_1"].obs[target].astype(str)
    first, second = sorted(set(labels))[:2]
    sites["site_1"].obs[target] = labels.replace({first: second, second: first}).to_numpy()
    return sites, target


# -- a site that lacks a modality --------------------------------------------------------------------------------------------
def modality(table: Table) -> None:
    """Take the proteins from one site: all modalities together against each, on the same held-out samples."""
    use_data_folder()
    breast = infl.datasets.breast_tcga()
    breast = breast[breast.obs["published_split"] == "train"].copy()
    rows: dict[str, list[float]] = defaultdict(list)
    for seed in SEEDS:
        sites = infl.pp.split_sites(breast, 5, stratify="subtype", seed=seed)
        whole = sites["site_1"]
        sites["site_1"] = mudata.MuData({m: whole.mod[m].copy() for m in ("rna", "mirna")})
        sites["site_1"].obs["subtype"] = whole.obs["subtype"].reindex(sites["site_1"].obs_names)
        for method, options in {
            "rna": {"modality": "rna"},
            "mirna": {"modality": "mirna"},
            "fused": {},
            "fused, lock and seal": {"lock": "field", "seal": "group"},
        }.items():
            scores, _ = judged(sites, "subtype", seed, **options)
            rows[method].append(scores[""])
        having = {site: adata for site, adata in sites.items() if site != "site_1"}
        rows["protein (four sites)"].append(judged(having, "subtype", seed, modality="protein")[0][""])
    for method, values in rows.items():
        table.add(f"breast, a site lacks protein: {method}", "as measured", values)
    single = {m: rows[m] for m in ("rna", "mirna", "protein (four sites)")}
    best = max(single, key=lambda m: float(np.mean(single[m])))
    gap = np.subtract(rows["fused"], single[best])
    table.add(f"breast, a site lacks protein: fused minus {best}", "at least 0", gap)
    _shift(table, "breast, a site lacks protein", np.subtract(rows["fused, lock and seal"], rows["fused"]).tolist())


def sealed(table: Table) -> None:
    """Tell the largest difference that lock and seal made to any of the above."""
    rows = [row for row in table.known() if row["what"].endswith(": lock and seal, difference")]
    largest = max(rows, key=lambda row: row["measured"])
    value = largest["measured"]
    table.add(
        "all of the above: lock and seal, largest difference",
        "0.005",
        value,
        seeds=largest["seeds"],
        ok=value <= 0.005,
        over=[row["what"].removesuffix(": lock and seal, difference") for row in rows],
    )


SECTIONS = {
    "studies": studies,
    "skew": skew,
    "panel": panel,
    "modality": modality,
    "inside": inside,
    "sealed": sealed,
    "judge": lambda table: None,
}


def main() -> None:
    """Run the sections that are named, or all."""
    table = Table("heterogeneity")
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name](table)
        table.save()
    table.rows = table.known()
    judge(table.rows)
    table.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main()
