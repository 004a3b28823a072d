"""T-REX against LoRA and its kin on MiniLM, a pretrained encoder (docs/concepts/trex.md): eight text tasks, few labels, conflicting tasks.

``python benchmarks/trex_language.py`` makes the table of what has been fitted; ``… run [SUITE …] [METHOD …] [NAME=NUMBER …]`` first fits what is not
fitted yet, the most important methods first, for hours, and may be stopped at any time. Suites are ``eight``, ``"left out"`` and ``conflict``,
methods those of :func:`methods`, such as ``"LoRA rank 20"`` (without a name: all).
Numbers are those of a setting, such as ``layers=6``; fits of another setting are not mixed. Every fit is one line of
``results/raw/trex_language.jsonl``.

Learning rate and scale of each method are chosen on validation parts of two seeds, from four by two, in shorter fits: for the eight tasks on
four of them, for conflicting tasks on these. ``rate=NUMBER scale=NUMBER`` gives both to all methods instead, which is for small forms. VeRA, which trains vectors alone, has rates ten times as large. rsLoRA is LoRA of another scale, so of those two choices one covers it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import _bases
import text_tasks
from _cell_sentences import Task
from _evidence import Method as Read
from _evidence import bootstrap, confirm, over_units
from _language import Bench, Method, Setting, adalora, logistic, lora, lora_moe, pairs, timed, tokenised, trex, vera
from _origin import CALLS, name_of
from _table import RESULTS, Table

RAW = RESULTS / "raw" / "trex_language.jsonl"
OURS, LARGE = "T-REX 4 × 8", "LoRA rank 32"
FROZEN = "heads alone"
PAIRS = "T-REX pairs, rank 20"
RATES, SCALES, CHOOSING = (3e-4, 1e-3, 3e-3, 1e-2), (0.5, 2.0), (100, 101)
CHOSEN_ON = (0, 3, 5, 6)
"""Tasks on which learning rate and scale are chosen: part of speech, hypernym branch, package language, books of the Bible."""
SEEDS = 5
PAIRS_FILES = ("src/infl/nn/trex/pairs.py", "src/infl/nn/trex/semantic_prior.py")
"""What experts in pairs consist of, chosen on validation parts; texts that judge are read with them once."""
Given = tuple[float, float] | None
FEW, DRAWS = 10, 5
"""Labels of each class of a task left out, and how often they are drawn."""


def methods(setting: Setting) -> dict[str, Method | None]:
    """Return all methods, the most important ones first."""
    return {
        FROZEN: None,
        OURS: trex(),
        LARGE: lora(32),
        "LoRA rank 12": lora(12),
        "LoRA rank 4": lora(4),
        "LoRA-MoE 8 × rank 4": lora_moe(8, 4),
        "T-REX 4 × 8, no prior": trex(prior=False),
        "T-REX 4 × 8, no prior, no router": trex(prior=False, router="none"),
        "T-REX 8 × 8": trex(8, 8),
        "LoRA rank 64": lora(64),
        "LoRA rank 20": lora(20),
        "T-REX 8 × 8, no prior": trex(8, 8, prior=False),
        "DoRA rank 32": lora(32, use_dora=True),
        "AdaLoRA rank 48 to 32": adalora(setting.steps),
        "VeRA rank 256": vera,
        PAIRS: pairs(20, router="none"),
    }


ORDER = (
    ("conflict", 0, 5),
    ("eight", 0, 4),
    ("conflict", 5, 9),
    ("left out", 0, 5),
    ("eight", 4, 99),
    ("conflict", 9, 99),
    ("left out", 5, 99),
)
"""Suites, and which of the methods come in turn; seeds go before methods, so that what is stopped is even."""


class Runs:
    """What has been fitted, one line for each."""

    def __init__(self, file: Path, setting: Setting) -> None:
        self.file, self.setting = file, asdict(setting)
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self.lines = [line for line in lines if line["setting"] == self.setting]

    def find(self, **wanted: Any) -> dict[str, Any] | None:
        """Return the line with these entries."""
        return next((line for line in self.lines if all(line.get(k) == v for k, v in wanted.items())), None)

    def add(self, **line: Any) -> dict[str, Any]:
        """Write a line at once."""
        line |= {"setting": self.setting, "code": name_of(CALLS.used())}
        self.lines.append(line)
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        what = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("setting", "code", "test"))
        print(what, f"mean {np.mean(line.get('test', np.nan)):.4f}", flush=True)
        return line


class Suites:
    """The benches, each made when it is first asked for."""

    def __init__(self, base: Path, setting: Setting) -> None:
        self.base, self.setting = base, setting
        texts, _ = text_tasks.chosen()
        self.texts, self.tasks = texts, tokenised(texts, base, setting.length)
        self.of = cache(self._of)

    def _of(self, suite: str, seed: int = 0) -> Bench:
        if suite == "choose":
            return Bench(
                [self.tasks[k] for k in CHOSEN_ON], self.base, replace(self.setting, steps=self.setting.steps // 2)
            )
        if suite == "left out":
            return Bench([t for k, t in enumerate(self.tasks) if k not in left_out(seed)], self.base, self.setting)
        if suite == "conflict":
            return self._conflict(self.setting.steps)
        if suite == "choose conflict":
            return self._conflict(self.setting.steps // 3)
        return Bench(self.tasks, self.base, self.setting)

    def _conflict(self, steps: int) -> Bench:
        """Two sets of texts, each twice: which of two labellings is wanted says the first word."""
        texts, heads = {}, []
        for number, name in enumerate(("noun file", "package language")):
            labels = sorted({label for _, label in self.texts[name]})
            turned = dict(zip(labels, labels[3:] + labels[:3], strict=True))
            texts[f"{name}, as it is"] = [(f"plain: {text}", label) for text, label in self.texts[name]]
            texts[f"{name}, turned"] = [(f"turned: {text}", turned[label]) for text, label in self.texts[name]]
            heads += [number, number]
        tasks = tokenised(texts, self.base, self.setting.length + 2)
        of = {name: task.test for name, task in zip(self.texts, self.tasks, strict=True)}
        tasks = [replace(task, test=of[task.name.partition(",")[0]]) for task in tasks]
        return Bench(tasks, self.base, replace(self.setting, steps=steps, each=2 * self.setting.each), heads)


def left_out(seed: int) -> tuple[int, int]:
    """Numbers of the two tasks that a seed does not train on; four seeds leave out all."""
    return (2 * seed) % 8, (2 * seed + 1) % 8


def choose(runs: Runs, suites: Suites, suite: str, name: str, make: Method) -> tuple[float, float]:
    """Return the learning rate and the scale that are best on validation parts."""
    found, suite = {}, "choose conflict" if suite == "conflict" else "choose"
    for lr in RATES:
        for scale in SCALES:
            rate = rate_of(make, lr)
            scores = []
            for seed in CHOOSING:
                key = {"part": suite, "method": name, "lr": rate, "scale": scale, "seed": seed}
                line = runs.find(**key)
                if line is None:
                    bench = suites.of(suite)
                    net, priors = bench.fit(make(scale), rate, seed)
                    rows = [task.parts(seed)[1] for task in bench.tasks]
                    line = runs.add(**key, validation=round(float(np.mean(bench.accuracy(net, priors, rows))), 5))
                scores.append(line["validation"])
            found[rate, scale] = np.mean(scores)
    return max(found, key=lambda setting: found[setting])


def rate_of(make: Method | None, lr: float) -> float:
    """Return a method's learning rate where that of the others is `lr`."""
    return lr * 10 if make is vera else lr


def judge(
    runs: Runs, suites: Suites, suite: str, name: str, make: Method | None, seed: int, given: Given = None
) -> None:
    """Fit with a seed, and a given or chosen learning rate and scale, and note the accuracy of each task on what judges."""
    key = {"part": "judge", "suite": suite, "method": name, "seed": seed}
    if runs.find(**key):
        return
    lr, scale = (0.0, 0.0) if make is None else given or choose(runs, suites, suite, name, make)
    lr = rate_of(make, lr) if given else lr
    if name == PAIRS and not runs.find(part="judge", suite=suite, method=name):
        settings = {"suite": suite, "rank": 20, "router": "none", "lr": lr, "scale": scale} | runs.setting
        confirm("texts", Read(name, PAIRS_FILES, settings))
    bench = suites.of(suite, seed % 4) if suite == "left out" else suites.of(suite)
    config = None if make is None else make(scale)
    (net, priors), seconds = timed(lambda: bench.fit(config, lr, seed))
    if suite == "left out":
        test = [few_labels(suites, bench, net, name, config, seed, k) for k in left_out(seed)]
        names = [suites.tasks[k].name for k in left_out(seed)]
    else:
        test = bench.accuracy(net, priors, [np.flatnonzero(task.test) for task in bench.tasks])
        names = [task.name for task in bench.tasks]
    size = sum(p.numel() for p in net.model.parameters() if p.requires_grad)
    routed = {"routing": bench.routing(net, priors)} if net.with_prior and config.rank is None else {}
    found = {"tasks": names, "test": [round(value, 5) for value in test]}
    runs.add(**key, lr=lr, scale=scale, **found, parameters=size, seconds=round(seconds, 1), **routed)


def few_labels(suites: Suites, bench: Bench, net: Any, name: str, config: Any, seed: int, k: int) -> float:
    """Accuracy of a head that is fitted to a few labels of a task which the adapter has not seen, mean over draws."""
    whole, task = suites.of("eight"), suites.tasks[k]
    prior = None
    if net.with_prior:
        prior = bench.prior_of(config, seed)(whole.latent[k])
    rest, test = np.concatenate(task.parts(seed)), np.flatnonzero(task.test)
    draws = [few(task, rest, seed, draw) for draw in range(DRAWS)]
    rows = np.unique(np.concatenate([*draws, test]))
    z = torch.empty(len(task.y), whole.latent[k].shape[1])
    z[rows] = whole.embed(net, k, rows, prior)
    heads = [logistic(z[rows], task.y[rows]) for rows in draws]
    return float(np.mean([(F.linear(z[test], **head).argmax(1) == task.y[test]).float().mean() for head in heads]))


def few(task: Task, rest: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """Draw a few labelled texts of each class."""
    rng = np.random.default_rng((seed, draw))
    y = task.y.numpy()[rest]
    return np.concatenate([rng.choice(rest[y == label], FEW, replace=False) for label in np.unique(y)])


def jobs(
    setting: Setting, suites: Collection[str], chosen: Collection[str]
) -> Iterator[tuple[str, str, Method | None, int]]:
    """Suite, method and seed of all fits of the chosen methods, in the order in which they are worth most."""
    known = list(methods(setting).items())
    for suite, start, end in ORDER:
        if suite not in suites:
            continue
        for seed in range(SEEDS if suite != "left out" else 8):
            for name, make in known[start:end]:
                if name in chosen:
                    yield suite, name, make, seed


def show(table: Table, runs: Runs) -> None:
    """Add accuracy of each method, differences to T-REX over tasks and seeds, and how T-REX routes."""
    where = f"MiniLM, upper {runs.setting['layers']} of 6 layers, {runs.setting['steps']} steps"
    for suite in ("eight", "left out", "conflict"):
        found = {name: scores_of(runs, suite, name) for name in methods(Setting(**runs.setting))}
        for name, (scores, lines) in found.items():
            if scores.size:
                more = {
                    "parameters": lines[0]["parameters"],
                    "learning_rate": lines[0]["lr"],
                    "scale": lines[0]["scale"],
                }
                more |= {"seconds": float(np.mean([line["seconds"] for line in lines])), "settings": runs.setting}
                more["by_task"] = dict(zip(sorted(lines[0]["tasks"]), scores.mean(1).round(4).tolist(), strict=False))
                part = "choose conflict" if suite == "conflict" else "choose"
                more["chosen_from"] = {
                    f"rate {lr:g}, scale {scale:g}": value for lr, scale, value in tried(runs, part, name)
                }
                routed = [line["routing"] for line in lines if "routing" in line]
                if routed:
                    more["routing"] = {key: round(float(np.mean([r[key] for r in routed])), 3) for key in routed[0]}
                table.add(f"{where}, {TITLES[suite]}: accuracy, {name}", "as measured", scores.mean(0), **more)
        parts = ("choose conflict", "choose pairs") if suite == "conflict" else ("choose",)
        for part, name in sorted({(x["part"], x["method"]) for x in runs.lines if x["part"] in parts}):
            if name in found and part != "choose pairs":
                continue
            for lr, scale, value in tried(runs, part, name):
                what = f"{where}, {part}: validation, {name}, rate {lr:g}, scale {scale:g}"
                table.add(what, "as measured", value, seeds=len(CHOOSING), settings=runs.setting)
        for ours in (name for name in found if name.startswith("T-REX")):
            for other in (name for name in found if name == OURS != ours or not name.startswith("T-REX")):
                a, b = found[ours][0], found[other][0]
                n = min(a.shape[-1], b.shape[-1]) if a.size and b.size else 0
                if n < 2:
                    continue
                difference = 100 * (a[:, :n] - b[:, :n])
                estimate = bootstrap(difference, "task") if len(a) >= 6 else over_units(difference.mean(0), "seed")
                what = f"{where}, {TITLES[suite]}: points, {ours} − {other}"
                table.add(what, "as measured", estimate.value, seeds=n, **estimate.row(), settings=runs.setting)


def tried(runs: Runs, part: str, name: str) -> Iterator[tuple[float, float, float]]:
    """Yield learning rates, scales and the mean accuracy on validation parts of what was tried for a method."""
    lines = [x for x in runs.lines if x["part"] == part and x["method"] == name]
    for lr, scale in sorted({(x["lr"], x["scale"]) for x in lines}):
        values = [x["validation"] for x in lines if (x["lr"], x["scale"]) == (lr, scale)]
        yield lr, scale, round(float(np.mean(values)), 4)


TITLES = {
    "eight": "eight text tasks",
    "left out": f"{FEW} labels a class of a task left out",
    "conflict": "conflicting labels",
}


def scores_of(runs: Runs, suite: str, name: str) -> tuple[np.ndarray, list[dict]]:
    """Return accuracies (tasks, seeds) and the lines that they are from; of tasks left out, each as often as it was."""
    lines = [x for x in runs.lines if x["part"] == "judge" and x["suite"] == suite and x["method"] == name]
    lines.sort(key=lambda line: line["seed"])
    if not lines:
        return np.empty((0, 0)), []
    by_task: dict[str, list[float]] = {}
    for line in lines:
        for task, value in zip(line["tasks"], line["test"], strict=True):
            by_task.setdefault(task, []).append(value)
    n = min(map(len, by_task.values()))
    return np.array([values[:n] for _, values in sorted(by_task.items())]), lines


def main(*words: str) -> None:
    """Run or show."""
    numbers = dict(word.split("=") for word in words if "=" in word)
    given = (float(numbers.pop("rate")), float(numbers.pop("scale"))) if "rate" in numbers else None
    setting = replace(Setting(), **{name: type(getattr(Setting(), name))(value) for name, value in numbers.items()})
    suites_named, named = [w for w in words if w in TITLES] or TITLES, [w for w in words if w in methods(setting)]
    if "run" in words:
        base = _bases.fetch("minilm")
        missing = base if isinstance(base, str) else text_tasks.fetch()
        if missing:
            print(f"left out: {missing}")
            return
        runs, suites = Runs(RAW, setting), Suites(Path(base), setting)
        for suite, name, make, seed in jobs(setting, suites_named, named or methods(setting)):
            judge(runs, suites, suite, name, make, seed, given)
    table = Table("trex_language")
    known = {json.dumps(json.loads(line)["setting"]) for line in RAW.read_text().splitlines()}
    for used in sorted(known):
        show(table, Runs(RAW, Setting(**json.loads(used))))
    table.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
