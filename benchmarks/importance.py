"""Importance of features over sites beside the same in one place: rank correlation among the hundred that matter most there.

Classes of small round blue cell tumours and a protein of breast tumours from RNA, each at five sites. The same model is judged over sites and on the
pooled data; a model that was fitted to the pooled data is judged there, too. Two ceilings: the same model judged twice on the pooled data, by
exchanges that were drawn with other seeds; and two models that were fitted to the pooled data with other seeds, by gradients.

``python benchmarks/importance.py [SET …]``
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import anndata as ad
import pandas as pd
from scipy import stats

import infl
from _table import Table
from infl.errors import InflWarning
from phenotypes import LINEAR, breast_sites

TOP, SEEDS = 100, 5
METHODS = ("gradients", "permutation")
N_REPEATS = 10
"""Of permutations over sites; on the pooled data as many, so that both are drawn."""
WHOLE = LINEAR | {"validation": 0.0, "batch_size": 1000}
"""Steps of gradient descent on all records, the same wherever they lie."""
STEEP = {"width": 64, "dropout": 0.0, "optimiser": "sgd", "lr": 0.1, "weight_decay": 0.0, "rounds": 60}
KINDS = {
    "linear": WHOLE,
    "network": {"width": 64},
    "network by whole steps": STEEP | {"validation": 0.0, "batch_size": 1000},
}
"""The last: a network whose steps are on all records too, so that a fit over sites and one in one place are the same."""


def correlation(over: pd.DataFrame, pooled: pd.DataFrame) -> float:
    """Return the rank correlation among the features that matter most in one place."""
    top = pooled.index[:TOP]
    return float(stats.spearmanr(over.loc[top, "importance"], pooled.loc[top, "importance"])[0])


def main() -> None:
    """Fit, and judge over sites and in one place."""
    warnings.simplefilter("ignore", InflWarning)
    table = Table("importance")
    cases: dict[str, tuple[str, dict[str, ad.AnnData], dict[str, Any]]] = {
        "classes": ("khan", infl.datasets.khan_sites(), {"model": "classifier", "target": "tumour_class"}),
        "protein": ("breast rna", breast_sites(), {"model": "regressor", "target": "protein"}),
    }
    for name, (data, sites, what) in cases.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        whole = {"site_1": ad.concat(sites)}
        for kind, options in KINDS.items():
            found: dict[str, list[float]] = {}
            before = None
            for seed in range(SEEDS):
                run = infl.tl.fit_federated(sites, **what, **options, seed=seed, progress=False)
                pooled = infl.tl.fit_federated(
                    whole, **what, **options, seed=seed, progress=False, lock="none", seal="none", min_sites=1
                )
                for method in METHODS:
                    how = {"method": method, "validation_only": False, "n_repeats": N_REPEATS}
                    over = infl.tl.feature_importance(run, sites, **how)
                    same = infl.tl.feature_importance(run, whole, **how)
                    other = infl.tl.feature_importance(pooled, whole, **how)
                    found.setdefault(f"{method}, same model", []).append(correlation(over, same))
                    found.setdefault(f"{method}, fitted in one place", []).append(correlation(over, other))
                    if method == "permutation":
                        again = infl.tl.feature_importance(run, whole, **how, seed=1)
                        found.setdefault(f"{method}, drawn twice in one place", []).append(correlation(again, same))
                    elif before is not None:
                        found.setdefault(f"{method}, two fits in one place", []).append(correlation(before, other))
                    before = other if method == "gradients" else before
            for what_of, values in found.items():
                ceiling = what_of.endswith(("drawn twice in one place", "two fits in one place"))
                ok = None if ceiling else sum(values) / len(values) >= 0.95
                what_is = f"{name}, {kind}, {what_of}: rank correlation"
                table.starts(what_is, "" if ceiling else "at least 0.95", values, data=data, ok=ok, by_seed=values)
            table.save()


if __name__ == "__main__":
    main()
