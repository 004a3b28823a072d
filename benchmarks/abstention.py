"""Leaving out what a classifier is unsure of: how many are left out, and how often the others are wrong, on paired random splits.

Subtypes of breast tumours from RNA and regions of spots of breast cancer from counts, each dealt out to five sites, by a linear model. A
fifth is asked to be left out, of records that were neither fitted to nor calibrated on.

``python benchmarks/abstention.py [tumours] [spots]``
"""

from __future__ import annotations

import sys
import warnings

import anndata as ad
import numpy as np

import infl
from _evidence import over_resplits
from _table import Table
from infl.errors import InflWarning
from infl.federation.held_out import folds
from infl.models import Classifier
from panels import use_data_folder
from phenotypes import LINEAR, breast_sites

SEEDS, TEST_SHARE, N_SITES, REJECT = {"tumours": 40, "spots": 10}, 0.3, 5, 0.2
"""Of tumours more: 21 calibrate a threshold, so that the share kept varies by 0.08 from split to split."""


def spots() -> dict[str, ad.AnnData]:
    """Return labelled spots, dealt out to sites, as logarithms."""
    use_data_folder()
    sections = infl.datasets.her2st_labelled()
    whole = sections if isinstance(sections, ad.AnnData) else ad.concat(sections)
    whole = whole[whole.obs["region"].notna() & (whole.obs["region"].astype(str) != "undetermined")].copy()
    whole.obs["region"] = whole.obs["region"].astype(str)
    sites = infl.pp.split_sites(whole, N_SITES, stratify="region", seed=0)
    infl.pp.normalize_total(sites, target_sum=1e4)
    infl.pp.log1p(sites)
    return sites


def measured(sites: dict[str, ad.AnnData], target: str, seed: int) -> dict[str, float]:
    """Return the share that was kept, errors of all and of those kept, and what was promised of these."""
    train, test = next(folds(Classifier(target=target), sites, "observations", TEST_SHARE, seed))
    run = infl.tl.fit_federated(train, target=target, seed=seed, progress=False, **LINEAR)
    infl.tl.predict(test, run, reject=REJECT)
    held = ad.concat(list(test.values()))
    kept = held.obs["infl_prediction"].astype(str).to_numpy() != "unassigned"
    classes = np.array(run.model.header.panel["classes"])
    right = classes[held.obsm["infl_probabilities"].argmax(1)] == held.obs[target].astype(str).to_numpy()
    promised = next(iter(test.values())).uns["infl"]["reject"]["error"]
    error = 1 - right[kept].mean()
    return {
        "share kept": kept.mean(),
        "error of all": 1 - right.mean(),
        "error of those kept": error,
        "error of those kept less error of all": error - (1 - right.mean()),
        "error of those kept less the promised one": error - promised,
        "share kept less the asked one": kept.mean() - (1 - REJECT),
    }


def main() -> None:
    """Run the splits."""
    warnings.simplefilter("ignore", InflWarning)
    table = Table("abstention")
    for name, data, sites_of, target in (
        ("tumours", "breast rna", breast_sites, "subtype"),
        ("spots", "her2st sections", spots, "region"),
    ):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        sites = sites_of()
        found = [measured(sites, target, seed) for seed in range(SEEDS[name])]
        for what in found[0]:
            values = [row[what] for row in found]
            estimate = over_resplits(values, TEST_SHARE)
            if "promised" in what or "asked" in what:
                ok, asked = abs(estimate.value) <= 0.03, "mean within 0.03"
            else:
                ok, asked = (estimate.value < 0, "below 0") if "error of all" in what and "less" in what else (None, "")
            table.estimate(f"{name}: {what}", asked, estimate, data=data, ok=ok, by_seed=values)
        table.save()


if __name__ == "__main__":
    main()
