"""The lock and the engine: what the key is worth, what it costs, and what federation costs (docs/concepts/lock.md)."""

from __future__ import annotations

import os
import sys
from functools import partial

import anndata
import numpy as np
import torch

import infl
from _evidence import over_resplits, paired
from _table import Table, ratios
from infl.attacks.keys import one_bit_off
from infl.federation.seeds import generator
from infl.keys import Keyring
from infl.models import Classifier
from infl.models.labelled import stratified_split
from infl.models.locked.outputs import infer
from infl.tl._calibrate import _Probe
from panels import PANELS, panel_sites, use_data_folder

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "10"))
QUIET = {"progress": False}
TEST_SHARE = 0.3
"""Held out of every split."""
MARGIN = 0.05
"""Of balanced accuracy: a head start that is less is none."""
METRIC = "balanced_accuracy"


def weights(run) -> torch.Tensor:
    key = run.key if run.model.header.fingerprint else None
    return torch.cat([t.ravel() for t in run.model.effective(key).values()])


def parts(name: str, seed: int) -> tuple[dict, dict, str]:
    """Return training and held-out parts of five sites."""
    sites, target = panel_sites(name, seed=seed)
    task = Classifier(target=target)
    held = {s: task.hold_out(a, 0.3, generator(seed, "held out", s)) for s, a in sites.items()}
    train = {s: a[~held[s]].copy() for s, a in sites.items()}
    return train, anndata.concat([a[held[s]] for s, a in sites.items()]), target


def right_and_wrong(table: Table) -> None:
    """Same predictions as the unkeyed run; wrong keys, no key, one bit."""
    for name in PANELS:
        difference, same, excess = [], [], {"wrong": [], "none": [], "bit": []}
        for seed in range(5):
            train, test, target = parts(name, seed)
            locked = infl.tl.fit_federated(train, target=target, seed=seed, seal="none", min_sites=3, **QUIET)
            plain = infl.tl.fit_federated(train, target=target, seed=seed, lock=None, seal="none", **QUIET)
            a, b = weights(locked), weights(plain)
            difference.append(float((a - b).norm() / b.norm()))
            task, panel = Classifier(target=target), locked.model.header.panel
            chance = 1 / len(panel["classes"])

            def value(key, *, verify=True, run=locked, task=task, test=test, panel=panel) -> float:
                return task.score(test, infer(test, run.model, key, verify=verify), panel)["balanced_accuracy"]

            right = infer(test, locked.model, locked.key)["probability"].argmax(1)
            same.append(float((right == infer(test, plain.model, None)["probability"].argmax(1)).mean()))
            excess["wrong"].append(np.mean([value(Keyring.create(), verify=False) for _ in range(10)]) - chance)
            excess["none"].append(value(None) - chance)
            excess["bit"].append(
                np.mean([value(one_bit_off(locked.key, bit), verify=False) for bit in (0, 77, 255)]) - chance
            )
        table.add(
            f"{name}: weights, locked against unkeyed, relative difference",
            "<= 1e-4",
            difference,
            ok=max(difference) <= 1e-4,
        )
        table.add(f"{name}: same predictions, share", "1", same, ok=min(same) == 1)
        for who, what in (("wrong", "ten wrong keys"), ("none", "no key"), ("bit", "one flipped bit")):
            found = over_resplits(excess[who], TEST_SHARE)
            table.bound(f"{name}: {what}, balanced accuracy above chance", found, most=0.10, data=name)


def dial(table: Table) -> None:
    """Strength against accuracy, and calibration."""
    for name in PANELS:
        curves, misses, elsewhere = [], [], []
        for seed in range(5):
            train, test, target = parts(name, seed)
            run = infl.tl.fit_federated(train, target=target, seed=seed, **QUIET)
            curve = infl.tl.lock_curve(run.model, {"held out": test}, key=run.key, n_keys=5, validation_only=False)
            curves.append(curve.query("who == 'no key'")["balanced_accuracy"].to_numpy())
            probe = _Probe(run.model, train, run.key)
            wanted = min(0.7, 0.8 * probe.value(run.model, run.key))  # protein: 0.7 can be more than the model has
            strength = infl.tl.calibrate_lock(run.model, train, key=run.key, no_key=wanted)
            misses.append(abs(probe.value(run.model) - wanted))
            assert 0 < strength < 1
            task, panel = Classifier(target=target), run.model.header.panel
            of_others = task.score(test, infer(test, run.model, None), panel)[METRIC]
            elsewhere.append(abs(of_others - wanted))
        mean = np.mean(curves, 0)
        table.add(
            f"{name}: largest rise of no-key accuracy between neighbouring strengths",
            "<= 0.05 (noise)",
            float(np.diff(mean).max()),
            seeds=5,
            ok=float(np.diff(mean).max()) <= 0.05,
            strengths=curve.query("who == 'no key'")["strength"].tolist(),
            no_key=mean.tolist(),
        )
        table.add(
            f"{name}: calibrate_lock(no_key=0.7), distance on the validation data that it chose by",
            "<= 0.05",
            misses,
            ok=max(misses) <= 0.05,
        )
        found = over_resplits(elsewhere, TEST_SHARE)
        table.estimate(f"{name}: the same, distance on held-out data", "reported", found, data=name)


def federated_against_pooled(table: Table) -> None:
    """Five sites against one place, with the simple baseline."""
    for name in PANELS:
        sites, target = panel_sites(name)
        methods = ["pooled", "alone", "alone_own", "infl", "baseline"]
        result = infl.tl.compare(sites, target=target, seeds=SEEDS, methods=methods, key_seed=0, **QUIET)
        found: dict[str, list[float]] = {method: [] for method in methods}
        for row in result.attrs["values"]:
            if row["metric"] == METRIC and not row["site"]:
                found[row["method"]].append(row["value"])
        for method, values in found.items():
            table.estimate(f"{name}: {method}", "reported", over_resplits(values, TEST_SHARE), data=name)
        for other in ("pooled", "baseline"):
            gap = paired(found["infl"], found[other], "resplit", test_share=TEST_SHARE)
            what = f"{name}: federated, locked and sealed, minus {other}"
            table.bound(what, gap, least=-0.02, data=name)


def thieves(table: Table) -> None:
    """Fine-tuning stolen weights against training from scratch."""
    from infl.attacks.thief_fine_tuning import head_start

    for name in PANELS[:2]:
        for n, row in head_start(*panel_sites(name), samples=(8, 16, 32), seeds=20).items():
            shown = row["high"] <= MARGIN
            table.add(
                f"{name}: thief with {n} samples, stolen minus scratch (paired)",
                f"<= {MARGIN:g}, shown",
                row["difference"],
                ok=True if shown else False if row["low"] > MARGIN else None,
                verdict="shown" if shown else "inconclusive",
                scratch=float(np.mean(row["scratch"])),
                stolen=float(np.mean(row["stolen"])),
                unlocked=float(np.mean(row["unlocked"])),
                interval=[row["low"], row["high"]],
                how=row["how"],
                means=row["means"],
            )


def by_hand(train: dict, target: str, rounds: int = 20) -> torch.nn.Module:
    """FedAvg as somebody would write it in an evening: the same model, steps and optimiser, neither lock nor seal."""
    classes = sorted(set().union(*(a.obs[target] for a in train.values())))
    data = {}
    for site, a in train.items():
        y = a.obs[target].astype(str).map({c: i for i, c in enumerate(classes)}).to_numpy()
        fit, held = stratified_split(y.astype(np.int64), 0.2, generator(0, "validation part", site))
        dense = a.X.toarray() if hasattr(a.X, "toarray") else a.X
        x = torch.from_numpy(np.asarray(dense, dtype=np.float32))
        data[site] = (
            x[fit],
            torch.from_numpy(y[fit].astype(np.int64)),
            x[held],
            torch.from_numpy(y[held].astype(np.int64)),
        )
    everything = torch.cat([d[0] for d in data.values()])
    panel = {"features": list(train[site].var_names), "classes": classes}
    model, local = (Classifier(target=target).build(panel) for _ in range(2))
    for m in (model, local):
        m.center.copy_(everything.mean(0))
        m.scale.copy_(everything.std(0))
    n_total = len(everything)
    for _ in range(rounds):
        average = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
        for x, y, x_held, y_held in data.values():
            model.eval()
            with torch.no_grad():
                torch.nn.functional.cross_entropy(model(x_held), y_held)
            local.load_state_dict(model.state_dict())
            local.train()
            optimiser = torch.optim.AdamW(local.parameters(), lr=1e-3, weight_decay=1e-4)
            order = torch.randperm(len(y))
            for index in order.tensor_split(max(1, round(len(y) / 32))):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(local(x[index]), y[index]).backward()
                optimiser.step()
            for k, v in local.state_dict().items():
                average[k] += v * (len(y) / n_total)
        model.load_state_dict(average)
    return model


def time_ratios(table: Table) -> None:
    """Whole fits, side by side: three panels of a few hundred samples, where a fit takes half a second, and 20,729 cells."""
    cases = {name: (*parts(name, 0)[::2], 20) for name in PANELS}
    use_data_folder()
    cells = infl.pp.split_sites(infl.datasets.papalexi(), by="replicate")
    cases["papalexi, 2 rounds"] = (cells, "perturbation", 2)
    for name, (train, target, rounds) in cases.items():
        key = Keyring.create()

        def fit(train=train, target=target, rounds=rounds, **options) -> None:
            infl.tl.fit_federated(train, target=target, rounds=rounds, **QUIET, **options)

        repeats = 7 if rounds == 20 else 3
        locked = ratios(partial(fit, key=key), partial(fit, lock=None), repeats=repeats)
        median = float(np.median(locked))
        table.add(
            f"{name}: time of a locked fit / the same without lock, both sealed",
            "<= 1.05",
            median,
            seeds=repeats,
            ok=median <= 1.05,
        )
        bare = ratios(
            partial(fit, key=key, seal="none", min_sites=3), partial(fit, lock=None, seal="none"), repeats=repeats
        )
        table.add(f"{name}: the same, neither sealed", "reported", float(np.median(bare)), seeds=repeats)
        hand = ratios(partial(fit, key=key), partial(by_hand, train, target, rounds), repeats=repeats)
        median = float(np.median(hand))
        what = f"{name}: time of a locked, sealed fit / a hand-written FedAvg loop"
        table.add(what, "<= 1.15", median, seeds=repeats, ok=median <= 1.15)


QUESTIONS = {
    "right_and_wrong": right_and_wrong,
    "dial": dial,
    "pooled": federated_against_pooled,
    "thieves": thieves,
    "time": time_ratios,
}

if __name__ == "__main__":  # python benchmarks/lock.py [QUESTION …]
    torch.set_num_threads(1)
    result = Table("lock")
    for question in sys.argv[1:] or QUESTIONS:
        QUESTIONS[question](result)
    result.save()
