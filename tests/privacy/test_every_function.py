"""Every public function under rules of disclosure: each sum that it opens was judged, or it refuses before any sum leaves a site.

The tables below have a call of each function that runs under rules; one that is not there fails the first test.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.privacy.conftest import KEY, LOOSE

import infl
from infl.errors import InflError, SettingsError
from infl.privacy import Disclosure
from infl.privacy.seal import NoSeal
from infl.sums import over_sites
from infl.sums.disclosure import Judge, Opening

pytestmark = pytest.mark.filterwarnings("ignore")
Ask = Callable[[dict[str, AnnData]], Any]

JUDGED: dict[str, Ask] = {
    "pp.combat": lambda s: infl.pp.combat(s, "arm", covariates="age", key=KEY),
    "pp.highly_variable_genes": lambda s: infl.pp.highly_variable_genes(s, n_top_genes=4, key=KEY),
    "pp.highly_variable_genes seurat_v3": lambda s: infl.pp.highly_variable_genes(
        s, n_top_genes=4, layer="counts", flavor="seurat_v3", span=1.0, key=KEY
    ),
    "pp.moments": lambda s: infl.pp.moments(s, key=KEY),
    "pp.normalize_total": lambda s: infl.pp.normalize_total(s, layer="counts", key=KEY),
    "pp.pca": lambda s: infl.pp.pca(s, n_comps=3, key=KEY),
    "pp.qc_summary": lambda s: infl.pp.qc_summary(s, layer="counts", key=KEY),
    "pp.regress_out": lambda s: infl.pp.regress_out(s, ["age", "arm"], key=KEY),
    "pp.remove_batch_effect": lambda s: infl.pp.remove_batch_effect(s, "arm", key=KEY),
    "pp.scale": lambda s: infl.pp.scale(s, key=KEY),
    "tl.cluster": lambda s: infl.tl.cluster(s, 3, use_rep="X_pca", n_init=1, key=KEY),
    "tl.cluster ward": lambda s: infl.tl.cluster(s, 3, method="ward", use_rep="X_pca", n_init=1, key=KEY),
    "tl.de": lambda s: infl.tl.de(s, "~ arm + age", contrast=("arm", "case", "control"), key=KEY),
    "tl.de deqms": lambda s: infl.tl.de(s, "~ arm", method="deqms", counts_key="peptides", key=KEY),
    "tl.feature_importance": lambda s: infl.tl.feature_importance(
        fitted(),
        s,
        n_repeats=2,
        validation_only=False,
        key=KEY,
    ),
    "tl.fit_federated": lambda s: infl.tl.fit_federated(s, target="arm", rounds=1, key=KEY, progress=False),
    "tl.glm": lambda s: infl.tl.glm(s, "died ~ arm + age", family="binomial", key=KEY),
    "tl.glm gaussian": lambda s: infl.tl.glm(s, "age ~ arm", key=KEY),
    "tl.glm poisson": lambda s: infl.tl.glm(s, "visits ~ arm", family="poisson", key=KEY),
    "tl.rank_genes_groups": lambda s: infl.tl.rank_genes_groups(s, "arm", pts=True, key=KEY),
    "tl.rank_genes_groups wilcoxon": lambda s: infl.tl.rank_genes_groups(s, "arm", method="wilcoxon", key=KEY),
    "tl.survival": lambda s: infl.tl.survival(s, "months", "died", "arm", key=KEY),
}
"""Calls that open something under rules."""
REFUSED: dict[str, Ask] = {
    "pp.highly_variable_genes batch_key": lambda s: infl.pp.highly_variable_genes(s, batch_key="site", key=KEY),
    "tl.cluster gmm": lambda s: infl.tl.cluster(s, 3, method="gmm", use_rep="X_pca", key=KEY),
    "tl.cluster spheres": lambda s: infl.tl.cluster(s, 3, method="spheres", use_rep="X_pca", key=KEY),
    "tl.cluster leiden": lambda s: infl.tl.cluster(s, method="leiden", use_rep="X_pca", key=KEY),
    "tl.de deseq2": lambda s: infl.tl.de(s, "~ arm", method="deseq2", layer="counts", key=KEY),
    "tl.de voom": lambda s: infl.tl.de(s, "~ arm", method="voom", layer="counts", key=KEY),
    "tl.fit_federated engine": lambda s: infl.tl.fit_federated(s, target="arm", key=KEY, engine=object()),
    "tl.rank_genes_groups logreg": lambda s: infl.tl.rank_genes_groups(s, "arm", method="logreg", key=KEY),
}
"""Methods of such functions that refuse in one line; functions without rules all do."""
NO_SUM: dict[str, Ask] = {
    "pp.filter_cells": lambda s: infl.pp.filter_cells(s, min_genes=1),
    "pp.harmonise": lambda s: infl.pp.harmonise(s),
    "pp.log1p": lambda s: infl.pp.log1p(s, layer="counts"),
    "pp.panel_of": lambda s: infl.pp.panel_of(s),
}
"""Calls that open nothing, and so run."""


@cache
def fitted() -> Any:
    return infl.tl.fit_federated(people(), target="arm", rounds=1, key=KEY, progress=False)


@pytest.fixture(scope="module", autouse=True)
def fitted_without_rules() -> None:
    """Before any rules are in force, so that none of the fit's sums is among those of what is asked of it."""
    fitted()


def public() -> dict[str, Any]:
    found = {f"{m.__name__[5:]}.{name}": getattr(m, name) for m in (infl.pp, infl.tl) for name in m.__all__}
    return {name: function for name, function in found.items() if not inspect.isclass(function)}


def people() -> dict[str, AnnData]:
    """60 people of each of three sites, with what any function asks for."""
    rng, sites, n = np.random.default_rng(0), {}, 60
    for s in range(3):
        obs = pd.DataFrame(index=[f"{s} {i}" for i in range(n)])
        obs["arm"] = np.where(np.arange(n) % 2, "case", "control")
        obs["patient"] = (np.arange(n) // 6).astype(str)
        obs["age"], obs["visits"] = rng.normal(50, 10, n), rng.poisson(3.0, n)
        obs["months"], obs["died"] = rng.gamma(3.0, 10.0, n), rng.integers(0, 2, n)
        x = rng.poisson(rng.gamma(4.0, 2.0, (n, 1)) * np.linspace(0.5, 2.0, 8)).astype(float)
        var = pd.DataFrame({"peptides": rng.integers(1, 9, 8)}, index=[f"gene {j}" for j in range(8)])
        adata = AnnData(np.log1p(x), obs=obs, var=var, layers={"counts": x}, uns={"log1p": {"base": None}})
        adata.obsm["X_pca"], adata.obsm["spatial"] = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
        sites[f"site_{s}"] = adata
    return sites


@contextmanager
def watched() -> Iterator[list[tuple[bool, str]]]:
    """Whether each thing that is sealed was judged, and what it is for."""
    seen: list[tuple[bool, str]] = []
    judged: dict[int, Any] = {}
    asking, now = [False], [False]
    opening, share, fitted = Judge.opening, Opening.share, over_sites.fitted

    def opened(self: Judge, purpose: str, *args: Any) -> Opening:
        asking[0] = True
        found = opening(self, purpose, *args)
        asking[0] = False
        return found

    def shared(self: Opening, site: str, arrays: Any) -> Any:
        found = share(self, site, arrays)
        judged[id(found)] = found  # kept, so that no other gets its place
        return found

    def laid(update: Any, arrays: Any, *args: Any, **kwargs: Any) -> Any:
        now[0] = asking[0] or id(arrays) in judged
        return fitted(update, arrays, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "opening", opened)
        patch.setattr(Opening, "share", shared)
        patch.setattr(over_sites, "fitted", laid)
        sealing = NoSeal.seal

        def sealed(self: NoSeal, context: Any, *args: Any, **kwargs: Any) -> Any:
            of_fit = any(ok and kind == "fit: records" for ok, kind in seen)
            seen.append((now[0] or of_fit, context.kind))
            now[0] = False
            return sealing(self, context, *args, **kwargs)

        patch.setattr(NoSeal, "seal", sealed)
        yield seen


def of_sites(*, ruled: bool) -> list[str]:
    takes = {name: f for name, f in public().items() if "sites" in inspect.signature(f).parameters}
    return sorted(name for name, f in takes.items() if getattr(f, "ruled", False) is ruled)


def test_every_function_that_runs_under_rules_is_in_the_table() -> None:
    assert {name.split()[0] for table in (JUDGED, NO_SUM) for name in table} == {*of_sites(ruled=True)}
    others = [f for f in public().values() if "sites" not in inspect.signature(f).parameters]
    assert not any(getattr(f, "ruled", False) or getattr(f, "between", False) for f in others)


@pytest.mark.parametrize("name", JUDGED)
def test_every_sum_that_is_opened_was_judged(name: str) -> None:
    with Disclosure(LOOSE) as rules, watched() as seen:
        JUDGED[name](people())
    assert seen and [purpose for judged, purpose in seen if not judged] == []
    assert all(rules.register(site).n_released for site in people())


@pytest.mark.parametrize("name", of_sites(ruled=False))
def test_every_other_function_is_refused_before_it_looks_at_anything(name: str) -> None:
    with Disclosure(LOOSE) as rules, watched() as seen, pytest.raises(SettingsError, match="disclosure rules") as error:
        public()[name](people())
    assert seen == [] and not rules._registers and "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rules_is_refused_before_any_sum_leaves(name: str) -> None:
    with Disclosure(LOOSE) as rules, watched() as seen, pytest.raises(InflError, match="disclosure rules") as error:
        REFUSED[name](people())
    assert seen == [] and not rules._registers and "\n" not in str(error.value)
    assert ", since " in str(error.value) or name == "tl.fit_federated engine"


@pytest.mark.parametrize("name", NO_SUM)
def test_what_opens_no_sum_runs(name: str) -> None:
    with Disclosure(LOOSE) as rules, watched() as seen:
        NO_SUM[name](people())
    assert seen == [] and not rules._registers


def test_the_watch_sees_a_sum_that_was_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched() as seen:
        infl.pp.moments(people(), key=KEY)
    assert seen and not any(judged for judged, _ in seen)
    monkeypatch.setattr(Judge, "__init__", lambda self, *args: None)  # what is behind a sum need not be said
    with Disclosure(LOOSE), watched() as seen:
        infl.pp.filter_genes.__wrapped__.__wrapped__(people(), min_cells=1, inplace=False, key=KEY)
    assert seen and not any(judged for judged, _ in seen)
