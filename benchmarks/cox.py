"""Cox regression with one baseline: what its bins tell of patients, and what they cost (docs/survival.md).

``python benchmarks/cox.py [attack] [cost]``: both without. Patients are simulated.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from statsmodels.duration.hazard_regression import PHReg

import infl
from _bins import FROM_SITES, FROM_ZERO, solved
from _evidence import over_units
from _table import Table
from infl.tl._cox_search import departures_of

SEEDS = 100
STARTS = 10
"""Of the solver; the attacker takes the end that fits best."""
EFFECT = 0.5
COHORTS = ((150, 3), (300, 1), (1000, 1), (5000, 5))
"""Numbers of patients and of covariates, three sites."""
WAYS = {
    "one baseline": {},
    "one baseline, Breslow's ties": {"ties": "breslow"},
    "one baseline, bins of five": {"min_departures": 5},
    "a baseline for each site": {"strata": "site"},
}


def attack(table: Table) -> None:
    """Covariates found to a twentieth of their deviation, beside guesses that have the bin's mean and spread."""
    for p in (1, 2):
        for what, n, distances in (
            ("bins of five, six looks", 5, FROM_ZERO),
            ("bins of five, four looks", 5, FROM_SITES),
            ("default bins, four looks", departures_of(p), FROM_SITES),
        ):
            one = partial(solved, n, p, distances=distances, starts=STARTS)
            found, guessed = np.array(Parallel(n_jobs=2)(delayed(one)(seed) for seed in range(SEEDS))).T
            name = f"covariates found, {p} covariate{'s' * (p > 1)}, {what}"
            for which, values in (("", found), (" by guesses", guessed), (" above guesses", found - guessed)):
                table.add(f"{name},{which}".rstrip(","), "reported", values, **over_units(values, "bin").row())


def cohort(n: int, p: int, seed: int) -> ad.AnnData:
    """Return simulated patients of three sites, of whom about two in three are seen to the event."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    lived, seen = rng.exponential(10 * np.exp(-EFFECT * x[:, 0])), rng.uniform(1, 40, n)
    obs = pd.DataFrame(x, columns=[f"x{j}" for j in range(p)], index=[f"p{i}" for i in range(n)])
    return ad.AnnData(np.zeros((n, 1)), obs=obs.assign(time=np.minimum(lived, seen), event=lived <= seen))


def cost(table: Table) -> None:
    """How far a coefficient is from that of exact times in the pooled data, in standard errors of the latter."""
    key = infl.keys.Keyring.create()
    for n, p in COHORTS:
        away: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in range(10):
            adata = cohort(n, p, seed)
            names = [f"x{j}" for j in range(p)]
            exact = PHReg(adata.obs["time"], adata.obs[names], status=adata.obs["event"], ties="efron").fit()
            sites = infl.pp.split_sites(adata, 3, seed=seed)
            for way, options in WAYS.items():
                found = infl.tl.cox(sites, "time", "event", "~ " + " + ".join(names), key=key, **options).table
                away[way].append((coefficient(found) - exact.params[0]) / exact.bse[0])
        for way, values in away.items():
            what = f"{n} patients, {p} covariate{'s' * (p > 1)}, {way}: coefficient less that of exact times, in standard errors"
            table.add(what, "reported", values, **over_units(values, "cohort").row())


def coefficient(table: pd.DataFrame) -> float:
    """Return the coefficient of the first covariate."""
    return float(table.loc["x0", "coefficient"])


def main(parts: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    table = Table("cox")
    for name, part in (("attack", attack), ("cost", cost)):
        if name in parts:
            part(table)
            table.save()


if __name__ == "__main__":
    main(sys.argv[1:] or ["attack", "cost"])
