"""Regressor and survival beside pooled fits, simple baselines and wrong keys, on paired random splits of real cohorts.

A protein of breast tumours from their RNA, dealt out to five sites; survival of the GBSG2 cohort from its covariates, at five sites.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import infl
from _evidence import Estimate, over_resplits
from _table import Table
from panels import use_data_folder

SEEDS, TEST_SHARE, N_SITES = 10, 0.3, 5
PROTEIN = "ER-alpha"
METHODS = ["infl", "pooled", "infl_wrong_key", "infl_no_key", "baseline"]
GBSG2 = Path(__file__).parents[1] / "tutorials" / "gbsg2.csv"
COVARIATES = "~ age + horTh + menostat + tsize + tgrade + pnodes + progrec + estrec"


def breast_sites() -> dict[str, ad.AnnData]:
    """Return RNA with a protein's level in ``obs``, of the tumours that have both."""
    use_data_folder()
    breast = infl.datasets.breast_tcga()
    rna, protein = breast.mod["rna"], breast.mod["protein"]
    both = rna.obs_names.intersection(protein.obs_names)
    rna = rna[both].copy()
    rna.obs["protein"] = np.asarray(protein[both, PROTEIN].X).ravel().astype(float)
    rna.obs["subtype"] = breast.obs["subtype"].reindex(both).astype(str)
    return infl.pp.split_sites(rna, N_SITES, stratify="subtype", seed=0)


def gbsg2_sites() -> dict[str, ad.AnnData]:
    """Return the covariates of 686 patients as features, with time and event in ``obs``."""
    table = pd.read_csv(GBSG2)
    features = pd.get_dummies(table.drop(columns=["time", "cens"]), drop_first=True).astype(np.float32)
    features[["pnodes", "progrec", "estrec"]] = np.log1p(features[["pnodes", "progrec", "estrec"]])
    table.index = features.index = [f"patient_{i}" for i in range(len(table))]
    cohort = ad.AnnData(features.to_numpy(), obs=table, var=pd.DataFrame(index=features.columns))
    cohort.obs["died"] = cohort.obs["cens"].astype(bool)
    return infl.pp.split_sites(cohort, N_SITES, seed=0)


def judged(table: Table, name: str, data: str, found: pd.DataFrame, metrics: tuple[str, ...]) -> None:
    """Add each method's metrics, and the paired difference of federated and pooled fits."""
    values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in found.attrs["values"]:
        if not record["site"]:
            values[record["method"], record["metric"]][record["seed"]] = record["value"]

    def estimate(method: str, metric: str, less: str = "") -> Estimate:
        own = values[method, metric]
        other = values[less, metric] if less else dict.fromkeys(own, 0.0)
        return over_resplits([own[seed] - other[seed] for seed in sorted(own)], TEST_SHARE)

    for metric in metrics:
        for method in METHODS:
            if np.isfinite(list(values[method, metric].values())).all() and values[method, metric]:
                table.estimate(f"{name}, {method}: {metric}", "", estimate(method, metric), data=data)
    first = metrics[0]
    table.bound(f"{name}, federated less pooled: {first}", estimate("infl", first, "pooled"), data=data, least=-0.02)
    table.estimate(f"{name}, federated less baseline: {first}", "", estimate("infl", first, "baseline"), data=data)


def main() -> None:
    """Run both comparisons."""
    table = Table("phenotypes")
    options = {"seeds": SEEDS, "test_share": TEST_SHARE, "methods": METHODS, "progress": False}
    protein = infl.tl.compare(breast_sites(), "regressor", target="protein", **options)
    judged(table, "protein", "breast rna", protein, ("r2", "spearman", "coverage"))
    survival = infl.tl.compare(gbsg2_sites(), "survival", time="time", event="died", **options)
    judged(table, "survival", "gbsg2", survival, ("concordance", "integrated_brier"))
    table.save()


if __name__ == "__main__":
    main()
