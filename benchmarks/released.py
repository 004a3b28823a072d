"""What released statistics tell members of a consortium of a person, with rules of disclosure and without (docs/markers.md, survival.md).

``python benchmarks/released.py``: some minutes. People are simulated; those who look know what is opened, and of whom they look for the
values. Without rules the attacks are to succeed, so that what rules stop is known to be there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from anndata import AnnData

import infl
from _evidence import over_units
from _table import Table
from infl.errors import DataError, SettingsError
from infl.privacy import Disclosure, DisclosureRules, membership_auc
from infl.sums import State, run_sums
from infl.tl import _markers
from infl.tl._cox_search import risk_of
from infl.tl._cox_sums import Patients
from infl.tl._times import ends_of, grid_sums

COHORTS = 20
PEOPLE = 40
"""Of each of three sites, half in each group."""
RATIO = 2.0
"""Features per record, above which rules close means."""
WIDE, NARROW = 400, 40
"""Numbers of features above that ratio and below it."""

Sites = Mapping[str, AnnData]


def cohort(n_vars: int, seed: int) -> dict[str, AnnData]:
    """Return three sites of cases and controls who differ by chance alone, with times to an event."""
    rng, sites = np.random.default_rng(seed), {}
    for name in "abc":
        lived, seen = rng.exponential(10, PEOPLE), rng.uniform(1, 40, PEOPLE)
        obs = {"arm": np.array(["case", "control"])[np.arange(PEOPLE) % 2], "months": np.minimum(lived, seen)}
        table = pd.DataFrame(obs | {"died": lived <= seen}, index=[f"{seed} {name} {i}" for i in range(PEOPLE)])
        sites[name] = AnnData(rng.normal(5.0, 1.0, (PEOPLE, n_vars)), obs=table)
        sites[name].var_names = [f"gene {j}" for j in range(n_vars)]
    return sites


def under(on: bool) -> Any:
    return Disclosure(DisclosureRules(features_per_record=RATIO, records_per_parameter=0)) if on else nullcontext()


def opened(sites: Sites) -> State:
    """Return what all sites know after markers were asked for; what is refused or closed is NaN."""
    known: list[State] = []

    def spied(*args: Any, **kwargs: Any) -> State:
        known.append(run_sums(*args, **kwargs))
        return known[-1]

    shape = 2, next(iter(sites.values())).n_vars
    with mock.patch.object(_markers, "run_sums", spied), suppress(DataError):
        infl.tl.rank_genes_groups(dict(sites), "arm")
    return known[-1] if known else {name: np.full(shape, np.nan) for name in ("n", "mean", "squares")}


def cases(sites: Sites) -> np.ndarray:
    return np.vstack([adata.X[adata.obs["arm"] == "case"] for adata in sites.values()])


def membership(n_vars: int, on: bool, seed: int) -> float:
    """How well means and variances of cases tell them from strangers, as the area under the ROC curve; NaN where they are closed."""
    sites = cohort(n_vars, seed)
    with under(on):
        state = opened(sites)
    inside = cases(sites) - 5.0
    mean, var = state["mean"][0] - 5.0, state["squares"][0] / (len(inside) - 1) - 1.0
    strangers = np.random.default_rng(1000 + seed).normal(size=inside.shape)
    scores = [of @ mean + (of**2 - 1) @ var / 2 for of in (inside, strangers)]
    if np.isnan(scores[0]).all():
        return float("nan")
    return float((scores[0][:, None] > scores[1]).mean())


def two_questions(on: bool, seed: int) -> float:
    """Share of a person's values that are the difference of the sums with and without that person."""
    sites = cohort(6, seed)
    with under(on):
        first, second = opened(sites), opened({**sites, "b": sites["b"][1:].copy()})
    told = first["n"][0] * first["mean"][0] - second["n"][0] * second["mean"][0]
    return float((np.abs(told - sites["b"].X[0]) < 1e-6).mean())


def one_site_alone(on: bool, seed: int) -> float:
    """Share of a site's own means that are told, of a gene that it alone measured."""
    sites = cohort(6, seed)
    own = [sites["a"].X[sites["a"].obs["arm"] == arm, 0].mean() for arm in ("case", "control")]
    for name in "bc":
        sites[name] = sites[name][:, 1:].copy()
    infl.pp.harmonise(sites, features="union")
    with under(on):
        state = opened(sites)
    gene = sites["a"].var_names.get_loc("gene 0")
    return float((np.abs(state["mean"][:, gene] - own) < 1e-6).mean())


def patients(seed: int) -> Patients:
    """Return patients with three covariates."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 3))
    lived, seen = rng.exponential(10 * np.exp(-0.5 * x[:, 0])), rng.uniform(1, 40, 200)
    return Patients(np.minimum(lived, seen), lived <= seen, np.zeros(200, dtype=int), x)


def ends(of: Patients, binned: bool) -> np.ndarray:
    return ends_of(run_sums(grid_sums(1, by_event=True), {"all": of}, None)) if binned else np.unique(of.time)


def inverted(binned: bool, seed: int) -> float:
    """Share of patients alone in their bin: a step of the curve is their time."""
    of = patients(seed)
    bins = of.bins(ends(of, binned))
    return float((np.bincount(bins)[bins] == 1).mean())


def adjacent(binned: bool, seed: int) -> float:
    """Share of patients whose covariates are a difference of adjacent risk sets."""
    of = patients(seed)
    cuts = ends(of, binned)
    bins = of.bins(cuts)
    risk = risk_of(bins, of.event, of.x, np.ones(len(of.time)), len(cuts))
    found = np.zeros(len(of.time), dtype=bool)
    for n, x in (
        (risk.left, risk.left_x),
        (risk.died, risk.died_x),
        (risk.left - risk.died, risk.left_x - risk.died_x),
    ):
        found |= np.abs((x / np.maximum(n, 1e-12)[:, None])[bins] - of.x).max(axis=1) < 1e-6
    return float(found.mean())


def two_curves(on: bool, seed: int) -> float:
    """Whether curves with and without a patient, on the same grid, tell in which bin that patient left."""
    sites, grid = cohort(1, seed), [5.0, 10.0, 20.0, 40.0]
    month = sites["b"].obs["months"].iloc[0]
    told = []
    with under(on):
        for of in (sites, {**sites, "b": sites["b"][1:].copy()}):
            try:
                told.append(infl.tl.survival(of, "months", "died", grid=grid).curves)
            except (DataError, SettingsError):
                return 0.0
    first, second = told
    if len(first) != len(second) or not np.allclose(first["time"], second["time"]):
        return 0.0
    left = -np.diff(np.append(first["at_risk"] - second["at_risk"], 0))
    where = np.flatnonzero(np.abs(np.nan_to_num(left)) > 0.5)
    true = min(np.searchsorted(first["time"], month), len(first) - 1)
    return float(len(where) == 1 and where[0] == true)


def row(table: Table, what: str, values: np.ndarray, **more: object) -> None:
    table.add(what, "reported", values, **over_units(values, "cohort").row(), **more)


def main() -> None:
    warnings.simplefilter("ignore")
    table = Table("released")
    for n_vars, on in ((WIDE, False), (WIDE, True), (NARROW, False), (NARROW, True)):
        values = np.array([membership(n_vars, on, seed) for seed in range(COHORTS)])
        name = f"membership, {n_vars} features of {3 * PEOPLE // 2} cases, {'rules' if on else 'no rules'}"
        known = values[~np.isnan(values)]
        table.add(f"{name}: share opened", "reported", float(len(known) / COHORTS), seeds=COHORTS)
        if len(known):
            most = membership_auc(2 * n_vars, 3 * PEOPLE // 2)
            row(table, f"{name}: area under the curve", known, computed=most)
    attacks: dict[str, Callable[[bool, int], float]] = {
        "two rankings that differ by one person": two_questions,
        "a gene that one site alone measured": one_site_alone,
        "two curves that differ by one patient": two_curves,
    }
    for name, attack in attacks.items():
        for on in (False, True):
            values = np.array([attack(on, seed) for seed in range(COHORTS)])
            table.add(f"{name}, {'rules' if on else 'no rules'}: found", "reported", values, seeds=COHORTS)
    for name, attack in (("inversion of curves", inverted), ("adjacent risk sets", adjacent)):
        for binned in (False, True):
            values = np.array([attack(binned, seed) for seed in range(COHORTS)])
            table.add(f"{name}, {'bins' if binned else 'exact times'}: found", "reported", values, seeds=COHORTS)
    table.save()


if __name__ == "__main__":
    main()
