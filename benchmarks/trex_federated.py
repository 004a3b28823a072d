"""Averaging adapters over five sites with different tasks: exactly, part by part, and with all data in one place.

``python benchmarks/trex_federated.py [errors] [accuracy] [exact] [alternating] [naive] [seeds=5] [rounds=40]`` (without a name: all)
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
from anndata import AnnData

import infl
from _cell_sentences import LENGTH, _centred, pretrain, save_base, suite, tables
from _table import Table
from infl.federation.run import FederatedRun
from infl.federation.seeds import generator
from infl.keys import Keyring
from infl.models.locked.outputs import infer
from infl.models.registry import make_task
from infl.models.task import Step

TASKS = ["region", "section"]
OPTIONS: dict[str, Any] = {"length": LENGTH, "lr": 3e-3}
BATCH = 32
"""Of a step: all from one place, or a fifth of it from each site, so that an epoch has as many steps."""
N_WRONG_KEYS = 10
MISSING = {"site_2": "region", "site_4": "section"}
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "alternating": {"train": "alternating"},
    "naive": {"average": "naive"},
}
PHASES = ("B and heads", "A", "router, ω and g")


def parts(seed: int) -> tuple[dict[str, AnnData], dict[str, AnnData]]:
    """Five sites' spots to fit on and to judge on; two sites lack one of the two tasks when they fit."""
    adata = next(table for name, table, _ in tables() if name == "her2st")
    adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0]
    sites = infl.pp.split_sites(adata, 5, stratify="section", seed=seed)
    train, test = {}, {}
    for site, table in sites.items():
        held = generator(seed, "test", site).random(table.n_obs) < 0.3
        train[site], test[site] = table[~held].copy(), table[held].copy()
    pooled = anndata.concat([*train.values(), *test.values()])
    values = _centred(pooled, np.arange(pooled.n_obs) < sum(t.n_obs for t in train.values())).astype(np.float32)
    start = 0
    for table in (*train.values(), *test.values()):
        table.X, start = values[start : start + table.n_obs], start + table.n_obs
    for site, task in MISSING.items():
        del train[site].obs[task]
    return train, test


def fit(train: dict[str, AnnData], base: str, way: str, seed: int, rounds: int) -> FederatedRun:
    """Fit both tasks; with several sites locked and sealed."""
    one = len(train) == 1
    return infl.tl.fit_federated(
        {site: table.copy() for site, table in train.items()},
        "adapter",
        target=TASKS,
        base=base,
        rounds=rounds,
        batch_size=BATCH // len(train),
        lock=None if one else "field",
        seal="none" if one else "group",
        seed=seed,
        progress=False,
        **WAYS[way],
        **OPTIONS,
    )


def scores(run: FederatedRun, test: AnnData, key: Keyring | None, *, verify: bool = True) -> dict[str, float]:
    """Mean accuracy and balanced accuracy of both tasks on all sites' held-out spots."""
    return run.model.header.build_task().score(test, infer(test, run.model, key, verify=verify), run.model.header.panel)


def averaging_errors(train: dict[str, AnnData], base: str, way: str, seed: int) -> list[float]:
    """Relative distance between the averaged adapter's updates and the average of the sites' updates, after an epoch.

    Of parts that are trained in turn, after an epoch of each, which begins from the average of the one before.
    """
    task = make_task("adapter", {"target": TASKS, "base": base, "batch_size": BATCH, **WAYS[way], **OPTIONS})
    panel = task.agree(train)
    start, found = task.build(panel).state_dict(), []
    for turn in range(len(PHASES) if way == "alternating" else 1):
        adapters = [trained(task, panel, start, table, site, seed, turn) for site, table in train.items()]
        mean, states = task.build(panel), [module.state_dict() for module in adapters]
        start = {name: sum(s[name] for s in states) / len(states) for name in start}
        mean.load_state_dict(start, strict=False)
        off = size = 0.0
        for name, experts in mean.double().named_modules():
            if type(experts).__name__ != "RankOneExperts":
                continue
            x = torch.randn(64, experts.in_features, dtype=torch.float64)
            s = torch.rand(64, experts.n_experts, dtype=torch.float64)
            with torch.no_grad():
                wanted = sum(module.double().get_submodule(name)(x, s) for module in adapters) / len(adapters)
                off += float((experts(x, s) - wanted).square().sum())
            size += float(wanted.square().sum())
        found.append((off / size) ** 0.5)
    return found


def trained(task: Any, panel: Any, start: Any, table: AnnData, site: str, seed: int, turn: int) -> torch.nn.Module:
    """A site's adapter after an epoch."""
    module = task.build(panel)
    data = task.read(table, panel, site=site, rng=generator(seed, "validation part", site))
    module.load_state_dict(start, strict=False)
    optimiser = torch.optim.AdamW(module.parameters(), lr=task.lr, weight_decay=0.0)
    batches = np.array_split(generator(seed, "batches", site).permutation(data.train), max(1, len(data.train) // BATCH))
    for number, index in enumerate(batches):
        optimiser.zero_grad()
        task.loss(module, data.batch(index), Step(turn + 1, len(PHASES), number, len(batches))).backward()
        optimiser.step()
    return module


def main(*words: str, seeds: int = 5, rounds: int = 40) -> None:
    """The error of averaging; then each way of averaging beside the same adapter on pooled data."""
    numbers = dict(word.split("=") for word in words if "=" in word)
    seeds, rounds = int(numbers.get("seeds", seeds)), int(numbers.get("rounds", rounds))
    table, chosen = Table("trex_federated"), [w for w in words if w in ("errors", "accuracy")] or ["errors", "accuracy"]
    with tempfile.TemporaryDirectory() as folder:
        _, corpus, vocabulary = suite()
        base = save_base(pretrain(corpus, len(vocabulary), steps=60), vocabulary, Path(folder))
        data = [parts(seed) for seed in range(seeds)]
        for average in [w for w in words if w in WAYS] or WAYS:
            what = f"her2st, five sites, two tasks, {average} averaging"
            if "errors" in chosen:
                errors = np.array([averaging_errors(data[seed][0], base, average, seed) for seed in range(seeds)])
                for turn, values in enumerate(errors.T):
                    of = f" in the turn of {PHASES[turn]}" if average == "alternating" else ""
                    asked = average == "exact" or (average == "alternating" and turn < 2)
                    add(table, f"{what}: relative error of the averaged update{of}", "≤ 1e-5", values, 1e-5, asked)
            if "accuracy" not in chosen:
                continue
            federated, pooled, wrong, none = [], [], [], []
            for seed, (train, test) in enumerate(data):
                held = anndata.concat(test)
                run = fit(train, base, average, seed, rounds)
                federated.append(scores(run, held, run.key)["mean_accuracy"])
                others = [scores(run, held, Keyring.create(), verify=False) for _ in range(N_WRONG_KEYS)]
                wrong.append(np.mean([found["mean_balanced_accuracy"] for found in others]))
                none.append(scores(run, held, None)["mean_balanced_accuracy"])
                whole = fit({"all": anndata.concat(train, join="outer")}, base, average, seed, rounds)
                pooled.append(scores(whole, held, None)["mean_accuracy"])
            chance = np.mean([1 / len(classes) for classes in run.model.header.panel["tasks"].values()])
            stored = sum(tensor.numel() for tensor in run.model.stored.values())
            table.add(f"{what}: weights that travel in a round", "as measured", float(stored), seeds=1)
            table.add(f"{what}: mean accuracy, federated", "as measured", federated)
            table.add(f"{what}: mean accuracy, the same adapter on pooled data", "as measured", pooled)
            lost = 100 * (np.asarray(pooled) - np.asarray(federated))
            add(table, f"{what}: points lost to pooled", "≤ 0.5", lost, 0.5, average != "naive")
            for label, values in ((f"{N_WRONG_KEYS} wrong keys", wrong), ("no key", none)):
                row = f"{what}: balanced accuracy, {label}"
                add(table, row, f"≤ {chance + 0.1:.2f} (chance {chance:.2f})", values, chance + 0.1, average != "naive")
            table.save()
    table.save()


def add(table: Table, what: str, asked: str, values: Any, limit: float, is_asked: bool) -> None:
    """Add a row of which something is asked, or not."""
    if is_asked:
        table.add(what, asked, values, ok=bool(np.mean(values) <= limit))
    else:
        table.add(what, "as measured", values)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    main(*sys.argv[1:])
