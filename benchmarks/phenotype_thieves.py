"""A stolen file of each phenotype: no key, wrong keys, a key with one bit changed, and a thief who has sixteen samples.

A protein of breast tumours (regressor), survival of GBSG2, three columns of labels with gaps, an ordered column, and subtypes with two
covariates beside the features (classifier); simulated patients whose features say little one by one (survival). Regressor and survival are
linear models, their default, and networks. Keys are tried on three runs, each of another seed; the thief trains on from files of other
halves of one run. Controls: the right key, and the file unlocked.

A thief of a linear model who has no sample, but what studies publish: mean, standard deviation and correlation with the outcome of each
feature, from other patients. He weighs features by those correlations, joined with the stored weights in every way that we know of, of which
the best counts. Beside him is one who has random numbers in place of the file, and one who has it unlocked.

``python benchmarks/phenotype_thieves.py [keys] [thief] [summary] ["many keys"] [HEAD …]``
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats
from threadpoolctl import threadpool_limits

import infl
from _evidence import over_units
from _table import Table
from infl.attacks import AuditContext, Finding, load_attack
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.weights import random_ring
from infl.errors import InflWarning
from infl.federation.held_out import folds
from infl.models.registry import make_task
from infl.sums.concordance import concordance_of_pairs, ordered_pairs
from labels import COLUMNS, tumours
from phenotypes import breast_sites, cohort_sites, gbsg2_sites
from thieves import add_findings

SEEDS, N_TRIALS = range(3), 10
KEYS = ("no_key", "wrong_key", "one_bit_key", "importance_thief")
THIEF = "thief_fine_tuning"
PARTS: dict[str, tuple[tuple[str, ...], Sequence[int]]] = {"keys": (KEYS, SEEDS), "thief": ((THIEF,), SEEDS[:1])}
"""Attacks, and how many runs they are tried on; the thief takes longest."""
MANY, N_MANY = "many keys", 200
"""Survival of GBSG2 has eight features, so that a random key's concordance varies by 0.08: this many keys, on each run."""
SUMMARY, N_SPLITS = "summary", 10
SUMMARISED = ("regressor", "survival", "survival of paired features")
"""The thief with published figures, and on how many splits of the patients into three parts he is tried."""


def with_age() -> dict[str, ad.AnnData]:
    """Return the tumours with a number and a label beside the features, of which a fifth is missing."""
    sites, rng = breast_sites(), np.random.default_rng(0)
    for adata in sites.values():
        age = np.round(rng.normal(58, 12, adata.n_obs))
        adata.obs["age"] = np.where(rng.random(adata.n_obs) < 0.2, np.nan, age)
        adata.obs["side"] = rng.choice(["left", "right"], adata.n_obs)
    return sites


def in_parts() -> dict[str, ad.AnnData]:
    """Return the tumours with a protein's level in three ordered parts."""
    sites = breast_sites()
    ends = np.quantile(np.concatenate([adata.obs["protein"] for adata in sites.values()]), [1 / 3, 2 / 3])
    for adata in sites.values():
        part = np.digitize(adata.obs["protein"], ends)
        adata.obs["part"] = pd.Categorical.from_codes(part, ["low", "middle", "high"], ordered=True)
    return sites


def paired_features() -> dict[str, ad.AnnData]:
    """Return simulated patients whose features come in pairs: alike, but of opposite effects, so that each by itself says little.

    So there is something to steal from a thief's point of view: weights that published figures of single features do not give.
    """
    rng, n, alike = np.random.default_rng(0), 900, 0.7
    first = rng.normal(size=(n, 20))
    second = alike * first + np.sqrt(1 - alike**2) * rng.normal(size=first.shape)
    effect = 0.5 * rng.choice([-1, 1], first.shape[1])
    risk = first @ effect - alike * second @ effect
    event, end = rng.exponential(np.exp(-risk)), rng.exponential(2, n)
    names = [f"{name}_{i}" for name in ("first", "second") for i in range(first.shape[1])]
    features = pd.DataFrame(np.hstack([first, second]).astype(np.float32), columns=names)
    table = pd.DataFrame({"days": 1000 * np.minimum(event, end) + 1})
    return cohort_sites(table, "days", pd.Series(event <= end), features)


HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "regressor": (breast_sites, {"model": "regressor", "target": "protein"}),
    "regressor network": (breast_sites, {"model": "regressor", "target": "protein", "width": 64}),
    "survival": (gbsg2_sites, {"model": "survival", "time": "time", "event": "died"}),
    "survival of paired features": (paired_features, {"model": "survival", "time": "time", "event": "died"}),
    "survival network": (gbsg2_sites, {"model": "survival", "time": "time", "event": "died", "width": 64}),
    "labels": (tumours, {"target": COLUMNS}),
    "ordinal": (in_parts, {"target": ["part"]}),
    "classifier with covariates": (with_age, {"target": "subtype", "covariates": ["age", "side"]}),
}
"""Data, and what is fitted to them."""


def measured(head: str, attacks: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, str], list[Finding]]:
    """Return what each attack found, over seeds."""
    make, what = HEADS[head]
    found: dict[tuple[str, str], list[Finding]] = {}
    for seed in seeds:
        sites = make()
        run = infl.tl.fit_federated(sites, **what, seed=seed, progress=False)
        context = AuditContext(run, sites, seed)
        for name in attacks:
            attack: Any = load_attack(name)
            if name == THIEF:
                attack.n_trials = N_TRIALS
            with threadpool_limits(1):
                for finding in attack.run(context):
                    found.setdefault((name, finding.metric), []).append(finding)
    return found


WAYS = {
    "stored": lambda stored, public: stored,
    "published signs, stored sizes": lambda stored, public: np.sign(public) * np.abs(stored),
    "published times stored size": lambda stored, public: public * np.abs(stored),
    "published where signs agree": lambda stored, public: public * (np.sign(stored) == np.sign(public)),
    "published signs, stored sizes by rank": lambda stored, public: (
        np.sign(public) * np.sort(np.abs(stored))[np.argsort(np.argsort(np.abs(public)))]
    ),
    "both added": lambda stored, public: stored / np.linalg.norm(stored) + public / np.linalg.norm(public),
    "published": lambda stored, public: public,
}
"""Weights of features (p,), from those in the file and published correlations."""


def with_summary(head: str) -> Finding:
    """Return what published figures and a file of a linear model tell of patients, beside published figures and random numbers."""
    make, what = HEADS[head]
    survival = what["model"] == "survival"
    found: dict[str, list[float]] = {"file": [], "nothing": [], "unlocked": []}
    for seed in range(N_SPLITS):
        train, others = next(folds(make_task(what["model"], without_model(what)), make(), "observations", 2 / 3, seed))
        run = infl.tl.fit_federated(train, **what, seed=seed, progress=False)
        rest, rng = ad.concat(list(others.values())), np.random.default_rng(seed)
        public, judged = (rest[rows] for rows in np.array_split(rng.permutation(rest.n_obs), 2))
        mean, spread = public.X.mean(0), np.maximum(public.X.std(0), 1e-6)
        outcome = residuals(public.obs) if survival else public.obs["protein"].to_numpy(float)
        outcome = outcome - outcome.mean()
        weights = outcome @ ((public.X - mean) / spread) / len(outcome)
        stored = run.model.stored["head.weight"].double().numpy()[0]
        unlocked = run.model.effective(run.key)["head.weight"].double().numpy()[0]
        x = (judged.X - mean) / spread

        def worth(file: np.ndarray, x: np.ndarray = x, of: ad.AnnData = judged, w: np.ndarray = weights) -> float:
            scores = [x @ way(file, w) for way in WAYS.values()]
            if survival:
                time, died = of.obs["time"].to_numpy(float), of.obs["died"].to_numpy(bool)
                return max(concordance_of_pairs(ordered_pairs(time, died, score))[0] for score in scores)
            r = [np.corrcoef(score, of.obs["protein"])[0, 1] for score in scores]
            return float(max(np.sign(one) * one**2 for one in r))

        found["file"].append(worth(stored))
        found["nothing"].append(worth(rng.permutation(stored) * rng.choice([-1, 1], len(stored))))
        found["unlocked"].append(worth(unlocked))
    chance, control = np.mean(found["nothing"]), np.mean(found["unlocked"])
    more = np.subtract(found["file"], found["nothing"])
    value, half = more.mean() + chance, stats.t.ppf(0.975, N_SPLITS - 1) * more.std(ddof=1) / N_SPLITS**0.5
    ends = {"value": value, "low": value - half, "high": value + half, "trials": N_SPLITS}
    metric = "concordance" if survival else "r2 at the best scale"
    note = "Published figures of each feature with the stored weights, against random numbers (chance) and the unlocked file (control)."
    return Finding(metric, **ends, chance=chance, control=control, promised=True, margin=0.02, note=note)


def residuals(obs: pd.DataFrame) -> np.ndarray:
    """Return by how many events a patient had more than patients of as long a time are expected to (martingale residuals)."""
    time, died = obs["time"].to_numpy(float), obs["died"].to_numpy(bool)
    hazard = np.array([1 / (time >= t).sum() if d else 0.0 for t, d in zip(time, died, strict=True)])
    return died - np.array([hazard[time <= t].sum() for t in time])


def without_model(what: dict[str, Any]) -> dict[str, Any]:
    """Return a task's own options."""
    return {name: value for name, value in what.items() if name != "model"}


def many_keys(table: Table, head: str) -> None:
    """Add what random keys are worth on the runs of each seed, over more keys than an audit tries."""
    make, what = HEADS[head]
    for seed in SEEDS:
        sites = make()
        run = infl.tl.fit_federated(sites, **what, seed=seed, progress=False)
        file, rng = ModelFile(AuditContext(run, sites, seed)), np.random.default_rng(seed)
        worth = [file.accuracy(file.model.module(random_ring(rng), verify=False)) for _ in range(N_MANY)]
        found = over_units(worth, "key")
        name = f"{head}: {MANY}, {file.task.headline}, run {seed}"
        table.add(name, "interval has 0.5", found.value, ok=found.low <= 0.5 <= found.high, **found.row())


def main() -> None:
    """Attack the heads that are named, or all, by the parts that are named, or both."""
    warnings.simplefilter("ignore", InflWarning)
    table = Table("phenotype_thieves")
    heads = [name for name in sys.argv[1:] if name in HEADS] or [*HEADS]
    for part in [name for name in sys.argv[1:] if name in (*PARTS, SUMMARY, MANY)] or (*PARTS, SUMMARY, MANY):
        if part == MANY:
            many_keys(table, "survival")
            table.save()
            continue
        for head in heads if part != SUMMARY else [name for name in heads if name in SUMMARISED]:
            if part == SUMMARY:
                finding = with_summary(head)
                add_findings(table, {(SUMMARY, finding.metric): [finding]}, f"{head}: ")
                table.save()
                continue
            add_findings(table, measured(head, *PARTS[part]), f"{head}: ")
            table.save()


if __name__ == "__main__":
    main()
