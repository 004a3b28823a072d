"""A stolen file of each phenotype: no key, wrong keys, a key with one bit changed, and a thief who has sixteen samples.

A protein of breast tumours (regressor), survival of GBSG2, three columns of labels with gaps, and subtypes with two covariates beside
the features (classifier). Keys are tried on three runs, each of another seed; the thief trains on from
files of other halves of one run. Controls: the right key, and the file unlocked.

``python benchmarks/phenotype_thieves.py [keys] [thief] [HEAD …]``
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
from threadpoolctl import threadpool_limits

import infl
from _table import Table
from infl.attacks import AuditContext, Finding, load_attack
from infl.errors import InflWarning
from labels import COLUMNS, tumours
from phenotypes import breast_sites, gbsg2_sites
from thieves import add_findings

SEEDS, N_TRIALS = range(3), 10
KEYS = ("no_key", "wrong_key", "one_bit_key", "importance_thief")
THIEF = "thief_fine_tuning"
PARTS: dict[str, tuple[tuple[str, ...], Sequence[int]]] = {"keys": (KEYS, SEEDS), "thief": ((THIEF,), SEEDS[:1])}
"""Attacks, and how many runs they are tried on; the thief takes longest."""


def with_age() -> dict[str, ad.AnnData]:
    """Return the tumours with a number and a label beside the features, of which a fifth is missing."""
    sites, rng = breast_sites(), np.random.default_rng(0)
    for adata in sites.values():
        age = np.round(rng.normal(58, 12, adata.n_obs))
        adata.obs["age"] = np.where(rng.random(adata.n_obs) < 0.2, np.nan, age)
        adata.obs["side"] = rng.choice(["left", "right"], adata.n_obs)
    return sites


HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "regressor": (breast_sites, {"model": "regressor", "target": "protein", "width": 64}),
    "survival": (gbsg2_sites, {"model": "survival", "time": "time", "event": "died", "width": 64}),
    "labels": (tumours, {"target": COLUMNS}),
    "classifier with covariates": (with_age, {"target": "subtype", "covariates": ["age", "side"]}),
}
"""Data, and what is fitted to them."""


def measured(head: str, attacks: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, str], list[Finding]]:
    """Return what each attack found, over seeds."""
    make, what = HEADS[head]
    found: dict[tuple[str, str], list[Finding]] = {}
    for seed in seeds:
        sites = make()
        run = infl.tl.fit_federated(sites, **what, seed=seed, progress=False)
        context = AuditContext(run, sites, seed)
        for name in attacks:
            attack: Any = load_attack(name)
            if name == THIEF:
                attack.n_trials = N_TRIALS
            with threadpool_limits(1):
                for finding in attack.run(context):
                    found.setdefault((name, finding.metric), []).append(finding)
    return found


def main() -> None:
    """Attack the heads that are named, or all, by the parts that are named, or both."""
    warnings.simplefilter("ignore", InflWarning)
    table = Table("phenotype_thieves")
    for part in [name for name in sys.argv[1:] if name in PARTS] or PARTS:
        for head in [name for name in sys.argv[1:] if name in HEADS] or HEADS:
            add_findings(table, measured(head, *PARTS[part]), f"{head}: ")
            table.save()


if __name__ == "__main__":
    main()
