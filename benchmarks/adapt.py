"""A hospital that was not in the fit: each study of the stem cells left out, its features spelt otherwise, 30 % of them missing.

Beside it, data without a batch effect (Khan, dealt out at random), where adapting must cost nothing; and what is
refused as too far: the same data with names that do not belong to their values.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import anndata
import numpy as np
import torch

import infl
from _evidence import paired
from _table import Table
from infl.models.locked.outputs import infer
from panels import panel_sites, use_data_folder

SEEDS = range(10)
MISSING = 0.3
LINEAR: dict[str, Any] = {"width": 0, "optimiser": "sgd", "lr": 1.0, "aggregation_options": {"weight": "sites"}}
MODELS: dict[str, dict[str, Any]] = {
    "network": {},
    "network with a site coordinate": {"coordinate": 16},
    "linear": LINEAR,
    "linear, own moments": {**LINEAR, "standardise": "site"},
}
MARGIN = 0.01
"""Of balanced accuracy, by which adapting may differ from predicting where there is nothing to adapt to."""
ARMS = {"as": "predict, names as they come", "hand": "predict, harmonised by hand", "adapt": "adapt"}


def spelt_otherwise(
    adata: anndata.AnnData, rng: np.random.Generator
) -> tuple[anndata.AnnData, anndata.AnnData, dict[str, str]]:
    """Return data without some features under other names, the same by the right names, and the table of aliases.

    A third of the names has another case and a version suffix, a third are symbols of the table, a third is right.
    """
    keep = np.sort(rng.permutation(adata.n_vars)[: round((1 - MISSING) * adata.n_vars)])
    right = adata[:, keep].copy()
    other, aliases, names = right.copy(), {}, []
    for i, name in enumerate(right.var_names):
        kind = i % 3
        if kind == 1:
            aliases[name] = f"SYMBOL{i}"
        names.append(
            [f"{name.lower()}.{i % 9 + 1}" if name.startswith("ENSG") else name.upper(), f"SYMBOL{i}", name][kind]
        )
    other.var_names = names
    return other[:, rng.permutation(other.n_vars)].copy(), right, aliases


def is_refused(run: infl.FederatedRun, adata: anndata.AnnData, rng: np.random.Generator) -> bool:
    """Whether names that do not belong to their values are noticed."""
    wrong = adata.copy()
    wrong.var_names = rng.permutation(adata.var_names)
    try:
        infl.tl.adapt(run, wrong)
    except infl.errors.DataError:
        return True
    return False


def measure(table: Table, data: str, sites: dict[str, anndata.AnnData], target: str) -> None:
    """Leave each site out, for each model and seed: balanced accuracy of the arms there."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    found: dict[str, list[infl.tl.Adapted]] = defaultdict(list)
    refused: list[bool] = []
    for seed in SEEDS:
        for out, late in sites.items():
            other, right, aliases = spelt_otherwise(late, np.random.default_rng(seed))
            inside = {site: adata.copy() for site, adata in sites.items() if site != out}
            for name, options in MODELS.items():
                run = infl.tl.fit_federated(inside, target=target, seed=seed, progress=False, **options)
                task, panel = run.model.header.build_task(), run.model.header.panel
                outputs = {
                    "as": infer(other, run.model, run.key),  # without the check that refuses data that lack so much
                    "hand": infer(right, run.model, run.key),
                }
                for arm, output in outputs.items():
                    scores[name, arm][out].append(task.score(right, output, panel)["balanced_accuracy"])
                result = infl.tl.adapt(run, other, aliases=aliases, site=out)
                if np.isfinite(result.distance):
                    found[out].append(result)
                    refused.append(is_refused(run, right, np.random.default_rng(seed)))
                output = {"probability": other.obsm["infl_probabilities"].astype(np.float64)}
                scores[name, "adapt"][out].append(task.score(other, output, panel)["balanced_accuracy"])
    for (name, arm), by_site in scores.items():
        at = np.array([by_site[site] for site in sites])
        table.add(
            f"{data}, {name}: {ARMS[arm]}",
            "as measured",
            at.mean(0),
            by_site={site: round(float(np.mean(by_site[site])), 3) for site in sites},
        )
    for name in MODELS:
        ours = np.array([np.mean(scores[name, "adapt"][site]) for site in sites])
        least = 0.0 if data == "stemcells" else -MARGIN
        for arm, asked in (("hand", f"at least {least:g}"), ("as", "above 0")):
            theirs = np.array([np.mean(scores[name, arm][site]) for site in sites])
            unit = "study" if data == "stemcells" else "site"
            difference = paired(ours, theirs, unit)
            table.add(
                f"{data}, {name}: adapt minus {ARMS[arm]}",
                asked,
                difference.value,
                seeds=len(SEEDS),
                ok=difference.value >= least if arm == "hand" else difference.value > 0,
                **difference.row(),
            )
    table.add(
        f"{data}: distance of the site left out",
        "as measured",
        [np.mean([result.distance for result in found[site]]) for site in sites],
        seeds=len(SEEDS),
        by_site={site: round(float(np.mean([result.distance for result in found[site]])), 2) for site in sites},
        similarity={site: round(float(np.mean([result.similarity for result in found[site]])), 2) for site in sites},
    )
    share = float(np.mean(refused))
    table.add(f"{data}: refused with the names in disorder", "1", share, seeds=len(refused), ok=share == 1)
    table.save()


def main() -> None:
    """Measure both data sets."""
    use_data_folder()
    table = Table("adapt")
    measure(table, "stemcells", infl.pp.split_sites(infl.datasets.stemcells(), by="study"), "cell_type")
    measure(table, "khan", *panel_sites("khan"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main()
