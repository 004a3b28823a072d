"""The published keyed method beside ours, at our number of local epochs and at its own, with right and wrong keys.

Five seeds, each another split, and five keys (docs/concepts/published.md). ``python benchmarks/published.py [KEYS]`` goes on where it
was broken off: what was measured with a key is not measured again.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from typing import Any

import numpy as np
import torch

import infl
from _evidence import equivalence, over_resplits, paired
from _table import RESULTS, Table
from infl.nn.published import LOCAL_EPOCHS
from panels import panel_sites

N_KEYS, N_SEEDS = 5, 5
METRIC = "balanced_accuracy"
PANELS = ("khan", "breast protein")
TEST_SHARE = 0.3
"""As :func:`infl.tl.compare` has it."""
MARGIN = 0.05
"""Of balanced accuracy: a wrong key that differs from the right one by less is as good."""
BUDGETS = {"our epochs": 1, "its own epochs": LOCAL_EPOCHS["classification"]}
OURS = ["fedavg", "infl", "infl_wrong_key", "baseline"]
THEIRS = ["published", "published_wrong_key"]
RAW = RESULTS / "raw" / "published.json"
"""What was measured, by panel, budget, method and key: one number a seed, and seconds."""


def measure(name: str, budget: str, methods: list[str], key_seed: int) -> dict[str, Any]:
    """Return each method's balanced accuracy by seed, and its seconds per fit."""
    sites, target = panel_sites(name)
    table = infl.tl.compare(
        sites,
        target=target,
        seeds=N_SEEDS,
        methods=methods,
        local_epochs=BUDGETS[budget],
        key_seed=key_seed,
        progress=False,
    )
    rows = table.query("metric == @METRIC").set_index("method")
    values: dict[str, list[float]] = {method: [] for method in methods}
    for record in table.attrs["values"]:
        if record["metric"] == METRIC and not record["site"]:
            values[record["method"]].append(record["value"])
    return {m: {"values": values[m], "seconds": float(rows.loc[m, "seconds"])} for m in methods}


def collect(n_keys: int) -> dict[str, Any]:
    """Measure what was not measured yet, key by key."""
    raw = json.loads(RAW.read_text()) if RAW.exists() else {}
    for budget, key_seed, name in product(BUDGETS, range(n_keys), PANELS):
        case = f"{name}, {budget}, key {key_seed}"
        if case not in raw:
            raw[case] = measure(name, budget, THEIRS if key_seed else OURS + THEIRS, key_seed)
            RAW.parent.mkdir(exist_ok=True)
            RAW.write_text(json.dumps(raw, indent=1) + "\n")
    return raw


def values_of(raw: dict[str, Any], name: str, budget: str, method: str) -> np.ndarray:
    """Return a method's accuracies (splits, keys), for as many keys as were measured."""
    cases = [raw.get(f"{name}, {budget}, key {key}", {}) for key in range(N_KEYS)]
    return np.array([case[method]["values"] for case in cases if method in case]).T


def summarise(raw: dict[str, Any], table: Table, name: str, budget: str) -> None:
    """Add the rows of a panel at a budget: each method, and what it differs by."""
    where = f"{name}, {budget}"
    found = {method: values_of(raw, name, budget, method) for method in OURS + THEIRS}
    for method, values in found.items():
        estimate = over_resplits(values, TEST_SHARE)
        n_keys = values.shape[1] if method in THEIRS else 1
        seconds = float(np.mean([raw[c][method]["seconds"] for c in raw if c.startswith(where) and method in raw[c]]))
        table.estimate(f"{where}: {method}", "as measured", estimate, data=name, n_keys=n_keys, seconds=seconds)
    right, wrong = found["published"], found["published_wrong_key"]
    gap = paired(right.mean(1), wrong.mean(1), "resplit", test_share=TEST_SHARE)
    verdict = equivalence(gap, MARGIN)
    what = f"{where}: published, right key less wrong key"
    table.estimate(what, f"equal within {MARGIN}?", gap, data=name, verdict=verdict.verdict, p=verdict.p)
    gain = paired(found["infl"][:, 0], right.mean(1), "resplit", test_share=TEST_SHARE)
    table.estimate(f"{where}: infl less published, right keys", "as measured", gain, data=name)
    if right.shape[1] > 1:
        spread = float(right.std(axis=1, ddof=1).mean())
        table.add(f"{where}: published, standard deviation over keys", "as measured", spread, seeds=right.shape[1])
    first = raw[f"{where}, key 0"]  # measured one after the other
    ratio = first["published"]["seconds"] / first["infl"]["seconds"]
    table.add(f"{where}: time, published / infl", "as measured", ratio, seeds=N_SEEDS)


def main(n_keys: int) -> None:
    """Measure, then write the table of all that was measured."""
    raw, table = collect(n_keys), Table("published")
    for name, budget in product(PANELS, BUDGETS):
        if f"{name}, {budget}, key 0" in raw:
            summarise(raw, table, name, budget)
    table.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    main(int(sys.argv[1]) if sys.argv[1:] else N_KEYS)
