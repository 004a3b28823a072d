"""Figures in texts, from ``benchmarks/results/*.json``: ``python benchmarks/_texts.py`` writes them anew.

A page has a block ``<!-- figures NAME -->`` … ``<!-- end of figures -->``; what is between the two is written here. A test fails
where a block is not what the results say, and where a page, a docstring or a tutorial has a figure that is in no block and in no
result that its section names, unless it is listed in ``untied_figures.json``.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
UNTIED = ROOT / "benchmarks" / "untied_figures.json"
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]
BLOCK = re.compile(r"(<!-- figures (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.,/-])[−-]?\d+\.\d{2,}(?!\w|\.\d)")
"""A number of two decimals or more."""
NO_FIGURE = re.compile(
    r"(?:Python|scanpy|anndata|numpy|pandas|timm|torchvision|PEFT|statsmodels)[`']*\s\d+\.\d+|\d{4}\.\d{5}"
)
"""A version of a library, a paper of arXiv."""
EXAMPLE = re.compile(r"^\s*>>>.*?(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"benchmarks?[/ ](\w+)")


def rows_of(name: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a result by what they measure."""
    return {row["what"]: row for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]}


def with_half_width(row: dict[str, Any], digits: int = 3) -> str:
    """Return an estimate and half the width of its 95 % interval.

    Examples
    --------
    >>> with_half_width({"measured": -0.0421, "interval": [-0.0921, 0.0079]})
    '−0.042 ± 0.050'
    """
    low, high = row["interval"]
    return f"{row['measured']:.{digits}f} ± {(high - low) / 2:.{digits}f}".replace("-", "−")


def domain_forms() -> str:
    """Return the table of forms of domains that were tried on subsets of patients A to D."""
    rows = rows_of("domain_forms")
    columns = {
        "mean of pairs": "ARI, mean over six pairs",
        "of triples": "ARI, mean over four triples",
        "A to D": "ARI, four patients",
        "worst pair, less the first": "ARI, the worst pair less neighbours + PCA + k-means",
        "iLISI of pairs": "iLISI, mean over six pairs",
    }
    first = next(iter(columns.values()))
    lines = ["| form | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for form in (what.removesuffix(f": {first}") for what in rows if what.endswith(first)):
        values = (f"{rows[f'{form}: {what}']['measured']:.2f}".replace("-", "−") for what in columns.values())
        lines.append(f"| {form} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def published() -> str:
    """Return the table of the published method beside ours."""
    rows = rows_of("published")
    methods = ["fedavg", "infl", "infl_wrong_key", "published", "published_wrong_key"]
    gap, time = "published, right key less wrong key", "time, published / infl"
    lines = [
        "| set, local epochs (keys) | fedavg | `infl`, right key | `infl`, wrong key | published, right key | published, wrong key "
        "| right less wrong key | its time / ours |",
        "| --- " * 8 + "|",
    ]
    for where in dict.fromkeys(what.rsplit(": ", 1)[0] for what in rows):
        cells = [with_half_width(rows[f"{where}: {method}"]) for method in methods]
        verdict = f"{with_half_width(rows[f'{where}: {gap}'])}, {rows[f'{where}: {gap}']['verdict']}"
        keys = rows[f"{where}: published"]["n_keys"]
        ratio = f"{rows[f'{where}: {time}']['measured']:.1f}"
        lines.append("| " + " | ".join([f"{where} ({keys})", *cells, verdict, ratio]) + " |")
    return "\n".join(lines) + "\n"


def demo() -> str:
    """Return the table of the demo."""
    rows, metrics = rows_of("demo"), {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
    lines = ["| method | " + " | ".join(metrics.values()) + " |", "| --- " * (1 + len(metrics)) + "|"]
    for method, label in DEMO_METHODS.items():
        cells = [label, *(with_half_width(rows[f"{method}: {metric}"]) for metric in metrics)]
        lines.append("| " + " | ".join(f"**{cell}**" if method == "infl" else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


DEMO_METHODS = {
    "pooled": "pooled in one place",
    "alone": "each hospital alone",
    "fedavg": "federated, unprotected",
    "infl": "`infl`, lock and seal, right key",
    "infl_wrong_key": "`infl`, ten wrong keys",
    "infl_no_key": "`infl`, no key",
    "published": "published keyed method, right key",
    "published_wrong_key": "published keyed method, *wrong* key",
    "baseline": "logistic regression on the pooled data",
}
PERTURBATION_ROWS = {
    "no change": "no graph, zero",
    "mean of the others": "no graph, mean",
    "ridge on loadings": "no graph, loadings",
    "ours, no graph": "no graph, ours",
    "ours, genes that share a gene set": "gene sets, ours",
    "ours, edges of the JAK-STAT pathway": "JAK-STAT edges, ours",
}


def perturbation() -> str:
    """Return the table of perturbation effects."""
    rows, metrics = rows_of("perturbation"), ("pearson_delta", "pearson_delta without the gene itself", "mse_top20")
    lines = ["| | Pearson Δ | without the gene itself | MSE, top 20 |", "| --- " * 4 + "|"]
    for label, method in PERTURBATION_ROWS.items():
        cells = [with_half_width(rows[f"{method}: {metric}"]) for metric in metrics]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    control = "positive control, same perturbation in the other replicates"
    first, last = (with_half_width(rows[f"{control}: {metric}"]) for metric in (metrics[0], metrics[2]))
    lines.append(f"| the same perturbation in the other replicates | {first} | – | {last} |")
    return "\n".join(lines) + "\n"


def histology() -> str:
    """Return the table of sections that were left out."""
    rows, metrics = rows_of("histology"), ("pearson", "pearson_top50", "mse")
    rivals = ("ridge on colour and texture", "ridge on the neighbourhood too")
    heads = [f"{metric}, {who}" for metric in ("median", "best 50", "MSE") for who in ("ridge", "ridge around", "ours")]
    lines = ["| left out | " + " | ".join(heads) + " |", "| --- " * (1 + len(heads)) + "|"]
    for section in ("B4", "C2", "C3", "C4"):
        cells = []
        for metric in metrics:
            digits = 2 if metric == "mse" else 3
            cells += [f"{rows[f'{section}: {rival}, {metric}']['measured']:.{digits}f}" for rival in rivals]
            ours = rows[f"{section}: infl, {metric}"]
            cells.append(f"{ours['measured']:.{digits}f} ± {ours['spread']:.{digits}f}")
        lines.append("| " + " | ".join([section, *cells]) + " |")
    return "\n".join(lines) + "\n"


def audit() -> str:
    """Return what the audit of a default run found, in words."""
    rows = rows_of("audit")

    def value(what: str, of: str = "default") -> float:
        return float(rows[f"{of}: {what}"]["measured"])

    profile, members = (
        rows["default: analytic_leak, correlation with the patient's profile"],
        "membership, members found at",
    )
    thief = rows["default: thief_fine_tuning, balanced accuracy with 16 samples"]
    control = float(profile["asked"].split()[-1])
    undecided = sum(what.startswith("default: ") and row.get("status") == "inconclusive" for what, row in rows.items())
    accuracy = {noise: value("balanced accuracy", f"breast rna, epsilon 8, {noise} noise") for noise in NOISES}
    without = value("balanced accuracy", "breast rna, epsilon infinite")
    told = [
        "Nothing that is promised is shown to leak: a patient's profile is read from an update with correlation "
        f"{control:.2f} unprotected and {abs(profile['measured']):.2f} from the default run; a thief with 16 labelled tumours reaches "
        f"{thief['measured']:.2f} with the stolen file and {float(thief['asked'].split()[1].rstrip(',')):.2f} without it.",
        f"A row *holds* where its interval is shown to stay below a limit; where neither is shown, it is *inconclusive* and says how many "
        f"trials would decide (rows of the default audit: {undecided}).",
        f"What is not promised shows with its size: at 1 % false alarms {value(f'{members} 1 % false alarms, by loss'):.0%} of those who "
        "were in are found.".replace("%", " %").replace("  %", " %"),
        f"`privacy=DP(epsilon=8, delta=1e-5)` bounds that and costs accuracy (breast RNA, a development set: {accuracy['distributed']:.2f} instead of "
        f"{without:.2f}, {accuracy['trusted aggregator']:.2f} with a trusted aggregator, and {accuracy['local']:.2f} if each hospital "
        "adds all the noise); the ε that is accounted for is audited too.",
    ]
    return "\n".join(told) + "\n"


def undecided() -> str:
    """Return the rows of the default audit that are inconclusive."""
    found = [(what, row) for what, row in rows_of("audit").items() if row.get("status") == "inconclusive"]
    lines = [
        "| inconclusive | value, 95 % interval | limit | trials | about as many would decide |",
        "| --- " * 5 + "|",
    ]
    for what, row in found:
        run, what = what.split(": ", 1)
        if run == "default":
            value = f"{row['measured']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            lines.append(f"| {what} | {value} | {row['limit']:.3f} | {row['trials']} | {row['needed']} |")
    return "\n".join(lines) + "\n"


NETWORK = "network of width 16, 60 rounds of a sample of 0.3"
NOISES = ("distributed", "trusted aggregator", "local")


def privacy() -> str:
    """Return the table of accuracy under differential privacy."""
    rows = rows_of("audit")

    def cell(what: str) -> str:
        return f"{rows[what]['measured']:.3f} ± {rows[what]['spread']:.3f}"

    heads = ("", "noise", "ε = 1", "2", "4", "8", "no noise", "pooled regression", "8, network")
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name, label in (("khan", "Khan"), ("breast rna", "breast RNA"), ("papalexi", "Papalexi")):
        for noise in NOISES:
            cells = [cell(f"{name}, epsilon {e}, {noise} noise: balanced accuracy") for e in (1, 2, 4, 8)]
            beside = ("epsilon infinite", "pooled regression", f"epsilon 8, {NETWORK}")
            once = [cell(f"{name}, {what}: balanced accuracy") if noise == NOISES[0] else "" for what in beside]
            lines.append("| " + " | ".join([label if noise == NOISES[0] else "", noise, *cells, *once]) + " |")
    return "\n".join(lines) + "\n"


def trex_language() -> str:
    """Return the table of adapters on conflicting labels, with the paired differences of T-REX, in both layouts, to each method."""
    rows, mark = rows_of("trex_language"), "conflicting labels: accuracy, "
    ours = ("T-REX 4 × 8", "T-REX pairs, rank 20")
    heads = ("adapted, steps", "method", "trained weights", "accuracy", "of which seeds")
    heads += tuple(f"points of {name} above it" for name in ours)
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for what, row in rows.items():
        if mark in what:
            where, method = what.split(mark)
            form = where.removeprefix("MiniLM, ").removesuffix(", ").replace("upper 1 of 6 layers", "upper layer of 6")
            spread = "" if row["spread"] is None else f" ± {row['spread']:.3f}"
            cells = [form, method, f"{row['parameters']:,}", f"{row['measured']:.3f}{spread}", str(row["seeds"])]
            for name in ours:
                against = rows.get(f"{where}conflicting labels: points, {name} − {method}")
                cells.append(with_half_width(against, 1) if against and against["seeds"] > 2 else "")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def abstention() -> str:
    """Return what abstention costs and gives, on tumours and on spots."""
    rows, shown = rows_of("abstention"), {"tumours": "breast RNA, tumours", "spots": "HER2 sections, spots"}
    what = ["error of all", "error of those kept", "share kept", "error of those kept less the promised one"]
    lines = [
        "| set | error of all | of those kept | share kept | error of those kept less the promised one |",
        "| --- " * 5 + "|",
    ]
    for name, words in shown.items():
        cells = [with_half_width(rows[f"{name}: {part}"]) for part in what]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def labels() -> str:
    """Return the table of several labels beside pooled fits and the baseline."""
    rows, methods = rows_of("labels"), ["infl", "pooled", "baseline", "infl_wrong_key"]
    less = {"federated less pooled": "verdict", "with unlabelled sites less without": ""}
    lines = [
        "| model | federated | pooled | logistic regression | wrong key | federated less pooled | with unlabelled sites less without |",
        "| --- " * 7 + "|",
    ]
    for model in ("network", "linear", "network by whole steps", "linear by whole steps"):
        if f"{model}, infl: balanced accuracy" not in rows:
            continue
        cells = [f"{rows[f'{model}, {method}: balanced accuracy']['measured']:.3f}" for method in methods]
        for what, verdict in less.items():
            row = rows[f"{model}, {what}"]
            cells.append(with_half_width(row) + (f", {row[verdict]}" if verdict else ""))
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def importance() -> str:
    """Return the rank correlations of importance over sites with that in one place, among the first hundred features there."""
    rows, shown = rows_of("importance"), {"classes": "Khan, classes", "protein": "breast RNA, ER-alpha"}
    heads = [
        f"{method}, {of}" for of in ("same model", "fitted in one place") for method in ("gradients", "permutation")
    ]
    heads += ["permutation, drawn twice in one place", "gradients, two fits in one place"]
    lines = ["| set, model | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for name, words in shown.items():
        for model in ("linear", "network", "network by whole steps"):
            found = [rows.get(f"{name}, {model}, {head}: rank correlation") for head in heads]
            cells = ["not run" if row is None else f"{row['measured']:.3f} ± {row['spread']:.3f}" for row in found]
            if any(found):
                lines.append(f"| {words}, {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def phenotype_thieves() -> str:
    """Return what a stolen file of each phenotype is worth."""
    rows = rows_of("phenotype_thieves")
    heads = ("no_key", "wrong_key", "one_bit_key")
    lines = [
        "| head, measure | a guess | right key | no key | wrong keys | one bit wrong | thief: with the file | without it | file unlocked |",
        "| --- " * 9 + "|",
    ]

    def shown(value: float) -> str:
        return "below 0" if value < 0 else f"{value:.2f}"

    for head in sorted(
        dict.fromkeys(what.split(":")[0] for what in rows), key=lambda name: name.removesuffix(" network")
    ):
        found = {what.split(": ")[1].split(", ")[0]: row for what, row in rows.items() if what.startswith(f"{head}: ")}
        if "no_key" not in found:
            continue
        metric = next(what for what in rows if what.startswith(f"{head}: no_key")).split(", ")[1].replace("_", " ")
        first = found["no_key"]
        cells = [
            f"{first['chance']:.2f}",
            f"{first['control']:.2f}",
            *(shown(found[name]["measured"]) for name in heads),
        ]
        thief = found.get("thief_fine_tuning")
        cells += (
            [f"{thief[name]:.2f}" for name in ("measured", "chance", "control")]
            if thief and thief["measured"] == thief["measured"]
            else ["not run"] * 3
        )
        lines.append(f"| {head}, {metric.replace('r2', 'R²')} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| linear model, measure | published correlations and the file | and random numbers | and the file unlocked |",
    ]
    lines.append("| --- " * 4 + "|")
    for what, row in rows.items():
        if ": summary, " in what:
            measure = what.replace(": summary", "").replace("r2", "R²")
            figures = " | ".join(f"{row[name]:.3f}" for name in ("measured", "chance", "control"))
            lines.append(f"| {measure} | {figures} |")
    many = [row for what, row in rows.items() if ": many keys, " in what]
    if many:
        lines += ["", f"| 200 random keys on each run | {' | '.join(f'run {i + 1}' for i in range(len(many)))} |"]
        lines.append("| --- " * (len(many) + 1) + "|")
        lines.append(f"| survival, mean concordance | {' | '.join(map(with_half_width, many))} |")
    return "\n".join(lines) + "\n"


def phenotypes() -> str:
    """Return the table of regressor and survival beside pooled fits and baselines."""
    rows = rows_of("phenotypes")
    shown = {
        "protein": "ER-alpha from RNA, R²",
        "protein network": "the same with `width=64`",
        "gbsg2": "GBSG2, concordance",
        "rossi": "Rossi, concordance",
        "lung": "lung cancer, concordance",
        "gse7390": "GSE7390, 76 genes, concordance",
    }
    lines = [
        "| task | federated | pooled | wrong key | ridge | `tl.cox` | federated less pooled | federated less ridge |",
        "| --- " * 8 + "|",
    ]
    for name, words in shown.items():
        metric = "r2" if name.startswith("protein") else "concordance"
        if f"{name}, infl: {metric}" not in rows:
            continue

        def cell(method: str, of: str = name, metric: str = metric) -> str:
            found = rows.get(f"{of}, {method}: {metric}")
            if found is None:
                return ""
            return "below 0" if found["measured"] < 0 else f"{found['measured']:.3f}"

        less = [rows[f"{name}, federated less {other}: {metric}"] for other in ("pooled", "baseline")]
        cells = [*map(cell, ("infl", "pooled", "infl_wrong_key", "baseline", "cox")), *map(with_half_width, less)]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    coverage = rows["protein, infl: coverage"]["measured"]
    lines += ["", f"Intervals of 90 % held {coverage:.1%} of the held-out tumours."]
    return "\n".join(lines) + "\n"


def cox() -> str:
    """Return what an attack on bins finds, and what bins cost."""
    rows = rows_of("cox")
    lines = [
        "| covariates | bins, looks | found by the attack | guessed with the bin's mean and spread |",
        "| --- " * 4 + "|",
    ]
    for what, found in rows.items():
        kind, _, rest = what.partition(", ")
        if kind == "covariates found" and f"{what}, by guesses" in rows:
            p, _, bins = rest.partition(", ")
            guessed = rows[f"{what}, by guesses"]
            lines.append(f"| {p.split()[0]} | {bins} | {percent(found['measured'])} | {percent(guessed['measured'])} |")
    away = ": coefficient less that of exact times, in standard errors"
    cohorts: dict[str, dict[str, str]] = {}
    for what, found in rows.items():
        if what.endswith(away):
            n, p, way = what.removesuffix(away).split(", ", 2)
            cohorts.setdefault(f"{n}, {p}", {})[way] = with_half_width(found, 2)
    ways = list(next(iter(cohorts.values())))
    lines += ["", "| | " + " | ".join(ways) + " |", "| --- " * (len(ways) + 1) + "|"]
    lines += [f"| {cohort} | " + " | ".join(found[way] for way in ways) + " |" for cohort, found in cohorts.items()]
    return "\n".join(lines) + "\n"


def released() -> str:
    """Return what markers tell of a person, with rules of disclosure and without."""
    rows = rows_of("released")
    lines = ["| attack | no rules | rules of disclosure |", "| --- " * 3 + "|"]
    for n in (400, 40):
        cells = []
        for way in ("no rules", "rules"):
            found = rows.get(f"membership, {n} features of 60 cases, {way}: area under the curve")
            cells.append("refused" if found is None else with_half_width(found, 2))
        lines.append(
            f"| membership, means and variances of {n} features of 60 cases: area under the curve | {' | '.join(cells)} |"
        )
    for attack in ("two rankings that differ by one person", "a gene that one site alone measured"):
        lines.append(_found(rows, attack, ("no rules", "rules")))
    return "\n".join(lines) + "\n"


def released_curves() -> str:
    """Return what curves and risk sets tell of a patient."""
    rows = rows_of("released")
    lines = ["| attack | exact times | bins |", "| --- " * 3 + "|"]
    lines += [_found(rows, attack, ("exact times", "bins")) for attack in ("inversion of curves", "adjacent risk sets")]
    lines += ["", "| attack | no rules | rules of disclosure |", "| --- " * 3 + "|"]
    return "\n".join([*lines, _found(rows, "two curves that differ by one patient", ("no rules", "rules"))]) + "\n"


def _found(rows: dict[str, dict[str, Any]], attack: str, ways: tuple[str, str]) -> str:
    cells = [percent(rows[f"{attack}, {way}: found"]["measured"]) for way in ways]
    return f"| {attack}: found | " + " | ".join(cells) + " |"


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{share:.0%}".replace("%", " %")


def adapt() -> str:
    """Return the table of hospitals that were not in the fit."""
    rows = rows_of("adapt")
    arms = ("predict, names as they come", "predict, harmonised by hand", "adapt")
    lines = ["| left out | model | " + " | ".join(arms) + " | adapt less by hand |", "| --- " * 6 + "|"]
    for what in rows:
        if not what.endswith(": adapt"):
            continue
        data, model = what.removesuffix(": adapt").split(", ", 1)
        cells = [f"{rows[f'{data}, {model}: {arm}']['measured']:.3f}" for arm in arms]
        gap = with_half_width(rows[f"{data}, {model}: adapt minus {arms[1]}"])
        lines.append("| " + " | ".join([f"{LEFT_OUT[data]}", model, *cells, gap]) + " |")
    return "\n".join(lines) + "\n"


LEFT_OUT = {"stemcells": "a study of stem cells", "khan": "a site of Khan, at random"}


def atlas() -> str:
    """Return the table of cells that were mapped to a reference."""
    rows = rows_of("atlas")
    whats = {
        "balanced accuracy": "balanced accuracy",
        "logistic regression": "logistic regression, pooled",
        "known cells unassigned": "known cells unassigned",
    }
    new = {"AUROC": "AUROC", "AUROC of the probability": "by the probability", "new cells unassigned": "unassigned"}
    heads = [*whats.values(), *(f"unseen class: {word}" for word in new.values())]
    lines = ["| query | " + " | ".join(heads) + " |", "| --- " * (1 + len(heads)) + "|"]
    for name in dict.fromkeys(what.split(":")[0] for what in rows if what.endswith(": logistic regression")):
        if "by_site" in rows[f"{name}: logistic regression"]:
            continue
        found = [rows[f"{name}: {what}"]["measured"] for what in whats]
        found += [rows[f"{name}, a class that no site had: {what}"]["measured"] for what in new]
        lines.append("| " + " | ".join([name, *(f"{value:.3f}" for value in found)]) + " |")
    return "\n".join(lines) + "\n"


def atlas_left_out() -> str:
    """Return the table of studies and patients that were left out, each with its classes that no other had."""
    rows = rows_of("atlas")
    heads = ("reference", "query", "balanced accuracy", "logistic regression, pooled", "known unassigned")
    lines = [
        "| " + " | ".join(heads) + " | unseen class: AUROC by novelty, by the probability |",
        "| --- " * (1 + len(heads)) + "|",
    ]
    for what in [what for what in rows if what.endswith(": balanced accuracy") and "by_site" in rows[what]]:
        name = what.removesuffix(": balanced accuracy")
        auroc = f"{name}, a class that no site had: AUROC"
        ours, rival = rows[auroc]["by_class"], rows[f"{auroc} of the probability"]["by_class"]
        for site in rows[what]["by_site"]:
            told = [
                f"{label.split(': ')[1]} {ours[label]:.2f}, {rival[label]:.2f}"
                for label in ours
                if label.startswith(f"{site}: ")
            ]
            parts = ("balanced accuracy", "logistic regression", "known cells unassigned")
            cells = [f"{rows[f'{name}: {part}']['by_site'][site]:.3f}" for part in parts]
            lines.append("| " + " | ".join([name, site.replace("_", " "), *cells, "; ".join(told)]) + " |")
    return "\n".join(lines) + "\n"


def atlas_keys() -> str:
    """Return what a locked reference is worth without its key, to somebody who has the query's cells."""
    rows, thief = rows_of("atlas"), "cells: a thief with the query and 30 labels"
    closed = rows["cells: balanced accuracy without the key"]
    shown = {
        f"without the key (a guess: {closed['chance']:.2f})": closed,
        "public tier, calibrated to 0.50": rows["cells: the same of a public tier that is calibrated to 0.5"],
        "a thief with the query and 30 of its labels, trained on from the locked file": rows[
            f"{thief}: balanced accuracy with the locked file"
        ],
        "the same without the file": rows[f"{thief}: without it"],
        "control: with the file unlocked": rows[f"{thief}: with the file unlocked"],
    }
    lines = ["| who | balanced accuracy |", "| --- | --- |"]
    for who, row in shown.items():
        lines.append(f"| {who} | {row['measured']:.3f} ± {row['spread']:.3f} |")
    gain = rows[f"{thief}: with the locked file less without it"]
    control = rows[f"{thief}: with the file unlocked less without it"]
    lines += [
        f"| what the locked file adds, 95 % interval | {with_half_width(gain)} |",
        f"| control: what the file adds unlocked, 95 % interval | {with_half_width(control)} |",
    ]
    return "\n".join(lines) + "\n"


def faults() -> str:
    """Return the table of scripted faults, each as it came out when it was made last."""
    rows = json.loads((ROOT / "tests" / "deploy" / "flare" / "faults.json").read_text())
    models = {True: "yes", False: "**no**", None: "not followed to its end"}
    lines = [
        f"{len(rows)} faults have been made so, {sum(row['interrupted'] for row in rows.values())} interrupted work, "
        f"{sum(bool(row['wrong']) for row in rows.values())} failed:",
        "",
        "| what is done | in the run | when, with | interrupted | everybody takes part again after | right model at every site |",
        "| --- " * 6 + "|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: (item[1]["during"], item[0])):
        missed = int(row["exchanges without some site"])
        how = [f"attempts: {row['attempts']} more"] if row["attempts"] else []
        how += [f"sums without some site: {missed}"] if missed else []
        how += [f"{row['s pause']:.0f} s between two sums"] if row["interrupted"] and not how else []
        how = how or ["nothing, as it should be" if row["calm"] else "**nothing**"]
        cells = [name, row["during"], f"{row['date']}, {row['commit']}", ", ".join(how), f"{row['seconds']:.0f} s"]
        lines.append(
            "| " + " | ".join([*cells, f"**{row['wrong']}**" if row["wrong"] else models[row["model"]]]) + " |"
        )
    return "\n".join(lines) + "\n"


def study_faults() -> str:
    """Return the table of places at which processes of a study were killed, in their order."""
    rows = json.loads((ROOT / "tests" / "deploy" / "flare" / "study_faults.json").read_text())
    lines = [
        f"{len(rows)} places have been tried so, {sum(bool(row['wrong']) for row in rows.values())} failed:",
        "",
        "| what is killed, and where | when, with | attempts more | it goes on after | as in an unbroken study |",
        "| --- " * 5 + "|",
    ]
    for name, row in rows.items():
        last = f"**{row['wrong']}**" if row["wrong"] else "yes" if row["same"] else "**no**"
        cells = [name, f"{row['date']}, {row['commit']}", str(row["attempts"]), f"{row['seconds']:.0f} s", last]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def week() -> str:
    """Return the table of the week in small: memory, disk and what was left over."""
    week = json.loads((ROOT / "tests" / "deploy" / "flare" / "week.json").read_text())
    lines = [
        f"{week['date']}: {week['rounds']:,} rounds, {week['restarts']} restarts of everybody, "
        f"{'one certificate' if week['renewed'] else '**no certificate**'} renewed; the run "
        f"{'ended' if week['finished'] else '**was not followed to its end**'}. Processes left over after {week['orphans']} restarts; "
        f"exit codes other than 0 after {week['other exit codes']}.",
        "",
        "| | memory of all its processes | largest change between restarts | folder at the end | growth per round |",
        "| --- " * 5 + "|",
    ]
    for who, megabytes in week["megabytes"].items():
        change = f"{100 * week['largest change of memory'][who]:.1f} %"
        size, growth = f"{week['bytes'][who] / 1e6:.1f} MB", f"{week['bytes per round'][who] / 1e3:.1f} kB"
        lines.append(f"| {who} | {megabytes:,.0f} MB | {change} | {size} | {growth} |")
    return "\n".join(lines) + "\n"


def containers() -> str:
    """Return what was seen of a run between containers."""
    of = json.loads((ROOT / "tests" / "deploy" / "containers.json").read_text())
    return (
        f"{of['date']}, podman {of['podman']}, {'rootless' if of['rootless'] else '**as root**'}: an image of {of['gigabytes']:.1f} GB; "
        f"{of['rounds']} rounds of Khan's samples in {of['seconds']:.0f} s from the first start, on a machine with much other work; "
        f"{'the same model' if of['models'] == 1 else '**other models**'} at all sites, right for at least {100 * min(of['right']):.0f} % of a site's samples; all ended with code {', '.join(sorted({*map(str, of['exit codes'].values())}))}. "
        f"By its health check was seen healthy before the end: {', '.join(of['healthy'])}.\n"
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "adapt": adapt,
    "atlas": atlas,
    "atlas_left_out": atlas_left_out,
    "atlas_keys": atlas_keys,
    "cox": cox,
    "phenotypes": phenotypes,
    "phenotype_thieves": phenotype_thieves,
    "abstention": abstention,
    "importance": importance,
    "labels": labels,
    "audit": audit,
    "demo": demo,
    "containers": containers,
    "faults": faults,
    "week": week,
    "study_faults": study_faults,
    "histology": histology,
    "perturbation": perturbation,
    "privacy": privacy,
    "domain_forms": domain_forms,
    "published": published,
    "released": released,
    "released_curves": released_curves,
    "trex_language": trex_language,
    "undecided": undecided,
}


def filled(text: str) -> str:
    """Return a page with its blocks as the results have them."""
    return BLOCK.sub(lambda block: block[1] + BLOCKS[block[2]]() + block[3], text)


def sections(text: str) -> Iterator[str]:
    """Yield the parts of a page between headings, without blocks and code."""
    text = NO_FIGURE.sub("", re.sub(r"```.*?```", "", BLOCK.sub("", text), flags=re.DOTALL))
    yield from re.split(r"^#+ ", text, flags=re.MULTILINE)


def numbers_in(value: Any) -> Iterator[float]:
    """Yield all numbers of a result, those in words (what was asked) too."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, str):
        yield from (float(number) for number in re.findall(r"\d+\.\d+", value))


def untied(text: str) -> list[str]:
    """Return the figures of a page that are in no block, and in no result whose script their section names, or the page's head."""
    found, parts = [], list(sections(text))
    head = {name for part in parts[:2] for name in NAMED.findall(part)}  # what is above the title, and below it
    for section in parts:
        paths = [RESULTS / f"{name}.json" for name in {*NAMED.findall(section), *head}]
        known = [abs(n) for path in paths if path.exists() for n in numbers_in(json.loads(path.read_text()))]
        for figure in FIGURE.findall(section):
            digits, value = len(figure.rsplit(".", 1)[1]), abs(float(figure.replace("−", "-")))
            if not any(abs(n - value) <= 0.5 * 10**-digits * (1 + 1e-9) for n in known):
                found.append(figure)
    return found


def docstrings(code: str) -> str:
    """Return the docstrings of a file, without examples, each as a section."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(getattr(node, "body", None), list)]
    values = [part.value for node in nodes for part in node.body if isinstance(part, ast.Expr)]
    found = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return "".join(f"\n# docstring\n{EXAMPLE.sub('', text)}\n" for text in found)


def notebook_text(notebook: str) -> str:
    """Return the text of a notebook, without code and what it printed."""
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def texts() -> Iterator[tuple[Path, str]]:
    """Yield all that people read: pages, docstrings, tutorials."""
    yield from ((page, page.read_text()) for page in PAGES)
    yield from ((path, docstrings(path.read_text())) for path in sorted((ROOT / "src").rglob("*.py")))
    yield from ((path, notebook_text(path.read_text())) for path in sorted((ROOT / "tutorials").glob("*.ipynb")))


def all_untied() -> dict[str, list[str]]:
    """Return the untied figures of each text."""
    found = {str(path.relative_to(ROOT)): untied(text) for path, text in texts()}
    return {page: sorted(figures) for page, figures in found.items() if figures}


def new_untied(listed: dict[str, list[str]], found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return figures that are not listed, or more often than listed."""
    more = {page: Counter(figures) - Counter(listed.get(page, [])) for page, figures in found.items()}
    return {page: sorted(figures.elements()) for page, figures in more.items() if figures}


def main(arguments: list[str]) -> None:
    """Write all blocks anew; with ``--list``, the list of untied figures too."""
    for page in PAGES:
        text = page.read_text()
        if (new := filled(text)) != text:
            page.write_text(new)
            print(f"{page.relative_to(ROOT)}: figures written")
    if arguments == ["--list"]:
        UNTIED.write_text(json.dumps(all_untied(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
