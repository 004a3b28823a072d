"""The audit under different protections: what an enemy gets from the same data, and what differential privacy costs."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import infl
from _evidence import DATA_SETS
from _table import RESULTS, Table
from infl.models import Classifier
from infl.privacy import DP
from infl.privacy.dp import epsilon_of, noise_for
from panels import panel_sites, use_data_folder

FIGURES = RESULTS.parent.parent / "docs" / "_static"
SMALL: dict[str, Any] = {"width": 16, "n_blocks": 0}
PROTECTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "DP, epsilon 8": {"privacy": DP(epsilon=8.0, delta=1e-5)},
    "DP, epsilon 2": {"privacy": DP(epsilon=2.0, delta=1e-5)},
    "none": {"lock": None, "seal": "none"},
    "lock only": {"seal": "none"},
    "seal only": {"lock": None},
    "pairwise seal": {"seal": "pairwise"},
    "published": {"lock": "published", "seal": "none", "local_epochs": 10},
}
ATTACKS = {"default": None, "DP, epsilon 8": None, "DP, epsilon 2": ["audited_epsilon"]}
"""None: all of them; the others are audited with the quick ones. At an epsilon of 2 the canaries could show a broken promise."""

TRIALS = 24
"""Of each theft, more than an audit has by itself: few of its rows are to stay undecided."""
THEFTS = ("thief_fine_tuning", "file_plus_oracle", "forged_key", "public_model_thief")

EPSILONS = (1.0, 2.0, 4.0, 8.0)
DELTA = 1e-5
CHANCE = {"khan": 1 / 4, "breast rna": 1 / 3, "papalexi": 1 / 3}
NOISE = ("distributed", "trusted aggregator", "local")
SEEDS = {"khan": 5, "breast rna": 5, "papalexi": 3}
NETWORK = "network of width 16, 60 rounds of a sample of 0.3"
"""What private fits were before they took a linear model by themselves."""


def audits(table: Table, names: Sequence[str]) -> None:
    """Audit the Khan run under each protection that is named."""
    sites, target = panel_sites("khan")
    for theft in THEFTS:
        type(infl.attacks.load_attack(theft)).n_trials = TRIALS
    for name in names:
        options = PROTECTIONS[name]
        run = infl.tl.fit_federated(sites, target=target, progress=False, **options)
        begun = time.process_time()
        attacks = ATTACKS.get(name, "quick")
        result = infl.tl.audit(run, sites, attacks=attacks, progress=False)
        seconds = time.process_time() - begun
        what = f"{name}: seconds of processor time, {'all' if attacks is None else 'quick' if attacks == 'quick' else 'some'} attacks, {TRIALS} trials of thefts"
        table.add(what, "reported", seconds, seeds=1)
        for row in result.itertuples():
            table.add(
                f"{name}: {row.attack}, {row.metric}",
                f"chance {row.chance:.3g}, control {row.control:.3g}",
                float(row.value),
                seeds=1,
                ok=row.status in ("holds", "not promised"),
                status=row.status,
                low=row.low,
                high=row.high,
                limit=row.limit,
                trials=None if np.isnan(row.trials) else int(row.trials),
                needed=None if np.isnan(row.needed) else int(row.needed),
                chance=row.chance,
                control=row.control,
                data="khan",
                kind=DATA_SETS["khan"].kind,
            )
        if name == "default":
            infl.pl.audit(result).figure.savefig(FIGURES / "audit.png", dpi=150, bbox_inches="tight")
        table.save()


def split(name: str, seed: int) -> tuple[dict[str, AnnData], AnnData, str]:
    """Return five sites' training data, everybody's test data (a quarter) and the target."""
    if name == "papalexi":
        use_data_folder()
        target = "replicate"
        sites = infl.pp.split_sites(infl.datasets.papalexi(), 5, stratify=target, seed=0)
    else:
        sites, target = panel_sites(name)
    rng = np.random.default_rng(seed)
    test = {s: Classifier(target=target).hold_out(a, 0.25, rng) for s, a in sites.items()}
    train = {s: a[~test[s]].copy() for s, a in sites.items()}
    return train, anndata.concat([a[test[s]] for s, a in sites.items()]), target


def accuracy(name: str, seed: int, noise: str, *, settings: dict[str, Any] | None = None, **privacy: Any) -> float:
    """Return the balanced accuracy on test data of a fit under differential privacy, by default with nothing else set."""
    train, test, target = split(name, seed)
    given = (settings or {}) | {
        "target": target,
        "min_sites": len(train),
        "validation": 0.0,
        "seed": seed,
        "progress": False,
    }
    if noise == "trusted aggregator":  # one place that has all records adds the noise once
        train = {"all": anndata.concat(list(train.values()))}
        given |= {"seal": "none", "min_sites": 1}
        privacy["colluders"] = 0
    where = "local" if noise == "local" else "distributed"
    run = infl.tl.fit_federated(train, privacy=DP(delta=DELTA, noise=where, **privacy), **given)
    infl.tl.predict(test, run.model, key=run.key)
    return _score(test, target, test.obs["infl_prediction"])


def regression(name: str, seed: int) -> float:
    """Return the balanced accuracy of logistic regression on pooled data, without any privacy; its penalty by cross-validation."""
    train, test, target = split(name, seed)
    pooled = anndata.concat(list(train.values()))
    dense = [a.X.toarray() if hasattr(a.X, "toarray") else np.asarray(a.X) for a in (pooled, test)]
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=2000, class_weight="balanced"))
    model.fit(dense[0], pooled.obs[target].astype(str))
    return _score(test, target, model.predict(dense[1]))


def _score(test: AnnData, target: str, predicted: Any) -> float:
    return float(balanced_accuracy_score(test.obs[target].astype(str), np.asarray(predicted).astype(str)))


def curve(table: Table, name: str) -> None:
    """Measure accuracy over ε, noise shared between sites, added once by a trusted aggregator, or whole by each site."""
    seeds = range(SEEDS[name])
    facts: dict[str, Any] = {"data": name, "kind": DATA_SETS[name].kind}
    free = [accuracy(name, seed, "distributed", noise_multiplier=1e-3) for seed in seeds]
    table.add(f"{name}, epsilon infinite: balanced accuracy", "reported", free, **facts)
    table.add(
        f"{name}, pooled regression: balanced accuracy", "reported", [regression(name, s) for s in seeds], **facts
    )
    settings = SMALL | {"rounds": 60, "lr": 0.01}
    before = [accuracy(name, s, "distributed", settings=settings, sample_rate=0.3, epsilon=8.0) for s in seeds]
    table.add(f"{name}, epsilon 8, {NETWORK}: balanced accuracy", "reported", before, **facts)
    for epsilon in EPSILONS:
        found = {noise: np.array([accuracy(name, seed, noise, epsilon=epsilon) for seed in seeds]) for noise in NOISE}
        for noise, values in found.items():
            table.add(f"{name}, epsilon {epsilon:g}, {noise} noise: balanced accuracy", "reported", values, **facts)
        shared, trusted, local = found.values()
        what = f"{name}, epsilon {epsilon:g}: distributed noise less"
        table.add(
            f"{what} a trusted aggregator's",
            "-0.02 at least",
            shared - trusted,
            ok=bool((shared - trusted).mean() >= -0.02),
            **facts,
        )
        table.add(f"{what} local noise", "above 0", shared - local, ok=bool((shared - local).mean() > 0), **facts)
        table.save()


def shares(table: Table) -> None:
    """Account for one site's message alone, which conspirators open under the group seal: it carries a share of the noise."""
    for epsilon in (1.0, 8.0):
        noise = noise_for(epsilon, DELTA, 0.2, 60)
        for min_sites in (3, 5):
            share = DP(delta=DELTA, noise_multiplier=noise).site_noise(min_sites)
            value = epsilon_of([(share, 0.2, 60)], DELTA)
            table.add(
                f"epsilon {epsilon:g}, min_sites {min_sites}: epsilon against conspirators", "reported", value, seeds=1
            )
    table.save()


def draw() -> None:
    """Draw accuracy over ε with the spread over seeds, as it was saved."""
    from infl.pl.colours import GREY, ORANGE, WITH_KEY_COLOUR, WITHOUT_KEY_COLOUR

    rows = {row["what"]: row for row in json.loads((RESULTS / "audit.json").read_text())["rows"]}
    figure, axes = plt.subplots(1, len(SEEDS), figsize=(11, 3.6), sharey=True, layout="constrained")
    for name, ax in zip(SEEDS, axes, strict=True):
        free = rows[f"{name}, epsilon infinite: balanced accuracy"]
        ax.axhline(free["measured"], color=GREY, linestyle="--", linewidth=1.2, label="no noise")
        ax.axhline(CHANCE[name], color=GREY, linestyle=":", linewidth=1.2, label="chance")
        for number, (noise, colour) in enumerate(
            zip(NOISE, (WITH_KEY_COLOUR, ORANGE, WITHOUT_KEY_COLOUR), strict=True)
        ):
            found = [rows[f"{name}, epsilon {e:g}, {noise} noise: balanced accuracy"] for e in EPSILONS]
            at = np.arange(len(EPSILONS)) + 0.06 * (number - 1)
            mean, spread = ([row[part] for row in found] for part in ("measured", "spread"))
            ax.errorbar(at, mean, spread, color=colour, marker="o", capsize=3, label=f"{noise} noise")
        ax.set_xticks(np.arange(len(EPSILONS)), [f"{e:g}" for e in EPSILONS])
        ax.set_xlabel(f"epsilon (delta = {DELTA:g})")
        ax.set_title(f"{name}, {free['seeds']} seeds", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0.2, 1.0)
    axes[0].set_ylabel("balanced accuracy on test data")
    axes[-1].legend(frameon=False, fontsize="small", loc="upper right")
    figure.savefig(FIGURES / "privacy_curve.png", dpi=150)


def main(parts: set[str]) -> None:
    """Run the parts that were named, or all: ``curve`` (of all sets, or of those named), ``shares``, ``table``, or a protection's rows of it."""
    mpl.use("Agg")
    warnings.simplefilter("ignore", infl.errors.InflWarning)
    table = Table("audit")
    if "curve" in parts:
        for name in SEEDS:
            if name in parts or not parts & set(SEEDS):
                curve(table, name)
        draw()
    if "shares" in parts:
        shares(table)
    audits(table, [name for name in PROTECTIONS if name in parts or "table" in parts])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(set(sys.argv[1:]) or {"curve", "shares", "table"})
