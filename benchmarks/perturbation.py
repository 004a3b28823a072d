"""Perturbation regression on Papalexi (25 targets, 299 genes, three replicates = three sites): python benchmarks/perturbation.py [QUESTION …].

Every target in turn is left out at all sites and predicted by what never saw it. Metrics stand between a negative control
(the mean of the other perturbations) and a positive one (the same perturbation in the other replicates). Intervals are over targets:
seeds and replicates are averaged within one.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from itertools import combinations

import numpy as np
import torch

import infl
from _evidence import Estimate, over_units, paired
from _table import Table
from infl.errors import InflWarning
from infl.keys import Keyring
from infl.models.perturbation.effects import MEMBERS
from infl.models.perturbation.scoring import effect_metrics
from panels import use_data_folder

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "5"))
METRICS = ("pearson_delta", "mse", "mse_top20", "direction_top20", "wmse", "r2_delta")

# Edges of the JAK-STAT pathway as textbooks draw it (receptor, kinase, what it phosphorylates, dimers, target).
JAK_STAT = (
    ("IFNGR1", "IFNGR2"), ("IFNGR1", "JAK2"), ("IFNGR2", "JAK2"), ("IFNGR1", "STAT1"), ("IFNGR2", "STAT1"),
    ("JAK2", "STAT1"), ("JAK2", "STAT3"), ("JAK2", "STAT5A"), ("STAT1", "STAT2"), ("STAT1", "STAT3"), ("STAT1", "IRF1"),
)  # fmt: skip

# Which of the targets share a gene set: KEGG JAK-STAT signalling, GO interferon-gamma-mediated signalling, Reactome
# interferon alpha/beta signalling, KEGG PD-L1 expression and PD-1 checkpoint, TGF-beta, TNF, cell adhesion molecules,
# transcriptional misregulation in cancer.
GENE_SETS = (
    ("IFNGR1", "IFNGR2", "JAK2", "STAT1", "STAT2", "STAT3", "STAT5A", "MYC"),
    ("IFNGR1", "IFNGR2", "JAK2", "STAT1", "IRF1"),
    ("STAT1", "STAT2", "IRF1", "IRF7"),
    ("IFNGR1", "IFNGR2", "JAK2", "STAT1", "STAT3", "NFKBIA"),
    ("SMAD4", "MYC"),
    ("NFKBIA", "IRF1"),
    ("CD86", "PDCD1LG2", "TNFRSF14"),
    ("SPI1", "MYC", "CD86"),
)  # fmt: skip


def shared_sets() -> list[tuple[str, str, float]]:
    """Edges between targets that share gene sets; a set of n genes counts 1 / (n - 1)."""
    weight: dict[tuple[str, str], float] = {}
    for genes in GENE_SETS:
        for pair in combinations(sorted(genes), 2):
            weight[pair] = weight.get(pair, 0.0) + 1 / (len(genes) - 1)
    return [(a, b, w) for (a, b), w in weight.items()]


GRAPHS = {"no graph": (), "gene sets": shared_sets(), "JAK-STAT edges": JAK_STAT}


@cache
def cells():
    use_data_folder()
    adata = infl.datasets.papalexi()
    sites = infl.pp.split_sites(adata, by="replicate")
    infl.pp.normalize_total(sites)
    infl.pp.log1p(sites)
    return sites


def targets() -> list[str]:
    return sorted(set(next(iter(cells().values())).obs["perturbation"].astype(str)) - {"control"})


def truth(sites) -> dict[str, np.ndarray]:
    """Effects as measured, within sites, weighted by cells."""
    out = {}
    for target in targets():
        parts, n = [], []
        for adata in sites.values():
            of = adata.obs["perturbation"].astype(str).to_numpy()
            x = [np.asarray(adata[of == label].X.mean(0)).ravel() for label in (target, "control")]
            parts.append(x[0] - x[1])
            n.append((of == target).sum())
        out[target] = np.average(parts, axis=0, weights=n)
    return out


def fit(sites, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        return infl.tl.fit_federated(
            {s: a.copy() for s, a in sites.items()},
            model="perturbation",
            target="perturbation",
            progress=False,
            **{"rounds": 30} | options,
        )


def without(sites, target):
    return {s: a[a.obs["perturbation"].astype(str) != target].copy() for s, a in sites.items()}


def predict(run, genes, key=None, *, verify=True) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        return infl.tl.predict_perturbations(run.model, genes, key=key, verify=verify).X


def pooled(sites):
    """All cells in one place."""
    import anndata as ad

    return {"all": ad.concat(list(sites.values()))}


UNIT, DATA = "perturbation target", "papalexi"


def leave_one_out(table: Table) -> None:
    """All 25 targets: ours with each graph, its members, the controls."""
    sites, real = cells(), truth(cells())
    names = targets()
    positive = {s: truth({k: a for k, a in sites.items() if k != s}) for s in sites}
    single = {s: truth({s: a}) for s, a in sites.items()}
    pairs = [[effect_metrics(positive[s][t], single[s][t]) for s in sites] for t in names]
    for metric in METRICS:
        found = over_units(np.array([[pair[metric] for pair in of_target] for of_target in pairs]), UNIT)
        what = f"positive control, same perturbation in the other replicates: {metric}"
        table.estimate(what, "reported", found, data=DATA)
    for graph, edges in GRAPHS.items():
        seeds = SEEDS if graph == "gene sets" else 1  # they move the network alone
        rows: dict[str, dict[str, list[float]]] = {}
        for target in names:
            left = without(sites, target)
            for seed in range(seeds):
                run = fit(left, graph=edges, seed=seed)
                found = {"ours": predict(run, [target], run.key)[0]}
                if seed == 0:
                    task, panel = run.model.header.build_task(), run.model.header.panel
                    stack = task.effects(panel, run.model.private_arrays(run.key))
                    found |= {name: stack.member(name, target) for name in ("zero", *MEMBERS)}
                    found["stack"] = stack.predict((target,))
                for name, guess in found.items():
                    for metric, value in effect_metrics(guess, real[target]).items():
                        rows.setdefault(name, {}).setdefault(metric, []).append(value)
                    own = [i for i, g in enumerate(panel["features"]) if g == target]
                    rest = effect_metrics(np.delete(guess, own), np.delete(real[target], own))
                    rows[name].setdefault("pearson_delta without the gene itself", []).append(rest["pearson_delta"])
        tell(
            table,
            graph,
            {name: {m: np.reshape(v, (len(names), -1)) for m, v in row.items()} for name, row in rows.items()},
        )
        table.save()


def tell(table: Table, graph: str, rows: dict[str, dict[str, np.ndarray]]) -> None:
    """Add the rows of a graph: of every method, by metric, values ``(targets, seeds)``."""
    ours = {metric: values.mean(1) for metric, values in rows["ours"].items()}
    for name, row in rows.items():
        for metric in (*METRICS, "pearson_delta without the gene itself"):
            values, more = row[metric], {"seeds": row[metric].shape[1]}
            if name != "ours":
                gain = paired(ours[metric], values.mean(1), UNIT)
                more |= {"ours_minus_this": [gain.low, gain.high]}
            found, what = over_units(values, UNIT), f"{graph}, {name}: {metric}"
            if (name, metric) == ("ours", "pearson_delta"):
                table.bound(what, found, least=0.36, data=DATA, **more)
            else:
                table.estimate(what, "reported", found, data=DATA, **more)
    for metric, sign in (("pearson_delta", 1), ("mse_top20", -1)):
        for name in ("zero", "mean", "loadings"):
            gain = paired(sign * ours[metric], sign * rows[name][metric].mean(1), UNIT)
            what = f"{graph}: gain over the baseline {name} in {metric}, mean over targets"
            table.bound(what, gain, least=0, data=DATA)


def seen(table: Table) -> None:
    """Perturbations that were seen, in a replicate that was not: three replicates of a target are one unit."""
    sites, edges, names = cells(), GRAPHS["gene sets"], targets()
    ours, own_mean, all_mean = [], [], []
    for held in sites:
        rest = {s: a for s, a in sites.items() if s != held}
        real, before = truth({held: sites[held]}), truth(rest)
        run = fit(rest, graph=edges, min_sites=2)
        of_all = np.mean([before[target] for target in names], 0)
        ours.append([effect_metrics(g, real[t]) for t, g in zip(names, predict(run, names, run.key), strict=True)])
        own_mean.append([effect_metrics(before[target], real[target]) for target in names])
        all_mean.append([effect_metrics(of_all, real[target]) for target in names])

    def values(rows: list[list[dict[str, float]]], metric: str) -> np.ndarray:
        return np.array([[row[metric] for row in of_site] for of_site in rows]).T

    for metric, sign in (("pearson_delta", 1), ("mse", -1), ("mse_top20", -1)):
        found = over_units(values(ours, metric), UNIT)
        table.estimate(f"held-out replicate, seen perturbations: {metric}", "reported", found, data=DATA)
        for name, rows in (
            ("the perturbation's own training mean", own_mean),
            ("the mean of all perturbations", all_mean),
        ):
            gain: Estimate = paired(sign * values(ours, metric), sign * values(rows, metric), UNIT)
            what = f"held-out replicate: gain over {name} in {metric}"
            if rows is own_mean:
                table.bound(what, gain, least=0, data=DATA)
            else:
                table.estimate(what, "for comparison", gain, data=DATA)


def left_out_twice(table: Table) -> None:
    """A target that nobody perturbed, in a replicate that took no part: the stack alone, beside the mean of the other targets."""
    sites, names = cells(), targets()
    rests = {held: {s: a for s, a in sites.items() if s != held} for held in sites}
    for graph, edges in GRAPHS.items():
        ours: list[list[float]] = []
        mean: list[list[float]] = []
        for held, rest in rests.items():
            real, before = truth({held: sites[held]}), truth(rest)
            run = fit(rest, graph=edges, rounds=1, min_sites=2)
            task, panel = run.model.header.build_task(), run.model.header.panel
            stack = task.effects(panel, run.model.private_arrays(run.key))
            guesses = {t: stack.predict((t,), without=stack.conditions.index((t,))) for t in names}
            others = {t: np.mean([before[other] for other in names if other != t], 0) for t in names}
            ours.append([effect_metrics(guesses[t], real[t])["pearson_delta"] for t in names])
            mean.append([effect_metrics(others[t], real[t])["pearson_delta"] for t in names])
        what = f"{graph}, target and replicate left out: pearson_delta"
        table.estimate(what, "reported", over_units(np.array(ours).T, UNIT), data=DATA)
        gain = paired(np.array(ours).T, np.array(mean).T, UNIT)
        table.bound(f"{what}, gain over the mean of the other targets", gain, least=0, data=DATA)


def federation(table: Table) -> None:
    """Federated against pooled; locked and sealed against neither; wrong keys; ten sites, half of them in a round."""
    sites, real, edges = cells(), truth(cells()), GRAPHS["gene sets"]
    some = targets()[::3]
    differences: dict[str, list[float]] = {m: [] for m in METRICS}
    parted, wrong, none, many = [], [], [], []
    for seed, target in enumerate(some):
        left = without(sites, target)
        run = fit(left, graph=edges, seed=seed)
        a = predict(run, [target], run.key)[0]
        one = fit(pooled(left), graph=edges, seed=seed, seal="none", min_sites=1)
        b = predict(one, [target], one.key)[0]
        for metric in METRICS:
            differences[metric].append(
                effect_metrics(a, real[target])[metric] - effect_metrics(b, real[target])[metric]
            )
        plain = fit(left, graph=edges, seed=seed, lock=None, seal="none")
        c = predict(plain, [target])[0]
        parted.append(float(np.linalg.norm(a - c) / np.linalg.norm(c)))
        for _ in range(5):
            guess = predict(run, [target], Keyring.create(), verify=False)[0]
            wrong.append(effect_metrics(guess, real[target])["pearson_delta"])
        none.append(effect_metrics(predict(run, [target])[0], real[target])["pearson_delta"])
    for metric, values in differences.items():
        table.equal(f"federated minus pooled: {metric}", over_units(values, UNIT), 0.02, data=DATA)
    table.add("locked and sealed against neither, relative", "<= 1e-3", parted, ok=bool(max(parted) <= 1e-3))
    table.bound(
        "ten wrong keys: pearson_delta", over_units(np.reshape(wrong, (len(some), -1)), UNIT), most=0.05, data=DATA
    )
    table.bound("no key: pearson_delta", over_units(none, UNIT), most=0.05, data=DATA)
    whole = pooled(sites)["all"]
    for seed, target in enumerate(some):
        ten = infl.pp.split_sites(whole[whole.obs["perturbation"].astype(str) != target].copy(), 10, seed=seed)
        run = fit(ten, graph=edges, seed=seed, participation=0.5)
        many.append(effect_metrics(predict(run, [target], run.key)[0], real[target])["pearson_delta"])
    table.estimate("ten sites, half of them in a round: pearson_delta", "reported", over_units(many, UNIT), data=DATA)


def federation_of_all(table: Table) -> None:
    """Federated against pooled for every target: the stack alone, which needs one fit of sums for all of them."""
    sites, real = cells(), truth(cells())
    stacks = []
    for tables in (sites, pooled(sites)):
        run = fit(tables, graph=GRAPHS["gene sets"], rounds=1, seal="none", min_sites=1)
        task, panel = run.model.header.build_task(), run.model.header.panel
        stacks.append(task.effects(panel, run.model.private_arrays(run.key)))
    scores = [
        [
            effect_metrics(stack.predict((target,), without=stack.conditions.index((target,))), real[target])
            for stack in stacks
        ]
        for target in targets()
    ]
    for metric in METRICS:
        gap = np.array([ours[metric] - theirs[metric] for ours, theirs in scores])
        table.equal(
            f"federated minus pooled, stack alone, all targets: {metric}", over_units(gap, UNIT), 0.02, data=DATA
        )


QUESTIONS = {
    "leave_one_out": leave_one_out,
    "seen": seen,
    "left_out_twice": left_out_twice,
    "federation": federation,
    "federation_of_all": federation_of_all,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    result = Table("perturbation")
    for question in sys.argv[1:] or QUESTIONS:
        QUESTIONS[question](result)
        result.save()
